"""Staged versions under load, on a whole server: who gets what, and what ends by itself."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import pytest

from fakes import say
from jumplora_adapters.errors import StoreReadOnly
from jumplora_adapters.routing import ROUTING, Routing, Staged, routing_text
from serving import ADMIN_KEY, Site, connected, listening, make_site, wait_for

SPECS = ("a", "a", "a", "a@current", "a@old")


@dataclass
class Load:
    """What clients asked and got while they ran: by spec, version and status."""

    seen: Counter[tuple[str, str | None, int]] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    in_order: list[str | None] = field(default_factory=list)  # versions of "a", as they came

    def of(self, spec: str) -> Counter[str | None]:
        found: Counter[str | None] = Counter()
        for (asked, version, _), count in self.seen.items():
            if asked == spec:
                found[version] += count
        return found

    def total(self) -> int:
        return sum(self.seen.values())


def ask(http: httpx.Client, spec: str, load: Load, lock: threading.Lock) -> None:
    body = {"task_id": spec, "inputs": "x", "parameters": {"max_new_tokens": 200}}
    answer = http.post("/generate", json=body)
    version = answer.headers.get("x-adapter-version")
    with lock:
        load.seen[spec, version, answer.status_code] += 1
        if spec == "a":
            load.in_order.append(version)
        if answer.status_code == 200 and not answer.json()["generated_text"].startswith(
            f"{version}"[:8]
        ):
            load.wrong.append(answer.text)


@contextmanager
def under_load(address: str, specs: tuple[str, ...], clients: int = 4) -> Iterator[Load]:
    """Clients that ask without a pause within this."""
    load, lock, is_over = Load(), threading.Lock(), threading.Event()

    def run(number: int) -> None:
        with httpx.Client(base_url=address, timeout=20) as http:
            while not is_over.is_set():
                for spec in specs[number % len(specs) :] + specs[: number % len(specs)]:
                    ask(http, spec, load, lock)

    with ThreadPoolExecutor(clients) as pool:
        running = [pool.submit(run, number) for number in range(clients)]
        try:
            yield load
        finally:
            is_over.set()
            for each in running:
                each.result()


def admin(http: httpx.Client, what: str, **body: object) -> httpx.Response:
    headers = {"authorization": f"Bearer {ADMIN_KEY}"}
    return http.post(f"/v1/adapters/a/{what}", json=body, headers=headers)


def two(site: Site) -> tuple[str, str]:
    """The current version, which is called "old" too, and the one to be staged."""
    staged = site.publish("a")
    current = site.publish("a")
    site.parts.services.store.alias("a", "old", current)
    site.parts.services.residency.sync("a").result(20)
    return current, staged


def endings(site: Site, cause: str) -> float:
    return site.metric(
        "jumplora_adapter_stage_endings_total", task_id="a", ending="aborted", cause=cause
    )


@pytest.mark.slow
def test_a_share_under_load_and_every_answer_is_its_versions(tmp_path: Path) -> None:
    site = make_site(tmp_path)
    with listening(site) as address, httpx.Client(base_url=address) as http:
        current, other = two(site)
        with under_load(address, SPECS) as load:
            admin(http, "stage", version=other, share=0.2).raise_for_status()
            before = load.of("a").total()
            wait_for(lambda: load.of("a").total() >= before + 1200, 60)
    assert load.wrong == []
    assert {status for *_, status in load.seen} == {200}
    assert set(load.of("a@current")) == set(load.of("a@old")) == {current}
    since = load.in_order[load.in_order.index(other) :][:1200]
    assert len(since) >= 1000
    assert abs(since.count(other) / len(since) - 0.2) <= 0.02
    windows = [since[at : at + 100].count(other) for at in range(0, len(since) - 99, 10)]
    # They are counted as they came back, which is not quite the order in which they were routed.
    assert max(abs(count - 20) for count in windows) <= 6


def fails(site: Site, staged: str) -> None:
    site.engine.nonfinite.add(staged)


def is_slow(site: Site, staged: str) -> None:
    site.engine.step_seconds = 0.001
    site.engine.say = lambda prompt, versions: (
        say(prompt, versions) + (150 * "." if staged in versions else "")
    )


@pytest.mark.parametrize(
    ("cause", "spoil"),
    [("errors", fails), pytest.param("latency", is_slow, marks=pytest.mark.slow)],
)
def test_what_gets_worse_under_load_is_taken_back_by_itself(
    tmp_path: Path, cause: str, spoil: Callable[[Site, str], None]
) -> None:
    site = make_site(tmp_path, stage_min_requests=20)
    with listening(site) as address, httpx.Client(base_url=address) as http:
        current, other = two(site)
        admin(http, "stage", version=other, share=0.3).raise_for_status()
        with under_load(address, ("a", "a@current")) as load:
            wait_for(lambda: load.of("a")[other] >= 40, 30)
            assert endings(site, cause) == 0, "while both are as good, nothing happens"
            spoil(site, other)
            wait_for(lambda: endings(site, cause) == 1, 30)
            at_the_end = len(load.in_order)
            wait_for(lambda: len(load.in_order) >= at_the_end + 200, 30)
        told = http.get("/v1/adapters/a").json()
    assert load.wrong == []
    assert (told["version"], told["staged"]) == (current, None)
    assert told["changes"][-1]["event"] == "unstage"
    assert f"taken back by itself ({cause})" in told["changes"][-1]["note"]
    assert set(load.of("a@current")) == {current}
    statuses = Counter((version, status) for (_, version, status) in load.seen.elements())
    assert statuses[current, 200] == load.of("a")[current] + load.of("a@current")[current]
    # Failed requests carry no version. What was under way may still end; then none gets it.
    assert other not in load.in_order[at_the_end + 20 :]
    assert load.in_order[at_the_end + 20 :].count(current) == len(load.in_order[at_the_end + 20 :])
    if cause == "errors":
        assert 0 < statuses[None, 500] < at_the_end / 2


def test_a_store_that_may_only_be_read_keeps_no_server_from_stopping(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = make_site(tmp_path, stage_min_requests=10)
    store, residency = site.parts.services.store, site.parts.services.residency

    def refuse(*names: object, **options: object) -> str:
        raise StoreReadOnly("it may only be read")

    with connected(site) as http:
        current, other = two(site)
        admin(http, "stage", version=other, share=0.5).raise_for_status()
        monkeypatch.setattr(store, "unstage", refuse)
        fails(site, other)
        load, lock = Load(), threading.Lock()
        for _ in range(24):
            ask(http, "a", load, lock)

        def is_shut() -> bool:
            staged = residency.status("a").staged
            return staged is not None and not staged.is_open

        wait_for(is_shut)
        residency.sync("a").result(20)
        assert is_shut(), "no look at the store opens it again"
        site.engine.nonfinite.clear()
        after = Load()
        for _ in range(10):
            ask(http, "a", after, lock)
        assert after.of("a") == {current: 10}
        staged = http.get("/v1/adapters/a").json()["staged"]
        assert (staged["version"], staged["failure"]["code"]) == (other, "errors")
        assert endings(site, "errors") == 0
        named = Load()
        wait_for(lambda: _is_answered(http, f"a@{other}", named), 20)
        assert is_shut(), "who names it gets it, and it gets no share"
        staged = http.get("/v1/adapters/a").json()["staged"]
        assert staged["failure"]["code"] == "errors", "why is not forgotten"


def _is_answered(http: httpx.Client, spec: str, load: Load) -> bool:
    ask(http, spec, load, threading.Lock())
    return any(status == 200 for *_, status in load.seen)


def test_a_version_whose_file_is_gone_is_taken_back(tmp_path: Path) -> None:
    site = make_site(tmp_path)
    store, residency = site.parts.services.store, site.parts.services.residency
    with connected(site):
        _, other = two(site)
        store.path_of(other).unlink()
        path = store.root / "a" / ROUTING
        path.write_bytes(routing_text(Routing(Staged(other, 0.5, "2026-11-28T00:00:00+00:00"))))
        residency.sync("a").result(20)
        wait_for(lambda: store.routing("a").staged is None)
        wait_for(lambda: endings(site, "load") == 1)


def test_with_all_requests_it_is_taken_back_and_never_promoted_by_itself(tmp_path: Path) -> None:
    site = make_site(tmp_path, stage_min_requests=20)
    with connected(site) as http:
        current, other = two(site)
        admin(http, "stage", version=other, share=1.0, promote_after=0.0).raise_for_status()
        load, lock = Load(), threading.Lock()
        for _ in range(45):
            ask(http, "a", load, lock)
        assert load.of("a") == {other: 45}
        told = http.get("/v1/adapters/a").json()
        assert (told["version"], told["comparison"]["looks"]) == (current, 0)
        assert told["comparison"]["verdict"] == "too_few_requests"
        fails(site, other)
        for _ in range(45):
            ask(http, "a", load, lock)
        wait_for(lambda: endings(site, "errors") == 1)
        assert http.get("/v1/adapters/a").json()["version"] == current


def test_a_version_without_a_fault_is_promoted_by_itself_if_asked(tmp_path: Path) -> None:
    site = make_site(tmp_path, stage_min_requests=10)
    with listening(site) as address, httpx.Client(base_url=address) as http:
        _, other = two(site)
        admin(http, "stage", version=other, share=0.5, promote_after=0.2).raise_for_status()
        assert http.get("/v1/adapters/a").json()["staged"]["promote_after"] == 0.2
        with under_load(address, ("a",), clients=2) as load:
            wait_for(lambda: site.parts.services.residency.status("a").version == other, 30)
            assert load.of("a")[other] >= 10, "not before it was looked at"
        assert load.wrong == []
        told = http.get("/v1/adapters/a").json()
        assert (told["staged"], told["changes"][-1]["event"]) == (None, "promote")
        name, labels = "jumplora_adapter_stage_endings_total", {"ending": "promoted"}
        wait_for(lambda: site.metric(name, task_id="a", cause="time", **labels) == 1)


def test_two_servers_of_one_store_follow(tmp_path: Path) -> None:
    sites = [make_site(tmp_path, watch_seconds=0.05) for _ in range(2)]
    with connected(sites[0]) as first, connected(sites[1]) as second:
        current, other = two(sites[0])
        wait_for(lambda: sites[1].parts.services.residency.knows("a"))

        def versions(http: httpx.Client) -> set[str | None]:
            load = Load()
            for _ in range(4):
                ask(http, "a", load, threading.Lock())
            return set(load.of("a"))

        wait_for(lambda: versions(second) == {current})
        admin(first, "stage", version=other, share=0.5).raise_for_status()
        wait_for(lambda: versions(second) == {current, other})
        admin(second, "unstage", note="no").raise_for_status()
        wait_for(lambda: versions(first) == {current})
