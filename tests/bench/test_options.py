"""What the benchmark of choices sends: options of known lengths, answers that are checked."""

from __future__ import annotations

import json
from http.client import HTTPConnection

import pytest

from jumplora_bench.cases.case import Lap
from jumplora_bench.cases.requests import NotAnswered, Post, RequestsCase
from jumplora_bench.options import (
    FOUR,
    FOURTEEN,
    LIST,
    WALKED,
    OptionsPlan,
    _bars,
    _check,
    _fill,
    _requests,
    nodes_of,
    option_texts,
    walked_lengths,
)
from jumplora_bench.report import Report
from jumplora_bench.shapes import VOCABULARY
from jumplora_bench.tokenizer import make_tokenizer
from jumplora_server.core import MAX_NODES
from jumplora_server.trie import Trie

PLAN = OptionsPlan(shape="tiny", dtypes=("int8",), source=8, rounds=2)


@pytest.mark.parametrize("lengths", [FOUR, FOURTEEN, walked_lengths(60), walked_lengths(256)])
def test_options_have_their_lengths_and_share_no_beginning(lengths: tuple[int, ...]) -> None:
    tokenizer = make_tokenizer(VOCABULARY)
    ids = [tokenizer.encode(text).ids for text in option_texts(lengths)]
    assert tuple(map(len, ids)) == lengths
    assert len(Trie.of(ids)) == nodes_of(lengths)


def test_sizes_are_those_that_the_bars_were_set_for() -> None:
    assert (nodes_of(FOUR), nodes_of(FOURTEEN)) == (7, 24)
    assert all(nodes_of(walked_lengths(count)) > MAX_NODES for count in WALKED)


def test_choices_are_asked_with_the_prompts_that_are_generated_from() -> None:
    asked = {
        name: [json.loads(post.body) for post in posts] for name, posts in _requests(PLAN).items()
    }
    for count, lengths in ((4, FOUR), (14, FOURTEEN)):
        greedy, choosing = asked[f"greedy, {count} labels"], asked[f"choices, {count} labels"]
        assert [each["inputs"] for each in greedy] == [each["inputs"] for each in choosing]
        assert tuple(each["parameters"]["max_new_tokens"] for each in greedy) == lengths
        assert {len(each["parameters"]["choices"]) for each in choosing} == {count}
    alone, (together,) = (
        asked[f"choices, 4 labels, {LIST} requests"],
        asked[f"choices, 4 labels, a list of {LIST}"],
    )
    assert [each["inputs"] for each in alone] == together["inputs"]


def case_with(parameters: dict[str, object], details: dict[str, object]) -> RequestsCase:
    body = json.dumps({"parameters": parameters}).encode()
    case = RequestsCase("it", HTTPConnection("127.0.0.1"), [Post("/generate", body)])
    case.answers = [json.dumps({"details": details}).encode()]
    return case


def test_an_answer_that_ended_early_or_lacks_options_is_refused() -> None:
    _check("it", case_with({"max_new_tokens": 3}, {"generated_tokens": 3}))
    _check("it", case_with({"choices": ["a", "b"]}, {"choices": [{}, {}]}))
    with pytest.raises(NotAnswered, match="'max_new_tokens': 3"):
        _check("it", case_with({"max_new_tokens": 3}, {"generated_tokens": 2}))
    with pytest.raises(NotAnswered, match="'choices': "):
        _check("it", case_with({"choices": ["a", "b"]}, {"choices": [{}]}))


@pytest.mark.parametrize(("shape", "is_held"), [("base", True), ("tiny", False)])
def test_bars_stand_for_labels_of_the_base_shape_in_int8(shape: str, is_held: bool) -> None:
    plan = OptionsPlan(shape=shape)  # type: ignore[arg-type]
    limits = {bar.measure: bar.limit for bar in _bars(plan)}
    held = {name: limit for name, limit in limits.items() if limit is not None}
    over = "over a greedy answer"
    expected = {f"int8: 4 labels, 7 nodes, {over}": 1.0, f"int8: 14 labels, 24 nodes, {over}": 1.25}
    assert held == (expected if is_held else {})
    assert len(limits) == 8


def test_ratios_and_lists_are_of_the_medians() -> None:
    seconds = {f"int8: {name}": 0.010 for name in _requests(PLAN)}
    seconds["int8: choices, 14 labels"] = 0.012
    seconds[f"int8: choices, 4 labels, a list of {LIST}"] = 0.040
    report = Report("choices", "Title", "command")
    _fill(report, PLAN, {name: [Lap(each, ())] * 2 for name, each in seconds.items()})
    ratios = {row[0]: row[1] for row in report.grids[1].rows}
    assert ratios["int8: 14 labels, 24 nodes, over a greedy answer"] == "1.200"
    lists = {row[0]: row[1:] for row in report.grids[2].rows}
    assert lists["int8: choices, 4 labels"] == ("10.00", "5.00", "0.500")
