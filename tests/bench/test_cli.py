"""`jumplora bench`: options reach the plan, and those that would measure nothing are refused."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
from typer.testing import CliRunner

from jumplora_bench import (
    adapters,
    dialects,
    engine,
    fairness,
    options,
    profile,
    quotas,
    sampling,
    serving,
)
from jumplora_bench.choices import FairnessScenario
from jumplora_bench.report import Report
from jumplora_server.cli.main import command_line

MEASURES = {
    "engine": (engine, "measure_engine"),
    "serving": (serving, "measure_serving"),
    "adapters": (adapters, "measure_adapters"),
    "profile": (profile, "measure_profile"),
    "fairness": (fairness, "measure_fairness"),
    "quotas": (quotas, "measure_quotas"),
    "sampling": (sampling, "measure_sampling"),
    "dialects": (dialects, "measure_dialects"),
    "choices": (options, "measure_options"),
}


@dataclass
class Planned:
    """What a command would measure, and as which command line."""

    plan: Any = None
    command: str = ""
    output: str = ""
    status: int = 0


def run(monkeypatch: pytest.MonkeyPatch, name: str, *given: str) -> Planned:
    """Run a command whose measurement only keeps its plan."""
    planned = Planned()

    def measure(plan: Any, command: str, *_: object, **__: object) -> Report:
        planned.plan, planned.command = plan, command
        return Report(name, "Title", command)

    monkeypatch.setattr(*MEASURES[name], measure)
    environment = {"COLUMNS": "200", "NO_COLOR": "1", "TERM": "dumb"}
    result = CliRunner().invoke(command_line(), ["bench", name, *given], env=environment)
    planned.output, planned.status = result.output, result.exit_code
    return planned


@pytest.mark.parametrize("name", MEASURES)
def test_the_defaults_of_the_options_are_those_of_the_plan(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    planned = run(monkeypatch, name)
    assert planned.status == 0, planned.output
    assert planned.plan == type(planned.plan)()
    assert planned.command.endswith(f"bench {name}")


@pytest.mark.parametrize("name", MEASURES)
def test_the_command_line_is_told_as_it_was_given(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    planned = run(monkeypatch, name, "--source=24", "--shape", "tiny")
    assert planned.plan.source == 24
    assert planned.plan.shape == "tiny"
    assert planned.command.endswith(f"bench {name} --shape tiny --source 24")
    assert f"command: {planned.command}" in planned.output


@pytest.mark.parametrize(
    ("name", "given", "field", "value"),
    [
        pytest.param(
            "engine", ["--case", "a b", "--case", "c*"], "cases", ("a b", "c*"), id="patterns"
        ),
        pytest.param("engine", ["--dtype", "bfloat16"], "dtypes", ("bfloat16",), id="a dtype"),
        pytest.param("engine", ["--kernels", "torch"], "kernels", "torch", id="kernels"),
        pytest.param("profile", ["--kernels", "auto"], "kernels", "auto", id="a profile's kernels"),
        pytest.param(
            "serving", ["--part", "low-load"], "parts", ("low-load",), id="a part of serving"
        ),
        pytest.param("serving", ["--rate", "2", "--rate", "0.5"], "rates", (2.0, 0.5), id="rates"),
        pytest.param("serving", ["--upload-mb", "0.5"], "upload_bytes", 500_000, id="megabytes"),
        pytest.param(
            "adapters", ["--registered", "50", "--registered", "7"], "registered", (7, 50),
            id="registered, ascending",
        ),
        pytest.param("adapters", ["--part", "bytes"], "parts", ("bytes",), id="a part of adapters"),
        pytest.param(
            "fairness", ["--scenario", "one-task"], "scenarios", ("one-task",), id="a scenario"
        ),
        pytest.param("quotas", ["--load", "4"], "load", 4.0, id="times a quota"),
        pytest.param("sampling", ["--dtype", "int8"], "dtypes", ("int8",), id="sampling's dtype"),
        pytest.param("choices", ["--dtype", "int8"], "dtypes", ("int8",), id="choices' dtype"),
        pytest.param("dialects", ["--new", "3"], "new", 3, id="tokens of a dialect's answer"),
    ],
)  # fmt: skip
def test_repeated_options(
    name: str, given: list[str], field: str, value: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    planned = run(monkeypatch, name, *given)
    assert getattr(planned.plan, field) == value
    for word in given:
        assert word in planned.command.replace("'", "")


def test_a_flag_is_told_without_a_value(monkeypatch: pytest.MonkeyPatch) -> None:
    planned = run(monkeypatch, "profile", "--lora")
    assert planned.plan.lora is True
    assert planned.command.endswith("bench profile --lora")


@pytest.mark.parametrize(
    ("name", "given"),
    [
        pytest.param("serving", ["--rate", "-1"], id="a rate below 0"),
        pytest.param("serving", ["--rate", "0"], id="a rate of 0"),
        pytest.param("serving", ["--load", "0"], id="no load"),
        pytest.param("serving", ["--zipf", "-1"], id="a mix below uniform"),
        pytest.param("serving", ["--upload-mb", "-1"], id="fewer than no bytes"),
        pytest.param("serving", ["--part", "all"], id="an unknown part"),
        pytest.param("adapters", ["--registered", "4"], id="fewer tasks than are asked"),
        pytest.param("fairness", ["--rows", "1"], id="no row for the quiet task"),
        pytest.param("fairness", ["--scenario", "flood"], id="an unknown flood"),
        pytest.param("quotas", ["--load", "1"], id="a load that is the quota"),
        pytest.param("engine", ["--dtype", "float16"], id="an unknown dtype"),
        pytest.param("engine", ["--shape", "xxl"], id="an unknown shape"),
        pytest.param("engine", ["--kernels", "mmx"], id="unknown kernels"),
        pytest.param("profile", ["--kernels", "mmx"], id="a profile of unknown kernels"),
        pytest.param("profile", ["--rounds", "0"], id="no round"),
        pytest.param("sampling", ["--device", "tpu"], id="an unknown device"),
        pytest.param("choices", ["--source", "1"], id="a prompt of its end token alone"),
        pytest.param("dialects", ["--rounds", "0"], id="no request"),
    ],
)
def test_what_cannot_be_measured_is_refused_before_anything_is_built(
    name: str, given: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    planned = run(monkeypatch, name, *given)
    assert planned.status == 2
    assert given[0] in planned.output
    assert planned.plan is None


def test_every_scenario_that_may_be_chosen_is_there() -> None:
    assert [each.name for each in fairness.SCENARIOS] == list(FairnessScenario)
