"""Leases, and when sampling is plain."""

from __future__ import annotations

import threading
from dataclasses import fields, replace
from typing import Any

import pytest

from jumplora_server.core import AdapterRef, Beams, Choices, Lease, Sampling
from jumplora_server.trie import Trie

V1 = "a1" * 32
SERVED = AdapterRef("agnews", V1, (V1,))


class Count:
    """Counts leases."""

    def __init__(self) -> None:
        self.value = 1
        self.lock = threading.Lock()

    def up(self) -> None:
        with self.lock:
            self.value += 1

    def down(self) -> None:
        with self.lock:
            self.value -= 1


def test_shares_are_released_on_their_own() -> None:
    count = Count()
    lease = Lease(SERVED, None, count.up, count.down)
    with lease:
        share = lease.share()
        assert count.value == 2
    assert lease.is_released
    assert not share.is_released
    lease.release()
    assert count.value == 1
    share.release()
    share.release()
    assert count.value == 0
    with pytest.raises(AssertionError, match="released"):
        lease.share()


def test_only_one_of_many_threads_releases() -> None:
    count = Count()
    lease = Lease(SERVED, None, count.up, count.down)
    start = threading.Barrier(8)

    def release() -> None:
        start.wait()
        lease.release()

    threads = [threading.Thread(target=release) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert count.value == 0


def test_the_backbone_needs_no_count() -> None:
    with Lease.base() as lease:
        assert lease.ref is None
        lease.share().release()


# Of every field another value than its default.
OTHERS: dict[str, Any] = {
    "max_new_tokens": 9,
    "min_new_tokens": 1,
    "mode": "sample",
    "temperature": 0.5,
    "top_k": 4,
    "top_p": 0.5,
    "repetition_penalty": 1.1,
    "no_repeat_ngram_size": 2,
    "beams": Beams(2),
    "choices": Choices(Trie.of([(5, 1)])),
    "seed": 7,
    "stop": ("x",),
    "logprobs": "chosen",
}
# The last three are of a draw, and a greedy row has none.
NO_EFFECT = {"max_new_tokens", "seed", "stop", "logprobs", "temperature", "top_k", "top_p"}


def test_sampling_is_plain_where_nothing_changes_the_highest_logit() -> None:
    plain = Sampling(5)
    assert plain.is_plain
    assert OTHERS.keys() == {field.name for field in fields(Sampling)}, "a field that is not judged"
    for name, value in OTHERS.items():
        assert replace(plain, **{name: value}).is_plain == (name in NO_EFFECT), name
