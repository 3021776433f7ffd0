from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jumplora_adapters.convert.patterns import (
    Strengths,
    match_patterns,
    read_strengths,
    scalings,
)
from jumplora_adapters.errors import ConvertError

NAMES = ["t5.encoder.block.0.q", "t5.encoder.block.10.q", "t5.decoder.block.0.v", "q", "block.0.q"]
PATTERNS = ["q", "block.0.q", "^q", r"t5\..*q", "0.(q|v)", "k", ".q", "t5", "v)|(q", "", "1?0.q"]


def _strengths(**fields: object) -> Strengths:
    return read_strengths({"lora_alpha": 8, "r": 4, **fields})


def test_fields_that_are_missing_have_the_value_that_peft_gives_them() -> None:
    peft = pytest.importorskip("peft")
    strengths, default = read_strengths({}), peft.LoraConfig()
    assert (strengths.rank, strengths.alpha) == (default.r, default.lora_alpha)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.sampled_from(PATTERNS), unique=True), st.sampled_from(["rank", "alpha"]))
def test_the_first_match_is_the_one_that_peft_takes(patterns: list[str], kind: str) -> None:
    other = pytest.importorskip("peft.utils.other")
    config = _strengths(**{f"{kind}_pattern": dict.fromkeys(patterns, 3)})
    of_rank, of_alpha = match_patterns(config, dict.fromkeys(NAMES, 4))
    matches = of_rank if kind == "rank" else of_alpha
    for name in NAMES:
        taken = other.get_pattern_key(patterns, name)
        assert (matches.by_name[name] or (name,))[0] == taken
    assert set(matches.unused).isdisjoint(p for found in matches.by_name.values() for p in found)


def test_scalings_and_what_matched_nothing() -> None:
    config = _strengths(
        alpha_pattern={"10.q": 16, "nowhere": 3}, rank_pattern={"v": 2}, use_rslora=True
    )
    found, warnings = scalings(config, {NAMES[0]: 4, NAMES[1]: 4, NAMES[2]: 2})
    assert [found[name].at(4) for name in NAMES[:2]] == [4.0, 8.0]
    assert found[NAMES[2]].at(2) == pytest.approx(8 / 2**0.5)
    assert warnings == [
        "alpha_pattern: 1 of its patterns match no module of the file, such as 'nowhere': PEFT"
        " ignores them"
    ]


def test_a_rank_of_any_pattern_that_matches_is_right() -> None:
    """PEFT sorts the patterns, so the first one in the file may not be the first in training."""
    config = _strengths(rank_pattern={"0.q": 2, "q": 6})
    for rank in (2, 6):
        scalings(config, {"block.0.q": rank})
    with pytest.raises(ConvertError, match=r"rank 4, .* says 2 or 6 by rank_pattern '0\.q'"):
        scalings(config, {"block.0.q": 4})


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        pytest.param({"alpha_pattern": {"q": "4"}}, "expected a number", id="alpha as text"),
        pytest.param({"alpha_pattern": {"q": 10**400}}, "finite", id="a number too large"),
        pytest.param({"alpha_pattern": {"q": float("nan")}}, "finite", id="NaN"),
        pytest.param({"alpha_pattern": ["q"]}, "expected an object", id="a list"),
        pytest.param({"alpha_pattern": {str(n): 1 for n in range(9000)}}, "at most", id="too many"),
        pytest.param({"rank_pattern": {"q": 0}}, "whole number from 1", id="rank of zero"),
        pytest.param({"rank_pattern": {"q": 2.0}}, "whole number from 1", id="rank as float"),
        pytest.param({"rank_pattern": {"q": True}}, "whole number from 1", id="true as rank"),
        pytest.param({"r": "4"}, "r is '4'", id="r as text"),
        pytest.param({"use_rslora": "false"}, "expected true or false", id="text as flag"),
    ],
)
def test_values_of_another_type_are_refused(fields: dict[str, object], message: str) -> None:
    with pytest.raises(ConvertError, match=message):
        _strengths(**fields)
