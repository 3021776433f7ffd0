"""Any linear layer is a site: deltas are added there, and what no row targets changes nothing."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from decoding import first_batch, make_sequence, oracle, run
from factories import random_adapter, tiny_t5
from jumplora_adapters.backbone import Backbone, read_backbone
from jumplora_adapters.delta import CombinedDelta, Delta, LowRankDelta, SparseDelta
from jumplora_adapters.format import Adapter
from jumplora_adapters.manifest import Kind
from jumplora_adapters.network import HEAD, Site
from jumplora_server.core import Kernels
from jumplora_server.engine.engine import Engine
from jumplora_server.engine.native.library import why_unavailable
from jumplora_server.engine.native.runner import NativeRunner
from jumplora_server.engine.native.work import decode_work

native = pytest.mark.skipif(why_unavailable() is not None, reason=str(why_unavailable()))
KERNELS = [pytest.param("native", marks=native), "torch"]
PATHS = [
    pytest.param("float32", "native", marks=native),
    pytest.param("int8", "native", marks=native),
    ("float32", "torch"),
    ("int8", "torch"),
    ("bfloat16", "torch"),
]
LENGTHS = (5, 17, 70, 12)

KINDS: tuple[Kind, ...] = ("masked", "lowrank")
Chosen = Callable[[Site], bool]
GROUPS: dict[str, Chosen] = {
    "q and v": lambda site: site.role in ("q", "v"),
    "k and o": lambda site: site.role in ("k", "o"),
    "cross": lambda site: site.part == "cross",
    "feed-forward": lambda site: site.part == "feed-forward",
    "the gate alone": lambda site: site.role in ("wi", "wi_0"),
    "encoder": lambda site: site.stack == "encoder",
    "head": lambda site: site.role == HEAD,
    "all": lambda site: True,
}


@pytest.fixture(scope="module", params=["v1.0", "v1.1"])
def backbone(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Backbone:
    folder = tmp_path_factory.mktemp(request.param.replace(".", ""))
    return read_backbone(tiny_t5(folder, style=request.param, seed=3))


def make_engine(backbone: Backbone, dtype: str, kernels: Kernels) -> Engine:
    return Engine(
        backbone.path, dtype=dtype, max_rows=12, max_source_tokens=128, max_target_tokens=16,
        kernels=kernels,
    )  # fmt: skip


def prompts() -> list[list[int]]:
    generator = torch.Generator().manual_seed(1)
    return [[*torch.randint(3, 300, (n,), generator=generator).tolist(), 1] for n in LENGTHS]


def adapters(backbone: Backbone) -> dict[str, Adapter]:
    """A masked and a low-rank one of each group, each with a version of its own."""
    made = {}
    for number, (group, chosen) in enumerate(GROUPS.items()):
        names = [name for name, site in backbone.sites.items() if chosen(site)]
        for kind in KINDS:
            manifest, deltas = random_adapter(
                backbone, kind=kind, seed=number, scale=0.2, targets=names, density=0.3
            )
            made[f"{group}, {kind}"] = Adapter(manifest, deltas, f"{number:x}" * 64)
    sparse, low = (made[f"all, {kind}"] for kind in KINDS)
    both: dict[str, Delta] = {}
    for name in backbone.sites:
        first, second = sparse.deltas[name], low.deltas[name]
        assert isinstance(first, SparseDelta)
        assert isinstance(second, LowRankDelta)
        both[name] = CombinedDelta(first, second)
    made["all, combined"] = Adapter(sparse.manifest, both, "c" * 64)
    return made


@pytest.mark.parametrize("kernels", KERNELS)
def test_every_group_of_targets_equals_transformers_with_merged_weights(
    backbone: Backbone, kernels: Kernels
) -> None:
    engine = make_engine(backbone, "float32", kernels)
    bare = run(engine, [make_sequence(prompts()[2], row=0)])[0]
    changed = 0
    for name, adapter in adapters(backbone).items():
        slot = engine.install(engine.pack(adapter))
        for prompt in prompts()[:3]:
            found = run(engine, [make_sequence(prompt, row=0, slots=(slot,))])[0]
            assert found == oracle(backbone.path, prompt, [dict(adapter.deltas)]), name
        changed += found != bare
    assert changed >= 8, "most of the adapters must change the answer for this to show anything"


@pytest.mark.parametrize(("dtype", "kernels"), PATHS)
def test_a_row_beside_any_targets_has_the_tokens_that_it_has_alone(
    backbone: Backbone, dtype: str, kernels: Kernels
) -> None:
    engine = make_engine(backbone, dtype, kernels)
    slots = [engine.install(engine.pack(adapter)) for adapter in adapters(backbone).values()]
    lineages = [(), *((slot,) for slot in slots[:9]), (slots[0], slots[-2]), (slots[-1],)]
    sequences = [
        make_sequence(prompts()[i % len(LENGTHS)], row=i, slots=lineage)
        for i, lineage in enumerate(lineages)
    ]
    mixed = run(engine, sequences)
    for i, lineage in enumerate(lineages):
        prompt = prompts()[i % len(LENGTHS)]
        alone = run(engine, [make_sequence(prompt, row=3, slots=lineage)])[0]
        assert mixed[i] == alone, f"row {i}"


class Asked:
    """A plan that adds nothing, and knows which sites asked it."""

    def __init__(self) -> None:
        self.sites: set[str] = set()

    def has(self, module: str) -> bool:
        self.sites.add(module)
        return False

    def add(self, module: str, x: torch.Tensor, y: torch.Tensor) -> None:
        raise AssertionError(f"{module} has no delta")

    def instead(self, module: str) -> tuple[()]:
        return ()


def test_a_site_is_decoded_or_computes_once_a_prompt(
    backbone: Backbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    plans = {"encode": Asked(), "decode": Asked()}
    monkeypatch.setattr(
        "jumplora_server.engine.torch_runner.make_plan",
        lambda forms, spans, phase, device: plans[phase],
    )
    engine = make_engine(backbone, "float32", "torch")
    engine.step(first_batch([make_sequence(prompts()[0], row=0)]))
    decoded = {name for name, site in backbone.sites.items() if site.is_decoded}
    assert plans["decode"].sites == decoded
    assert plans["encode"].sites == backbone.sites.keys() - decoded


@native
def test_a_step_names_the_targets_of_its_rows_and_no_others(backbone: Backbone) -> None:
    engine = make_engine(backbone, "float32", "native")
    runner = engine.runner
    assert isinstance(runner, NativeRunner)
    made = adapters(backbone)
    packed = {name: runner.pack(adapter) for name, adapter in made.items()}

    def named(*lineages: tuple[str, ...]) -> set[str]:
        slots = [tuple(packed[n] for n in names) for names in lineages]
        work = decode_work(slots, len(backbone.sites))
        bits = int.from_bytes(work.targeted, "little")
        assert len(work.targeted) * 8 >= len(backbone.sites)
        return {name for i, name in enumerate(backbone.sites) if bits >> i & 1}

    small, head = "q and v, masked", "head, lowrank"
    assert named((), ()) == set()
    assert named((), (small,)) == set(made[small].manifest.targets)
    assert named((head,), (small,), (small, head)) == {HEAD, *made[small].manifest.targets}


def test_an_adapter_of_every_site_packs_to_the_bytes_of_its_forms(backbone: Backbone) -> None:
    engine = make_engine(backbone, "float32", "torch")
    packed = engine.pack(adapters(backbone)["all, masked"])
    assert set(packed.forms) == set(backbone.sites)
    assert packed.nbytes == sum(form.nbytes for form in packed.forms.values())
