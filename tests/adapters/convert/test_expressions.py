from __future__ import annotations

import re
import subprocess
import sys
import time

import psutil
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jumplora_adapters.convert.expressions import Expression, match_all
from jumplora_adapters.errors import ConvertError

NAMES = ["encoder.block.0.q", "encoder.block.10.q", "q", "", "Q\n", "décodeur.q"]


def _expression(regex: str, *, whole: bool = False) -> Expression:
    return Expression("target_modules", regex, regex, whole)


@settings(max_examples=10, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(
                [".*q", "q$", r"(.*\.)?(q)$", r".*?\.(?P<idx>\d+)\.", "(?i)Q", "[a-z]+", ""]
            ),
            st.booleans(),
        ),
        max_size=5,
    )
)
def test_the_answers_are_those_of_re(asked: list[tuple[str, bool]]) -> None:
    answers = match_all([_expression(regex, whole=whole) for regex, whole in asked], NAMES)
    for (regex, whole), answer in zip(asked, answers, strict=True):
        match = re.fullmatch if whole else re.match
        expected = {name: found for name in NAMES if (found := match(regex, name))}
        assert set(answer) == set(expected)
        if "idx" in regex:
            assert answer == {name: found["idx"] for name, found in expected.items()}


@pytest.mark.parametrize("regex", ["(", "*", "a{99999999999999}", "(?P<a>x)(?P<a>y)", "(" * 5000])
def test_what_is_not_an_expression_is_refused(regex: str) -> None:
    with pytest.raises(ConvertError, match=r"^target_modules .* is not a regular expression"):
        match_all([_expression(regex)], ["q"])


def test_an_expression_that_does_not_end_is_ended() -> None:
    with pytest.raises(ConvertError, match=r"target_modules: .* within 1 s"):
        match_all([_expression("(a+)+$")], ["a" * 60 + "b"], seconds=1.0)


def test_an_expression_ends_also_where_its_asker_was_killed() -> None:
    asking = (
        "from jumplora_adapters.convert.expressions import Expression, match_all\n"
        "match_all([Expression('r', '', '(a+)+$')], ['a' * 60 + 'b'], seconds=1.0)"
    )
    with subprocess.Popen([sys.executable, "-c", asking]) as asker:
        matching: list[psutil.Process] = []
        deadline = time.monotonic() + 30.0
        while not matching and time.monotonic() < deadline:
            matching = psutil.Process(asker.pid).children()
        asker.kill()
    _, alive = psutil.wait_procs(matching, timeout=30.0)
    assert len(matching) == 1
    assert not alive, "it is matched for ever"


def test_an_expression_that_takes_memory_is_ended() -> None:
    large = "|".join(f"a{n}.*b" for n in range(60_000))
    with pytest.raises(ConvertError, match=r"target_modules: .* more than 96 MiB of memory"):
        match_all([_expression(large)], ["q"], seconds=60.0, most_bytes=96 << 20)


def test_answers_that_are_too_large_are_another_error_than_memory() -> None:
    name = "q" * (1 << 20)
    with pytest.raises(ConvertError, match=r"could not be matched \(.*too large.*\)") as caught:
        match_all([_expression("(?P<idx>.*)")] * 70, [name], seconds=60.0)
    assert len(str(caught.value)) < 300


def test_warnings_of_the_compiler_are_not_errors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONWARNINGS", "error")
    assert match_all([_expression("[[a]q")], ["q", "aq"]) == ({"aq": None},)


def test_nothing_to_match_starts_no_process() -> None:
    assert match_all([], NAMES) == ()
    assert match_all([_expression("(")], []) == ({},)
