"""Our engine in the benchmark beside its peers on a tiny backbone: tokens, names, what is made."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from jumplora_adapters.backbone import Backbone, read_backbone
from jumplora_adapters.format import read_adapter
from jumplora_adapters.store import Store
from jumplora_bench.adapters import bytes_of
from jumplora_bench.backbone import write_backbone
from jumplora_bench.cases.case import Work
from jumplora_bench.cases.ours import EngineRefused, OursCase, make_engine
from jumplora_bench.cases.torch_peers import RANK, load_model, transformers_bare, transformers_beams
from jumplora_bench.engine import EnginePlan
from jumplora_bench.fleet import Fleet
from jumplora_bench.loading import PARTS, Loading, measure_parts
from jumplora_bench.masked import draw
from jumplora_bench.names import (
    DENSITIES,
    LINEAGES,
    beams_name,
    label_of,
    lineage_name,
    mixed_name,
    unfolded,
)
from jumplora_bench.offline import OfflineEngine
from jumplora_bench.prompts import random_prompts
from jumplora_bench.published import publish_tasks, task_names, write_random
from jumplora_bench.rounds import same_share
from jumplora_bench.shapes import VOCABULARY
from jumplora_bench.traffic import Question

ROWS, NEW = 2, 5
Setting = tuple[Work, Backbone]


@pytest.fixture(scope="module")
def setting(tmp_path_factory: pytest.TempPathFactory) -> Setting:
    folder = write_backbone(tmp_path_factory.mktemp("cases") / "backbone", "tiny")
    prompts = random_prompts(ROWS, 12, VOCABULARY)
    return Work(folder, prompts, NEW, torch.get_num_threads(), "cpu"), read_backbone(folder)


def test_the_bare_engine_says_what_transformers_says(setting: Setting) -> None:
    work, _ = setting
    ours = OursCase("ours", make_engine(work, "float32"), work, [()] * ROWS).run()
    theirs = transformers_bare(work, load_model(work, torch.float32)).run()
    assert same_share(ours.tokens, theirs.tokens) == (1.0, 1.0)
    assert {len(row) for row in ours.tokens} == {NEW}
    assert len({token for row in ours.tokens for token in row}) > 1, "not one token over and over"
    assert ours.encode_seconds is not None
    assert 0 < ours.encode_seconds < ours.seconds


def test_our_beams_say_what_transformers_beams_say(setting: Setting) -> None:
    work, backbone = setting
    fleet = Fleet(work, backbone, ("float32",), lambda name: name == beams_name("float32"))
    (case,) = fleet.cases()
    ours, theirs = case.run(), transformers_beams(work, load_model(work, torch.float32)).run()
    assert same_share(ours.tokens, theirs.tokens) == (1.0, 1.0)
    assert {len(row) for row in ours.tokens} == {NEW}
    greedy = OursCase("greedy", make_engine(work, "float32"), work, [()] * ROWS).run()
    assert ours.tokens != greedy.tokens, "no contrast"
    assert ours.encode_seconds is not None
    assert 0 < ours.encode_seconds < ours.seconds


def test_kernels_that_do_not_compute_a_dtype_are_refused(setting: Setting) -> None:
    with pytest.raises(EngineRefused, match="not bfloat16"):
        make_engine(setting[0], "bfloat16", "native")


def test_work_is_as_long_as_its_longest_prompt() -> None:
    work = Work(Path(), ((5, 1), (5, 6, 1)), 1, 1, "cpu")
    assert (work.rows, work.source) == (2, 3)


def test_a_fleet_makes_only_what_is_wanted(setting: Setting) -> None:
    work, backbone = setting
    wanted = mixed_name(ROWS, DENSITIES[0], "float32")
    fleet = Fleet(work, backbone, ("float32", "int8"), lambda name: name == wanted)
    (case,) = fleet.cases()
    assert case.name == wanted
    assert list(fleet.backbone_bytes) == ["float32"], "no engine for int8"
    (family,) = fleet.families
    assert (family.name, family.adapters, family.slots) == (wanted, ROWS, 1)
    assert family.union == pytest.approx(DENSITIES[0], abs=0.01)
    bare = OursCase("bare", make_engine(work, "float32"), work, [()] * ROWS).run()
    assert case.run().tokens != bare.tokens, "the tasks change the answers"


def test_a_fleets_lineages_share_all_but_the_last_slot(setting: Setting) -> None:
    work, backbone = setting
    slots, density, union = LINEAGES[0]
    name = unfolded(lineage_name(slots, "float32"))
    fleet = Fleet(work, backbone, ("float32",), lambda each: each == name)
    (case,) = fleet.cases()
    assert isinstance(case, OursCase)
    lineages = case._slots
    assert [len(lineage) for lineage in lineages] == [slots] * ROWS
    assert len({lineage[:-1] for lineage in lineages}) == 1
    assert len({lineage[-1] for lineage in lineages}) == ROWS
    (family,) = fleet.families
    assert family.adapters == slots - 1 + ROWS
    assert (family.density, family.slots) == (density, slots)
    assert family.union == pytest.approx(union, abs=0.02)
    assert family.own_bytes > 0


def test_the_merged_task_is_what_one_task_servers_get(setting: Setting) -> None:
    work, backbone = setting
    fleet = Fleet(work, backbone, ("float32",), lambda name: False)
    assert list(fleet.cases()) == []
    tokens = fleet.one_task_tokens("float32")
    assert fleet.one_task_tokens("float32") == tokens
    engine = make_engine(work, "float32")
    slot = engine.install(engine.pack(fleet.merged_task))
    assert OursCase("again", engine, work, [(slot,)] * ROWS).run().tokens == tokens


def test_cases_are_chosen_by_patterns() -> None:
    plan = EnginePlan(cases=("ours*fp32", "PEFT*"))
    names = ["ours bare fp32", "ours bare int8", "PEFT mixed", "transformers bare"]
    assert [plan.wants(name) for name in names] == [True, False, True, False]
    assert EnginePlan().wants("anything")
    assert [label_of(dtype) for dtype in ("float32", "bfloat16", "int8")] == [
        "fp32",
        "bf16",
        "int8",
    ]


def test_the_offline_engine_serves_a_store(setting: Setting, tmp_path: Path) -> None:
    work, backbone = setting
    tasks = task_names(2)
    done: list[None] = []
    publish_tasks(
        tmp_path / "store", backbone, tasks, density=0.1, on_task=lambda: done.append(None)
    )
    assert len(done) == 2
    assert sorted(Store(tmp_path / "store").pointers()) == ["task0000", "task0001"]
    assert not list(tmp_path.glob("*.safetensors")), "nothing is left beside the store"
    offline = OfflineEngine(backbone, tmp_path / "store", tasks, dtype="float32", work=work)
    questions = [Question(0.0, task, "bababa dedede") for task in tasks]
    assert offline.seconds(questions) > 0
    speed = offline.tokens_per_second([questions, questions[:1]])
    assert 0 < speed < 1e7
    with pytest.raises(KeyError):
        offline.seconds([Question(0.0, "unknown", "bababa")])


def test_publishing_goes_on_from_a_seed_and_targets_some_modules(
    setting: Setting, tmp_path: Path
) -> None:
    _, backbone = setting
    targets = list(backbone.targets)[:1]
    for first in (0, 0, 5):
        publish_tasks(
            tmp_path / f"store{first}",
            backbone,
            ["t"],
            density=0.1,
            first_seed=first,
            targets=targets,
        )
    zero, five = (Store(tmp_path / f"store{first}") for first in (0, 5))
    assert zero.current("t") != five.current("t")
    adapter = read_adapter(zero.path_of(zero.current("t")), backbone)
    assert list(adapter.deltas) == targets


def test_a_load_in_parts_leaves_nothing_installed(setting: Setting, tmp_path: Path) -> None:
    work, backbone = setting
    engine, into = make_engine(work, "float32"), Loading()
    files = [
        write_random(tmp_path / f"{n}.safetensors", backbone, "t", density=0.1, seed=n)
        for n in range(3)
    ]
    measure_parts(engine, backbone, files, into)
    assert into.file_bytes == files[-1].stat().st_size
    assert {name: len(values) for name, values in into.parts.items()} == dict.fromkeys(PARTS, 3)
    assert all(value >= 0 for values in into.parts.values() for value in values)
    assert into.ready == []


def test_bytes_of_the_forms_of_an_adapter(setting: Setting) -> None:
    work, backbone = setting
    found = bytes_of(make_engine(work, "float32"), backbone, 0.1)
    entries = sum(rows * columns for rows, columns in backbone.targets.values())
    assert found.dense == 2 * entries
    assert found.lora == sum(2 * RANK * (r + c) for r, c in backbone.targets.values())
    assert found.file == pytest.approx(entries / 8 + 2 * 0.1 * entries, rel=0.05)
    assert 0 < found.packed < found.dense
    adapter = draw(backbone, "bytes", density=0.1, seed=0)
    assert found.file == sum(delta.nbytes for delta in adapter.deltas.values())
