"""The judge of crafted uploads: what a server that errs in one way is found for."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import httpx
import pytest

from bench_site import SmallSite, Spoil, small_site, version_of
from jumplora_adapters.errors import FormatError
from jumplora_bench.reliability import uploads
from jumplora_bench.reliability.findings import Findings
from jumplora_bench.reliability.traffic import Expected, Traffic
from jumplora_bench.reliability.uploads import _Run, _says_why, _upload
from jumplora_bench.reliability.versions import PROMPTS, Version
from small_http import Asked, Said

KEPT, FRESH = 0, 1  # what the random number says


class SmallOracle:
    """What files must answer, by their digests; a file it does not know cannot be read."""

    def __init__(self, known: Sequence[Version]) -> None:
        self.texts_of: dict[bytes, tuple[str | None, ...]] = {
            version.content: version.texts for version in known
        }

    def texts(self, path: Path) -> tuple[str | None, ...]:
        """Of a file. Raises FormatError."""
        try:
            return self.texts_of[path.read_bytes()]
        except KeyError:
            raise FormatError("not a file of ours") from None


@pytest.fixture
def run(tmp_path: Path) -> Iterator[_Run]:
    sound = {task: version_of(tmp_path / "made", task, "sound") for task in ("kept", "fresh")}
    crafted = [version_of(tmp_path / "made", task, "crafted") for task in ("kept", "fresh")]
    with small_site(tmp_path, sound["kept"], sound["fresh"], *crafted) as site:
        (site.store / "fresh" / "current").unlink()
        oracle: Any = SmallOracle([*sound.values(), *crafted])
        yield _Run(site, Findings(), oracle, sound, tmp_path)


def site_of(run: _Run) -> SmallSite:
    assert isinstance(run.site, SmallSite)
    return run.site


def crafted(run: _Run, task: str) -> Version:
    (found,) = [
        each for each in site_of(run).known.values()
        if each.task == task and each != run.sound[task]
    ]  # fmt: skip
    return found


def failed(run: _Run) -> set[str]:
    return {fault.what.partition(":")[0] for fault in run.findings.faults}


def upload(run: _Run, change: Callable[[bytes], bytes], task: int = KEPT) -> None:
    """One upload of a task, and what is made of its answer."""
    rng = random.Random()
    rng.randrange = lambda *bounds: task  # type: ignore[method-assign]
    _upload(run, lambda content, _: change(content), rng, 0)


def refused(content: bytes) -> bytes:
    return content + b" spoilt"


def accepted(run: _Run, task: str) -> Callable[[bytes], bytes]:
    return lambda content: crafted(run, task).content


def generations(change: Callable[[Asked, Said], Said]) -> Spoil:
    return lambda asked, said: change(asked, said) if asked.path == "/generate" else said


def test_a_refusal_that_says_why_is_right(run: _Run) -> None:
    upload(run, refused)
    assert run.statuses == {"422": 1}
    assert failed(run) == set()
    assert run.findings.checks["refused and served as before"] == 1


def test_an_accepted_file_answers_as_it_says_and_is_taken_back(run: _Run) -> None:
    site = site_of(run)
    for number, task in ((KEPT, "kept"), (FRESH, "fresh")):
        upload(run, accepted(run, task), number)
        assert failed(run) == set(), task
    assert run.statuses == {"201": 2}
    assert run.findings.checks["accepted answers"] == 2 * len(PROMPTS)
    assert site.current("kept") == run.sound["kept"].digest
    assert site.current("fresh") == ""
    assert not list(run.scratch.glob("accepted-*"))


@pytest.mark.parametrize(
    ("said", "check"),
    [
        pytest.param(Said.of({"error": "e", "error_type": "t"}, 500), "status", id="500"),
        pytest.param(Said.of({"error": "e", "error_type": "t"}, 302), "status", id="302"),
        pytest.param(Said.of({}, 422), "refusal says why", id="an empty refusal"),
        pytest.param(Said(422, b"no JSON"), "refusal says why", id="no JSON"),
        pytest.param(
            Said.of({"error": "x" * 5000, "error_type": "t"}, 422), "refusal says why", id="long"
        ),
        pytest.param(Said(200, b"", missing=9), "upload", id="cut"),
    ],
)
def test_a_wrong_answer_to_an_upload(said: Said, check: str, run: _Run) -> None:
    site_of(run).spoil = lambda asked, right: said if asked.method == "PUT" else right
    upload(run, refused)
    assert failed(run) == {check}


@pytest.mark.parametrize("status", [503, 507])
def test_a_store_that_cannot_take_it_now_may_say_so(status: int, run: _Run) -> None:
    said = Said.of({"error": "e", "error_type": "store_full"}, status)
    site_of(run).spoil = lambda asked, right: said if asked.method == "PUT" else right
    upload(run, refused)
    assert failed(run) == set()


def test_a_refused_upload_that_changes_what_is_served_is_found(run: _Run) -> None:
    site = site_of(run)

    def spoil(asked: Asked, said: Said) -> Said:
        if asked.method == "PUT":
            site.publish(crafted(run, "kept"))
        return said

    site.spoil = spoil
    upload(run, refused)
    assert failed(run) == {"refused and served as before"}


def test_an_accepted_file_that_cannot_be_read_is_found(run: _Run) -> None:
    site_of(run).spoil = lambda asked, said: Said.of({}, 201) if asked.method == "PUT" else said
    upload(run, refused)
    assert "accepted" in failed(run)


@pytest.mark.parametrize(
    ("change", "checks"),
    [
        pytest.param(
            lambda asked, said: Said.of({"generated_text": "?"}, x_adapter_version="0" * 64),
            {"accepted answers"},
            id="another text",
        ),
        pytest.param(lambda asked, said: Said(200, b"half"), {"accepted answers"}, id="no JSON"),
        pytest.param(
            lambda asked, said: Said.of({}, 500), {"accepted answers", "template"}, id="500"
        ),
        pytest.param(lambda asked, said: Said(200, missing=5), {"accepted"}, id="cut"),
        pytest.param(lambda asked, said: Said.of({}, 422), set(), id="refused: defaults too large"),
    ],
)
def test_answers_of_an_accepted_file(
    change: Callable[[Asked, Said], Said], checks: set[str], run: _Run
) -> None:
    site_of(run).spoil = generations(change)
    upload(run, accepted(run, "fresh"), FRESH)
    assert failed(run) == checks


@pytest.mark.parametrize(
    ("kind", "checks"),
    [
        pytest.param("generation", set(), id="told as such"),
        pytest.param("internal", {"not finite"}, id="told as another error"),
    ],
)
def test_numbers_that_are_not_finite(kind: str, checks: set[str], run: _Run) -> None:
    made = crafted(run, "fresh")
    run.oracle.texts_of[made.content] = (None,) * len(PROMPTS)  # type: ignore[attr-defined]
    told = Said.of({"error": "e", "error_type": kind}, 500)
    site_of(run).spoil = generations(lambda asked, said: told)
    upload(run, accepted(run, "fresh"), FRESH)
    assert failed(run) == checks


def test_a_spoilt_request_carries_a_sound_file_and_more(run: _Run) -> None:
    seen: list[Asked] = []
    site_of(run).before_answer = lambda asked: seen.append(asked)
    upload(run, lambda content: b"HEADER x-content-sha256\n0000")
    sent = next(asked for asked in seen if asked.method == "PUT")
    assert sent.headers["x-content-sha256"] == "0000"
    assert sent.body.startswith(run.sound["kept"].content)
    assert failed(run) == set()


def test_a_server_that_ended_is_started_anew(run: _Run) -> None:
    site = site_of(run)
    site._server = type("S", (), {"process": type("P", (), {"returncode": -9})})()
    (site.store / "fresh" / "current").write_text("x")
    site.kill()
    traffic = Traffic(site.url, ["kept"], Expected(), run.findings)
    run.is_answering = False
    uploads._restart(run, traffic)
    assert failed(run) == {"process"}
    assert site.is_alive
    assert run.is_answering
    assert not (site.store / "fresh").exists()
    assert site.current("kept") == run.sound["kept"].digest


def test_a_refusal_has_a_text_and_a_type() -> None:
    whole = {"error": "e", "error_type": "t"}
    assert _says_why(httpx.Response(422, json=whole))
    lacks: tuple[object, ...] = ({**whole, "error": ""}, {"error": "e"}, [], "x")
    for lacking in lacks:
        assert not _says_why(httpx.Response(422, json=lacking))
