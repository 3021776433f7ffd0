"""Passes that would make the kernels read outside of their arrays are refused, whoever asks."""

from __future__ import annotations

import pytest

from factories import tiny_t5
from jumplora_server.core import Batch, Choices, Encoding, NoText, Pass, Sampling, Sequence
from jumplora_server.engine.engine import Engine
from jumplora_server.trie import Trie

EOS = 1
OPTIONS = [[7, EOS], [7, 8, EOS], [9, 8, 7, EOS]]


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Engine:
    folder = tiny_t5(tmp_path_factory.mktemp("backbone"), vocab=160)
    return Engine(folder, max_rows=2, max_source_tokens=16, max_target_tokens=48)


def choosing(trie: Trie) -> Sequence:
    encoding = Encoding(None, (5, EOS), (), place=0)
    return Sequence(1, encoding, Sampling(1, choices=Choices(trie)), NoText(), 0.0, row=0)


@pytest.mark.parametrize(
    ("nodes", "words"),
    [
        ((), "cannot compute"),
        ((1, 2), "cannot compute"),
        ((0, 2, 1), "cannot compute"),
        ((0, 1, 1), "cannot compute"),
        ((0, 1000), "cannot compute"),
        ((0, 2), "has not its parent"),
    ],
)
def test_what_would_read_outside_of_arrays_is_refused(
    engine: Engine, nodes: tuple[int, ...], words: str
) -> None:
    trie = Trie.of(OPTIONS)
    each = choosing(trie)
    given = Pass(each, trie, nodes)
    with pytest.raises(IndexError, match=words):
        engine.step(Batch((each.encoding,), (), passes=(given,)))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ([[160, EOS]], "outside of 0 to 159"),
        ([[5, 160]], "outside of 0 to 159"),
        ([[-7, EOS]], "outside of 0 to 159"),
        ([[5] * 60], "a row takes 48"),
        ([[n, m, EOS] for n in range(2, 10) for m in range(20, 29)], "a step takes 64"),
    ],
)
def test_tries_that_no_step_takes_are_refused(
    engine: Engine, options: list[list[int]], words: str
) -> None:
    trie = Trie.of(options)
    each = choosing(trie)
    given = Pass(each, trie, tuple(range(len(trie))))
    with pytest.raises(IndexError, match=words):
        engine.step(Batch((each.encoding,), (), passes=(given,)))
