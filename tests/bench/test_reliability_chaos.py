"""The store goes away in three ways, and a first start of a server that is besieged."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from bench_site import SmallSite, small_site, version_of
from fake_interpreter import fake_interpreter
from jumplora_bench.reliability import chaos, disasters
from jumplora_bench.reliability.chaos import ChaosPlan, _Run
from jumplora_bench.reliability.demo import _all_ready, learned
from jumplora_bench.reliability.findings import Findings
from jumplora_bench.reliability.siege.quiet import PROMPTS
from jumplora_bench.reliability.site import Site, commit_of, running, settings_of
from jumplora_bench.server_process import ServerEnded
from small_http import Asked, Said, http_server

PLAN = ChaosPlan(Path(), Path(sys.executable), 1, 1, 0)


class Lost:
    """Notes what `lose_root` would have done, and does the taking and giving alone."""

    def __init__(self) -> None:
        self.names: list[str] = []
        self.left: list[list[str]] = []
        self.back: list[list[str]] = []

    def __call__(
        self, site: Site, findings: Findings, served: object, name: str,
        take: Callable[[], object], give: Callable[[], object],
    ) -> None:  # fmt: skip
        del findings, served
        self.names.append(name)
        take()
        self.left.append(sorted(os.listdir(site.store)) if site.store.is_dir() else ["no folder"])
        if not site.store.is_dir():
            site.store.mkdir()  # as a server that starts anew would
            (site.store / ".lock").touch()
        give()
        self.back.append(sorted(os.listdir(site.store)))


@pytest.fixture
def lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Lost, Findings]:
    found, findings = Lost(), Findings()

    @contextmanager
    def site(
        plan: object, backbone: object, oracle: object, folder: Path, findings: Findings
    ) -> Iterator[_Run]:
        del plan, backbone, oracle
        folder.mkdir(exist_ok=True)
        if (folder / "store").is_dir():
            (folder / "store").rmdir()
        version = version_of(folder / "made", "steady-a", "old")
        with small_site(folder, version) as small:
            yield _Run(small, findings, [version], [version])

    def no_mount(*_: object) -> Any:
        raise PermissionError("must be superuser")

    monkeypatch.setattr(chaos, "_site", site)
    monkeypatch.setattr(disasters, "lose_root", found)
    monkeypatch.setattr(disasters, "mounted", no_mount)
    nothing: Any = None
    chaos._lose_roots(PLAN, nothing, nothing, tmp_path, findings, lambda state: None)
    return found, findings


def test_a_root_is_renamed_or_emptied_and_comes_back_whole(lost: tuple[Lost, Findings]) -> None:
    found, _ = lost
    assert found.names == ["renamed", "emptied"]
    assert found.left == [["no folder"], []]
    assert found.back == [[".lock", "steady-a"]] * 2


def test_what_this_user_may_not_try_is_a_note(lost: tuple[Lost, Findings]) -> None:
    _, findings = lost
    assert findings.faults == []
    (note,) = findings.notes
    assert note.startswith("Not tried: root unmounted, this user may not mount (must be superuser")


def test_a_root_that_was_not_made_anew_is_renamed_back(tmp_path: Path) -> None:
    store, aside = tmp_path / "store", tmp_path / "aside"
    aside.mkdir()
    (aside / "a").touch()
    chaos._rename_back(aside, store)
    assert os.listdir(store) == ["a"]
    assert not aside.exists()


@pytest.fixture
def site(tmp_path: Path) -> Iterator[SmallSite]:
    with small_site(tmp_path, version_of(tmp_path / "made", "a", "old")) as site:
        yield site


def test_all_tasks_are_ready_or_not(site: SmallSite) -> None:
    assert _all_ready(site)
    listed = Said.of({"adapters": [{"state": "READY"}, {"state": "LOADING"}]})
    site.spoil = lambda asked, said: listed if asked.path == "/v1/adapters" else said
    assert not _all_ready(site)


def test_the_quiet_task_learns_before_it_watches(site: SmallSite) -> None:
    texts: list[str] = []

    def answer(asked: Asked) -> Said:
        texts.append(asked.json["text"])
        return Said.of({"generated_text": asked.json["text"][:5]})

    with http_server(answer) as site.url:
        quiet = learned(site)
        assert texts == list(PROMPTS)
        calm = quiet.watch(0.25)
    assert len(calm.seconds) == 1
    assert calm.wrong == []


def fake_site(folder: Path, python: Path) -> Site:
    class Backbone:
        path = folder

    return Site(Backbone(), folder, {"max_rows": 3}, python=python)  # type: ignore[arg-type]


def test_a_site_keeps_its_address_over_kills(tmp_path: Path) -> None:
    site = fake_site(tmp_path, fake_interpreter(tmp_path))
    assert not site.is_alive
    assert site.try_request("GET", "/livez") is None
    with running(site):
        first = site.request("GET", "/settings").json()
        assert (first["max_rows"], first["port"]) == ("3", str(site.port))
        site.kill()
        assert not site.is_alive
        assert site.try_request("GET", "/livez") is None
        site.start()
        again = site.request("GET", "/settings").json()
        assert (again["port"], again["admin_keys"]) == (first["port"], first["admin_keys"])
        assert site.starts == 2
        assert site.server.key == first["admin_keys"]
    assert not site.is_alive
    assert site.stop() is None


def test_a_site_whose_server_does_not_start_is_closed(tmp_path: Path) -> None:
    site = fake_site(tmp_path, fake_interpreter(tmp_path, "sys.exit('no')"))
    with pytest.raises(ServerEnded, match="it said: no"), running(site):
        pass
    assert not site.is_alive


def test_another_interpreters_settings_and_commit(tmp_path: Path) -> None:
    package = tmp_path / "elsewhere" / "jumplora_server" / "__init__.py"
    package.parent.mkdir(parents=True)
    told = f"print('port max_rows' if 'Settings' in sys.argv[2] else {str(package)!r}); sys.exit()"
    python = fake_interpreter(tmp_path, answers_questions=told)
    assert settings_of(python) == {"port", "max_rows"}
    assert commit_of(python) == "unknown", "that folder is in no repository"
    assert {"port", "max_rows", "transfer_timeout"} <= settings_of(Path(sys.executable))
