"""Traffic whose answers are checked, reloads and swaps: what is wrong with a spoilt server."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import httpx
import pytest

from bench_site import SmallSite, Spoil, small_site, version_of
from jumplora_bench.reliability import swaps as swaps_module
from jumplora_bench.reliability.findings import Findings
from jumplora_bench.reliability.reload import Reload
from jumplora_bench.reliability.site import wait_until
from jumplora_bench.reliability.swaps import STEPS, TURNS, Swaps
from jumplora_bench.reliability.traffic import Expected, Traffic, asks_right
from jumplora_bench.reliability.versions import PROMPTS, Version
from small_http import Asked, Said

PATIENCE = 10.0


@pytest.fixture
def versions(tmp_path: Path) -> list[Version]:
    """Two versions of `a`, two of `b`."""
    return [version_of(tmp_path / "made", task, name) for task in "ab" for name in ("old", "new")]


@pytest.fixture
def site(tmp_path: Path, versions: list[Version]) -> Iterator[SmallSite]:
    with small_site(tmp_path, *versions) as site:
        yield site


def checks(findings: Findings) -> set[str]:
    """Names of those that failed."""
    return {fault.what.partition(":")[0] for fault in findings.faults}


def generates(change: Said) -> Spoil:
    """Every generation is answered so."""
    return lambda asked, said: change if asked.path == "/generate" else said


@pytest.mark.parametrize(
    ("spoilt", "wrong"),
    [
        pytest.param(None, "", id="right"),
        pytest.param(Said.of({}, 503), "503 {}", id="refused"),
        pytest.param(Said(body=b"half an ans"), "version  answered", id="no version told"),
        pytest.param(Said(500, missing=5), "no answer", id="cut"),
        pytest.param("digest", "version ffffffff answered", id="another version"),
        pytest.param("text", "'?' instead of 'old 0'", id="another text"),
        pytest.param("list", "None instead of 'old 0'", id="no object"),
        pytest.param("garbage", "None instead of 'old 0'", id="no JSON"),
    ],
)
def test_all_answers_of_a_version_are_its_own(
    spoilt: Said | str | None, wrong: str, site: SmallSite, versions: list[Version]
) -> None:
    own = versions[0].digest
    named = {
        "digest": Said.of({"generated_text": "?"}, x_adapter_version="f" * 64),
        "text": Said.of({"generated_text": "?"}, x_adapter_version=own),
        "list": Said.of([], x_adapter_version=own),
        "garbage": Said(body=b"{", headers={"x-adapter-version": own}),
    }
    if spoilt is not None:
        site.spoil = generates(named[spoilt] if isinstance(spoilt, str) else spoilt)
    found = asks_right(lambda body: site.try_request("POST", "/generate", json=body), versions[0])
    assert found == wrong


def traffic_of(
    site: SmallSite, versions: list[Version], answers: int = 6
) -> tuple[Findings, Traffic]:
    """Some traffic for both tasks."""
    findings, expected = Findings(), Expected()
    for version in (versions[0], versions[2]):
        expected.begin(version)
    with Traffic(site.url, ["a", "b"], expected, findings, clients=2) as traffic:
        assert wait_until(
            lambda: traffic.answered >= answers or len(findings.faults) >= answers, PATIENCE
        )
    return findings, traffic


def test_traffic_asks_every_task_and_every_prompt(site: SmallSite, versions: list[Version]) -> None:
    seen: set[tuple[str, str]] = set()
    site.before_answer = lambda asked: seen.add((asked.json["task_id"], asked.json["inputs"]))
    findings, traffic = traffic_of(site, versions, answers=12)
    assert findings.faults == []
    assert {task for task, _ in seen} == {"a", "b"}
    assert {prompt for _, prompt in seen} == set(PROMPTS)
    assert findings.checks["answers"] == traffic.answered
    assert 0 < traffic.slowest < PATIENCE


@pytest.mark.parametrize(
    ("said", "fault"),
    [
        pytest.param(Said.of({}, 500), "traffic: no answer of", id="500"),
        pytest.param(Said(500, missing=9), "traffic: no answer of", id="cut"),
        pytest.param(Said.of({"generated_text": "old 0"}), "answers: version  of", id="no version"),
        pytest.param(Said(body=b"{"), "answers: version  of", id="no JSON"),
    ],
)
def test_traffic_tells_every_wrong_answer_and_goes_on(
    said: Said, fault: str, site: SmallSite, versions: list[Version]
) -> None:
    site.spoil = generates(said)
    findings, _ = traffic_of(site, versions)
    assert len(findings.faults) >= 6
    assert all(each.what.startswith(fault) for each in findings.faults)


def test_an_outage_excuses_no_answer_but_no_wrong_one(
    site: SmallSite, versions: list[Version]
) -> None:
    findings, expected = Findings(), Expected()
    expected.begin(versions[0])
    asked: list[str] = []
    site.before_answer = lambda each: asked.append(each.path)
    with Traffic(site.url, ["a"], expected, findings, clients=1) as traffic:
        traffic.outage_begins()
        site.kill()
        count = len(asked)
        assert wait_until(lambda: len(asked) > count + 1, PATIENCE)
        assert findings.faults == []
        site.start()
        text = Said.of({"generated_text": "wrong"}, x_adapter_version=versions[0].digest)
        site.spoil = generates(text)
        assert wait_until(lambda: bool(findings.faults), PATIENCE)
    assert "right is" in findings.faults[0].what


def test_a_reload_measures_a_plain_load_and_one_that_is_asked_for_all_along(
    site: SmallSite, versions: list[Version]
) -> None:
    findings, reload = Findings(), Reload()
    reload.run(site, findings, versions[0], versions[2], 2)
    assert findings.faults == []
    assert len(reload.plain) == len(reload.again) == 2
    assert findings.checks["answers again"] == 4


@pytest.mark.parametrize(
    ("method", "said", "failed"),
    [
        pytest.param("PUT", Said.of({"error": "x"}, 500), {"PUT", "answers again"}, id="PUT fails"),
        pytest.param("DELETE", Said.of({}, 500), {"DELETE"}, id="DELETE fails"),
    ],
)
def test_a_reload_tells_what_fails(
    method: str, said: Said, failed: set[str], site: SmallSite, versions: list[Version],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr("jumplora_bench.reliability.reload.ASK_SECONDS", 0.1)

    def spoil(asked: Asked, right: Said) -> Said:
        if asked.method != method:
            return right
        (site.store / asked.path.rpartition("/")[2] / "current").unlink(missing_ok=True)
        return said

    site.spoil = spoil
    findings = Findings()
    Reload().run(site, findings, versions[0], versions[2], 1)
    assert checks(findings) - {"answers again as soon as one load"} == failed


class KilledPublisher:
    """Dies after the steps up to and with `pointer`, before or after the version is current."""

    def __init__(self, site: SmallSite) -> None:
        self._site = site
        self.steps: list[str | None] = []

    def publish(self, version: Version, step: str | None) -> bool:
        self.steps.append(step)
        if len(self.steps) % 2:
            self._site.publish(version)
        else:
            (self._site.store / version.task / ".tmp-x").write_bytes(b"half")
        return True


def swapped(
    site: SmallSite, versions: list[Version], count: int = len(TURNS)
) -> tuple[Swaps, Findings]:
    findings, expected = Findings(), Expected()
    by_task: dict[str, Sequence[Version]] = {"a": versions[:2], "b": versions[2:]}
    for each in by_task.values():
        expected.begin(each[0])
    traffic = Traffic(site.url, ["a", "b"], expected, findings)
    current = {task: each[0] for task, each in by_task.items()}
    swaps = Swaps(site, findings, by_task, expected, traffic, current)
    with traffic:
        swaps.run(count, KilledPublisher(site), 0, lambda done: None)  # type: ignore[arg-type]
    swaps.check_kept()
    return swaps, findings


def test_swaps_of_a_right_server_find_nothing(site: SmallSite, versions: list[Version]) -> None:
    swaps, findings = swapped(site, versions)
    assert findings.faults == []
    assert (swaps.made["http"], swaps.made["publisher"], swaps.made["server"]) == (6, 3, 1)
    assert {name for name in swaps.made if "after" in name} == {
        f"publisher killed after {step!r}" for step in STEPS[:3]
    }
    assert site.starts == 3, "the first, after it was killed, and to tidy up"
    assert all(site.current(task) == version.digest for task, version in swaps.current.items())
    assert findings.checks["acknowledged and kept"] <= 1


def lose_a_file(site: SmallSite) -> None:
    """Whatever was published is gone after a start."""
    for path in site.store.rglob("*.safetensors"):
        path.unlink()


def leave_a_file(site: SmallSite) -> None:
    if site.starts:
        (site.store / "a" / ".tmp-left").touch()


def spoil_pointer(site: SmallSite) -> None:
    if site.starts:
        for task in "ab":
            (site.store / task / "current").write_text("garbage\n")


@pytest.mark.parametrize(
    ("on_start", "check"),
    [
        pytest.param(lose_a_file, "no version lost", id="a killed server loses versions"),
        pytest.param(leave_a_file, "no leftover", id="a start does not tidy up"),
        pytest.param(spoil_pointer, "pointer is sound", id="a kill spoils the pointer"),
    ],
)
def test_swaps_find_what_a_killed_server_spoils(
    on_start: object, check: str, site: SmallSite, versions: list[Version],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(swaps_module, "FOLLOW_SECONDS", 0.1)
    site.on_start = lambda: on_start(site)  # type: ignore[operator]
    _, findings = swapped(site, versions, TURNS.index("server") + 1)
    assert check in checks(findings)


def test_swaps_find_a_server_that_answers_with_a_version_before(
    site: SmallSite, versions: list[Version]
) -> None:
    stale = Said.of({"generated_text": "old 0"}, x_adapter_version=versions[0].digest)

    def spoil(asked: Asked, said: Said) -> Said:
        is_of_a = asked.path == "/generate" and asked.json["task_id"] == "a"
        return stale if is_of_a and site.current("a") != versions[0].digest else said

    site.spoil = spoil
    _, findings = swapped(site, versions)
    assert "answers" in checks(findings)


def test_swaps_find_a_server_that_does_not_follow(
    site: SmallSite, versions: list[Version], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(swaps_module, "FOLLOW_SECONDS", 0.1)
    never = Said.of({"version": "0" * 64, "failure": None})
    site.spoil = lambda asked, said: (
        never if asked.path.startswith("/v1/adapters/") and asked.method == "GET" else said
    )
    _, findings = swapped(site, versions, 2)
    assert "server follows" in checks(findings)


def test_a_put_that_is_refused_is_a_fault(site: SmallSite, versions: list[Version]) -> None:
    site.spoil = lambda asked, said: Said.of({}, 500) if asked.method == "PUT" else said
    _, findings = swapped(site, versions, 1)
    assert "PUT" in checks(findings)


def test_waiting_has_a_limit() -> None:
    began = time.monotonic()
    assert not wait_until(lambda: False, 0.1)
    assert 0.1 <= time.monotonic() - began < 5
    assert wait_until(lambda: True, 0.0)


def test_no_answer_in_time_is_none(site: SmallSite) -> None:
    response = site.try_request("GET", "/livez")
    assert isinstance(response, httpx.Response)
    site.kill()
    assert site.try_request("GET", "/livez") is None
    assert site.status("a") == {}
