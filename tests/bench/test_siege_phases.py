"""Crowds and floods beside a quiet task, each with its own process, on a server of a few lines."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import pytest

from bench_site import SmallSite, small_site, version_of
from jumplora_bench.reliability import connections, costly, fuzz
from jumplora_bench.reliability.connections import ConnectionsPlan, Crowd
from jumplora_bench.reliability.findings import Findings
from jumplora_bench.reliability.siege.quiet import QuietTask
from jumplora_bench.reliability.vitals import sockets_of
from small_http import Asked, Said

PLAN = ConnectionsPlan(Path(), seconds=0.6, drop_seconds=5.0)


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[SmallSite]:
    """Its server is this process; what this process has open already is its own."""
    monkeypatch.setattr("jumplora_bench.reliability.vitals.GAUGE_SECONDS", 0.02)
    with small_site(tmp_path, version_of(tmp_path / "made", "dbpedia", "old")) as site:
        site._server = SimpleNamespace(  # type: ignore[assignment]
            process=SimpleNamespace(pid=os.getpid()), key="the-key"
        )
        site.spoil = lambda asked, said: (
            Said.of({"generated_text": "fine"})
            if asked.path == "/generate" and b"dbpedia" in asked.body
            else said
        )
        site.log.write_text("fine\n")
        own = sockets_of(os.getpid())
        for module in (connections, fuzz):
            monkeypatch.setattr(module, "OWN_SOCKETS", own + 8)
        monkeypatch.setattr("jumplora_bench.reliability.vitals.OWN_SOCKETS", own + 8)
        yield site


def quiet_task(site: SmallSite) -> QuietTask:
    quiet = QuietTask(site.url)
    quiet.learn()
    return quiet


def test_a_crowd_that_may_stay_is_counted_and_goes(site: SmallSite) -> None:
    findings = Findings()
    before = sockets_of(os.getpid())
    with connections._crowd(
        site, quiet_task(site), Crowd("idle", 60, must_end=False), PLAN
    ) as phase:
        assert phase.name == "60 idle"
        assert phase.opened == 60
        assert phase.held >= before + 60
        assert phase.came == {"200": 30}, "every second one asks"
        assert phase.dropped_seconds is None
        assert len(phase.calm.seconds) == 3
        assert (phase.calm.refused, phase.calm.wrong) == ([], [])
    connections._check_gone(findings, site)
    assert findings.faults == []


def test_a_crowd_that_the_server_drops_is_timed(
    site: SmallSite, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server answers half a head with the end of the connection, as ours does after a while."""
    monkeypatch.setattr("http.server.BaseHTTPRequestHandler.timeout", 0.3)
    crowd = Crowd("half-open", 40)
    with connections._crowd(site, quiet_task(site), crowd, PLAN) as phase:
        assert phase.dropped_seconds is not None
        assert phase.dropped_seconds < PLAN.drop_seconds
        assert phase.opened == 40


def test_a_share_of_a_crowd_is_two_at_least(site: SmallSite) -> None:
    plan = ConnectionsPlan(Path(), seconds=0.2, share=0.001)
    with connections._crowd(site, quiet_task(site), Crowd("idle", 60, must_end=False), plan) as few:
        assert few.name == "2 idle"


def test_the_quiet_task_alone(site: SmallSite) -> None:
    phase = connections._alone(site, quiet_task(site), "alone before", 0.6)
    assert (phase.name, phase.opened) == ("alone before", 0)
    assert len(phase.calm.seconds) == 3
    assert phase.most_bytes > 10_000_000
    assert phase.held >= 1


def test_a_flood_is_seen_beside_the_quiet_task(site: SmallSite) -> None:
    flooded = costly._flood(site, quiet_task(site), "unknown tasks", 0.8)
    assert flooded.name == "unknown tasks"
    assert flooded.came.keys() == {"404"}
    assert flooded.came["404"] > 1
    assert len(flooded.calm.seconds) == 4
    assert flooded.most_bytes > 0
    findings = Findings()
    costly._check(findings, flooded, is_alive=site.is_alive)
    assert findings.faults == []


def test_numbers_are_shared_out_among_the_senders(
    site: SmallSite, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every second request is one of ours; no number is sent twice over all rounds."""
    orders: list[tuple[object, ...]] = []

    class Sent:
        def __init__(self, *order: object, on_told: object) -> None:
            del on_told
            orders.append(order)

        def __enter__(self) -> Sent:
            return self

        def __exit__(self, *_: object) -> None:
            pass

        def wait(self, seconds: float) -> int:
            assert seconds > 0
            return 0

    monkeypatch.setattr(fuzz, "Sender", Sent)
    run = fuzz._Run(Findings(), 25, lambda done, wanted: None)
    bounds = [25 * turn // 3 for turn in range(4)]
    for first, end in pairwise(bounds):
        fuzz._send(run, site, 7, first, end)
    own: list[int] = []
    schemas = 0
    for module, url, key, seed, *rest in orders:
        assert (url, key) == (site.url, "the-key")
        if module == "own_sender":
            assert seed == 7
            own += range(*rest)  # type: ignore[call-overload]
        else:
            schemas += rest[0]  # type: ignore[operator]
    assert sorted(own) == list(range(12))
    assert len(own) + schemas == 25
    assert run.findings.checks["senders end"] == len(orders)


def test_a_sender_that_fails_is_a_fault(site: SmallSite) -> None:
    def refuse(asked: Asked) -> None:
        raise ConnectionResetError

    site.before_answer = refuse
    run = fuzz._Run(Findings(), 2, lambda done, wanted: None)
    thread = threading.Thread(target=fuzz._send, args=(run, site, 7, 0, 1))
    thread.start()
    thread.join(60)
    assert not thread.is_alive()
    assert {fault.what.partition(":")[0] for fault in run.findings.faults} == {"senders end"}


def test_a_server_that_is_gone_has_no_vitals(site: SmallSite) -> None:
    findings = Findings()
    site.spoil = lambda asked, said: Said(body=b"a 1\n") if asked.path == "/metrics" else said
    (found,) = fuzz._settled(site, findings)
    assert found.series == 1
    site.spoil = lambda asked, said: Said(500) if asked.path == "/metrics" else said
    assert fuzz._settled(site, findings) == []
    assert "metrics" in findings.faults[0].what
    site.kill()
    assert fuzz._settled(site, findings) == []
