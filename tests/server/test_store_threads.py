"""Threads for the store: how many, how long they are waited for, and what comes too late."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial
from typing import Any

import pytest

from jumplora_adapters.errors import StoreBusy
from jumplora_adapters.store_lock import Patience
from jumplora_server.errors import AdapterUnavailable
from jumplora_server.store_threads import StoreThreads, returned


def nothing(done: Future[Any]) -> None:
    del done


def test_the_limit_covers_the_place_and_the_work() -> None:
    answers = threading.Event()
    late: list[int] = []

    def work(number: int) -> int:
        assert answers.wait(20)
        return number

    async def ask() -> list[object]:
        threads = StoreThreads(most=2, seconds=0.2)
        works = [threads.run(partial(work, number), returned(late.append)) for number in range(4)]
        failed = await asyncio.gather(*works, return_exceptions=True)
        answers.set()
        assert await threads.run(lambda: "next", nothing) == "next"
        await asyncio.to_thread(_until, lambda: len(late) == 2)
        return list(failed)

    assert {type(error) for error in asyncio.run(ask())} == {AdapterUnavailable}
    assert sorted(late) == [0, 1]  # the other two never began


def test_a_place_is_waited_for_with_patience() -> None:
    answers = threading.Event()

    async def ask() -> None:
        threads = StoreThreads(most=1, seconds=20)
        first = asyncio.ensure_future(threads.run(lambda: answers.wait(20), nothing))
        await asyncio.sleep(0)
        patience = Patience(0.05)
        with pytest.raises(StoreBusy):
            await threads.run(lambda: None, nothing, patience)
        assert patience.left == 0
        answers.set()
        assert await first

    asyncio.run(ask())


def test_a_timeout_of_the_work_itself_is_passed_on() -> None:
    def fail() -> None:
        raise TimeoutError("the share's own")

    with pytest.raises(TimeoutError, match="the share's own"):
        asyncio.run(StoreThreads().run(fail, nothing))


@pytest.mark.parametrize("is_done_before", [True, False], ids=["done before", "done after"])
def test_what_comes_too_late_is_given_back_on_another_thread(is_done_before: bool) -> None:
    given: list[tuple[str, int]] = []
    answers, is_through = threading.Event(), threading.Event()

    def give_back(result: str) -> None:
        given.append((result, threading.get_ident()))

    def work() -> str:
        assert answers.wait(20)
        is_through.set()
        return "lease"

    async def cancel() -> None:
        threads = StoreThreads(most=1)
        running = asyncio.ensure_future(threads.run(work, returned(give_back)))
        await asyncio.sleep(0)
        if is_done_before:  # the loop is held up here, so it does not see the result
            answers.set()
            assert is_through.wait(20)
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        answers.set()
        await asyncio.to_thread(_until, lambda: bool(given))

    asyncio.run(cancel())
    [(result, thread)] = given
    assert result == "lease"
    assert thread != threading.get_ident()


class Startless(threading.Thread):
    """Of a process that has all the threads it may have."""

    def start(self) -> None:
        raise RuntimeError("can't start new thread")


class ScarceThreads(StoreThreads):
    """Has no thread while `is_short`."""

    is_short = True

    def _thread(self, target: Callable[[], object]) -> threading.Thread:
        return Startless() if self.is_short else super()._thread(target)


def test_a_thread_that_does_not_start_gives_its_place_back() -> None:
    async def ask() -> str:
        threads = ScarceThreads(most=1, seconds=5)
        for _ in range(3):
            with pytest.raises(RuntimeError, match="new thread"):
                await threads.run(lambda: "no", nothing)
        threads.is_short = False
        return await threads.run(lambda: "yes", nothing)

    assert asyncio.run(ask()) == "yes"


def _until(condition: Callable[[], bool], seconds: float = 20.0) -> None:
    poll = threading.Event()
    for _ in range(int(seconds / 0.005)):
        if condition():
            return
        poll.wait(0.005)
    raise AssertionError("it did not happen")
