"""From the engine thread to the event loop."""

from __future__ import annotations

import asyncio
import threading

import pytest

from jumplora_server.core import TokenEvent
from jumplora_server.loop.outbox import Delivery

EVENTS = [TokenEvent(number, None, None) for number in range(3)]


def test_without_an_event_loop_events_are_handed_out_at_once() -> None:
    seen: list[TokenEvent] = []
    Delivery()([(seen.append, event) for event in EVENTS])
    assert seen == EVENTS


def test_with_one_they_arrive_there_in_order() -> None:
    async def receive() -> tuple[list[TokenEvent], set[int]]:
        seen: list[TokenEvent] = []
        threads: set[int] = set()
        done = asyncio.Event()

        def on_event(event: TokenEvent) -> None:
            seen.append(event)
            threads.add(threading.get_ident())
            if event is EVENTS[-1]:
                done.set()

        delivery = Delivery()
        delivery.bind(asyncio.get_running_loop())
        sender = threading.Thread(target=delivery, args=([(on_event, e) for e in EVENTS],))
        sender.start()
        await done.wait()
        sender.join()
        return seen, threads

    assert asyncio.run(receive()) == (EVENTS, {threading.get_ident()})


def test_one_listeners_fault_is_not_anothers_loss() -> None:
    async def receive() -> tuple[list[TokenEvent], list[str]]:
        seen: list[TokenEvent] = []
        faults: list[str] = []
        running = asyncio.get_running_loop()
        running.set_exception_handler(lambda _, context: faults.append(str(context["exception"])))

        def broken(event: TokenEvent) -> None:
            raise ValueError(event.sequence_id)

        delivery = Delivery()
        delivery.bind(running)
        delivery([(broken, EVENTS[0]), (seen.append, EVENTS[1])])
        for _ in range(3):
            await asyncio.sleep(0)
        return seen, faults

    assert asyncio.run(receive()) == ([EVENTS[1]], ["0"])


@pytest.mark.parametrize("bound", ["closed", "unbound"])
def test_after_the_end_nothing_is_lost(bound: str) -> None:
    event_loop = asyncio.new_event_loop()
    event_loop.close()
    delivery = Delivery()
    delivery.bind(event_loop if bound == "closed" else None)
    seen: list[TokenEvent] = []
    delivery([(seen.append, EVENTS[0])])
    assert seen == [EVENTS[0]]
