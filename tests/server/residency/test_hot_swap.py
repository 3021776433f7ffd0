"""Hot swap: 200 publishes of alternating versions of one task under continuous load."""

from __future__ import annotations

import threading
from collections import Counter
from pathlib import Path

from fakes import FakeEngine
from small_server import PATIENCE, SmallServer, wait_until

PUBLISHES = 200


def test_every_answer_matches_its_version_and_nothing_is_left(tmp_path: Path) -> None:
    engine = FakeEngine()
    engine.step_seconds = 0.0002
    with SmallServer(tmp_path, engine=engine, budget_bytes=400) as server:
        server.publish("other", seed=9)
        files = [server.folder / f"a-{seed}.safetensors" for seed in range(2)]
        digests = [server.publish("a", seed=seed) for seed in range(2)]
        server.settle("a")
        is_over = threading.Event()
        answers: Counter[str] = Counter()
        wrong: list[str] = []
        lock = threading.Lock()

        def ask(name: int) -> None:
            count = 0
            while not is_over.is_set():
                count += 1
                with server.residency.acquire("a") as lease:
                    assert lease.ref is not None
                    expected = f"{lease.ref.version[:8]}:{name}-{count}"
                    answer = server.submit(lease, f"{name}-{count}")[1]
                finish = answer.finish()
                with lock:
                    answers[lease.ref.version] += 1
                    if finish.text != expected:
                        wrong.append(f"{finish.text!r} ({finish.error!r}), not {expected!r}")

        clients = [threading.Thread(target=ask, args=(name,)) for name in range(6)]
        for client in clients:
            client.start()
        served: Counter[str] = Counter()
        for index in range(PUBLISHES):
            server.store.publish(files[index % 2], server.backbone)
            status = server.residency.sync("a").result(PATIENCE)
            assert status.version == digests[index % 2]
            assert not status.degraded
            served[status.version] += 1
        is_over.set()
        for client in clients:
            client.join()
        assert wrong == []
        assert set(answers) == set(digests), "both versions answered"
        assert served == dict.fromkeys(digests, PUBLISHES // 2)
        assert server.metric("jumplora_adapter_swaps_total", task_id="a") == PUBLISHES
        wait_until(lambda: server.engine.resident_bytes <= 200)
        status = server.residency.status("a")
        assert (status.in_flight, status.bytes_host) == (0, 100)
        assert server.loop.admission.requests == 0


def test_publishing_into_the_store_alone_is_enough(tmp_path: Path) -> None:
    """Without waiting for each: swaps are coalesced, the last one wins, no request fails."""
    with SmallServer(tmp_path, watch_seconds=0.002, budget_bytes=400) as server:
        server.publish("a", seed=0)
        wait_until(lambda: bool(list(server.residency.each_status())))
        wait_until(lambda: server.residency.status("a").version is not None)
        is_over = threading.Event()
        failures: list[BaseException] = []

        def ask() -> None:
            try:
                while not is_over.is_set():
                    server.generate("a")
            except BaseException as error:
                failures.append(error)

        clients = [threading.Thread(target=ask) for _ in range(3)]
        for client in clients:
            client.start()
        for seed in range(1, 30):
            last = server.publish("a", seed=seed)
        wait_until(lambda: server.residency.status("a").version == last)
        is_over.set()
        for client in clients:
            client.join()
        assert failures == []
        assert server.generate("a") == f"{last[:8]}:hi"
        wait_until(lambda: server.engine.resident_bytes == 100)
