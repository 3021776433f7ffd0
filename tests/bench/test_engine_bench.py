"""The engine benchmark from its plan to its report: tiny, in this process, beside its peers."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from jumplora_adapters.backbone import read_backbone
from jumplora_bench.adapters import AdaptersPlan
from jumplora_bench.backbone import write_backbone
from jumplora_bench.cases.case import Lap, Work
from jumplora_bench.cases.ct2_merged import convert_merged
from jumplora_bench.cases.ct2_restricted import RestrictedCase
from jumplora_bench.cases.hub_split import HubCase
from jumplora_bench.cases.torch_peers import ALL_LINEAR, BEAMS_CASE
from jumplora_bench.engine import EnginePlan, _last_tokens, _peers, _sanity, measure_engine
from jumplora_bench.extra import PeerMissing
from jumplora_bench.fleet import Fleet
from jumplora_bench.machine import processor_flags
from jumplora_bench.names import all_linear_name, ct2_avx2_name, ct2_name
from jumplora_bench.prompts import random_prompts
from jumplora_bench.report import Report
from jumplora_bench.rounds import same_share
from jumplora_bench.sampling import SamplingPlan, measure_sampling
from jumplora_bench.shapes import VOCABULARY

PLAN = EnginePlan(
    shape="tiny", rows=2, source=6, new=3, rounds=2, dtypes=("float32",), threads=1,
    cases=("transformers bare", "ours bare fp32", "ours 2 tasks 5.1%*"),
)  # fmt: skip


@pytest.fixture(autouse=True)
def _threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def found() -> tuple[Report, list[int], list[str]]:
    starts: list[int] = []
    laps: list[str] = []
    report = measure_engine(PLAN, "a command", on_start=starts.append, on_lap=laps.append)
    return report, starts, laps


Found = tuple[Report, list[int], list[str]]


def test_as_many_laps_as_were_announced(found: Found) -> None:
    _, starts, laps = found
    names = ["transformers bare", "ours bare fp32", "ours 2 tasks 5.1% fp32"]
    assert laps == names * (PLAN.rounds + 1), "in turn, with a warm-up"
    assert starts == [len(laps)]


def test_our_tokens_are_transformers(found: Found) -> None:
    report, _, _ = found
    assert report.grids[3].rows == [("ours bare fp32", "transformers bare", "100.0%", "100.0%")]


def test_the_record_is_whole(found: Found, tmp_path: Path) -> None:
    report, _, _ = found
    report.write(tmp_path)
    record = json.loads((tmp_path / "engine.json").read_text())
    assert record["command"] == "a command"
    assert record["threads"] == 1
    assert {len(values) for values in record["seconds"].values()} == {PLAN.rounds}
    assert record["encode_seconds"].keys() == {"ours bare fp32", "ours 2 tasks 5.1% fp32"}
    assert "fp32: bare over transformers" in record["ratios"]
    assert [family["slots"] for family in record["adapters"]] == [1]
    assert record["adapterhub_versions"] is None
    assert record["backbone_bytes"]["float32"] > 0


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Work:
    folder = write_backbone(tmp_path_factory.mktemp("bench") / "backbone", "tiny")
    return Work(folder, random_prompts(2, 6, VOCABULARY), 3, 1, "cpu")


def peers(plan: EnginePlan, work: Work, tmp_path: Path) -> list[str]:
    fleet = Fleet(work, read_backbone(work.backbone), plan.dtypes, plan.wants)
    with ExitStack() as held:
        return [case.name for case in _peers(plan, work, fleet, tmp_path, held)]


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")  # PEFT's
def test_peers_are_those_that_are_wanted(work: Work, tmp_path: Path) -> None:
    assert peers(replace(PLAN, cases=("ours*",)), work, tmp_path / "none") == []
    few = replace(PLAN, cases=("transformers*", "PEFT*"))
    found = ["transformers bare", BEAMS_CASE, "PEFT mixed", ALL_LINEAR]
    assert peers(few, work, tmp_path / "few") == found
    hub = replace(PLAN, cases=(HubCase.name,))
    assert peers(hub, work, tmp_path / "hub") == [], "no interpreter was given"


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")  # PEFT's
def test_peft_serves_the_same_all_linear_adapters(work: Work, tmp_path: Path) -> None:
    """float32: the same greedy tokens as our engine's, and not those of the bare backbone."""
    ours = all_linear_name(work.rows, "float32")
    plan = replace(PLAN, cases=(ALL_LINEAR, ours, "ours bare fp32"))
    fleet = Fleet(work, read_backbone(work.backbone), plan.dtypes, plan.wants)
    with ExitStack() as held:
        cases = [*_peers(plan, work, fleet, tmp_path, held), *fleet.cases()]
        tokens = {case.name: case.run().tokens for case in cases}
    assert len(tokens) == 3
    assert tokens[ours] != tokens["ours bare fp32"]
    (pair,) = _sanity(tokens, fleet, work.rows)
    assert (pair.ours, pair.theirs) == (ours, ALL_LINEAR)
    assert (pair.tokens, pair.rows) == (1.0, 1.0)


def test_ctranslate2_serves_the_one_task_merged(work: Work, tmp_path: Path) -> None:
    """float32: the same greedy tokens as our engine's, with that task on every row."""
    plan = replace(PLAN, cases=("CTranslate2*",))
    fleet = Fleet(work, read_backbone(work.backbone), plan.dtypes, plan.wants)
    with ExitStack() as held:
        (case,) = _peers(plan, work, fleet, tmp_path, held)
        tokens = {case.name: case.run().tokens}
    (pair,) = _sanity(tokens, fleet, work.rows)
    assert (pair.ours, pair.theirs) == ("ours, that one task fp32", "CTranslate2 merged fp32")
    assert (pair.tokens, pair.rows) == (1.0, 1.0)


needs_avx2 = pytest.mark.skipif("avx2" not in processor_flags().split(), reason="no AVX2 here")


@pytest.mark.slow
@needs_avx2
def test_a_restricted_ctranslate2_says_what_the_other_says(work: Work, tmp_path: Path) -> None:
    restricted_names = [ct2_avx2_name("int8", products=products) for products in (False, True)]
    names = (ct2_name("int8"), *restricted_names)
    plan = replace(PLAN, dtypes=("int8",), cases=names)
    fleet = Fleet(work, read_backbone(work.backbone), plan.dtypes, plan.wants)
    with ExitStack() as held:
        cases = list(_peers(plan, work, fleet, tmp_path, held))
        usual, *restricted = (case.run() for case in cases)
    assert tuple(case.name for case in cases) == names
    own, products = restricted
    assert same_share(own.tokens, usual.tokens)[0] >= 0.5
    # Without VNNI its products saturate in 16 bits, and other tokens may come first.
    assert [len(row) for row in products.tokens] == [PLAN.new] * PLAN.rows
    assert all(lap.seconds > 0 for lap in restricted)


def test_a_ctranslate2_that_does_not_take_the_restriction_is_refused(
    work: Work, tmp_path: Path
) -> None:
    fleet = Fleet(work, read_backbone(work.backbone), ("int8",), lambda name: False)
    model = convert_merged(work.backbone, fleet.merged_task.deltas, tmp_path)
    with pytest.raises(PeerMissing, match=r"did not start with SSE9\. It said: .*SSE9"):
        RestrictedCase("it", model, work, "int8", "SSE9", tmp_path / "log", products=False)


def test_the_last_rounds_tokens_are_compared() -> None:
    laps = {"a": [Lap(1.0, ((1,),)), Lap(1.0, ((2,),))]}
    assert _last_tokens(laps) == {"a": ((2,),)}


def test_a_measured_server_gets_the_plans_sizes() -> None:
    plan = AdaptersPlan(rows=3, source=4, new=5, dtype="float32")
    settings = plan.settings(adapter_budget_bytes="1GiB")
    assert settings["max_rows"] == 3
    assert settings["max_source_tokens"] == 8, "the least that a server takes"
    assert settings["max_target_tokens"] == 5
    assert settings["adapter_budget_bytes"] == "1GiB"
    assert settings["threads"] == torch.get_num_threads()


def test_sampling_is_measured_engine_by_engine() -> None:
    plan = SamplingPlan("tiny", 2, 6, 2, 1, ("bfloat16",), "cpu", 1)
    starts: list[int] = []
    laps: list[str] = []
    report = measure_sampling(plan, "a command", on_start=starts.append, on_lap=laps.append)
    assert starts == [len(laps)] == [8 * 2]
    assert {name.partition(":")[0] for name in laps} == {"bf16 torch"}
    steps: dict[str, list[float]] = report.data["step_seconds"]  # type: ignore[assignment]
    assert all(len(values) == 1 and values[0] > 0 for values in steps.values())
