"""The adapter file: what is written is read, and what is bad is not written."""

from __future__ import annotations

import hashlib
import json
import time
from pathlib import Path
from typing import get_args

import pytest
import torch
from safetensors.torch import load_file

from crafted import Parts, frame, sound_adapter
from factories import random_adapter, random_profile, toy_backbone, write_random_adapter
from jumplora_adapters.architecture import architecture_of
from jumplora_adapters.delta import CombinedDelta, Delta, LowRankDelta, SparseDelta, sparse_part
from jumplora_adapters.errors import FormatError
from jumplora_adapters.format import (
    describe,
    kind_of,
    read_adapter,
    read_supports,
    write_adapter,
)
from jumplora_adapters.header import MAX_HEADER_BYTES, MAX_TENSORS, read_manifest
from jumplora_adapters.manifest import MAX_MANIFEST_BYTES, MAX_TARGETS, Kind, canonical_json
from jumplora_adapters.network import sites
from jumplora_adapters.overlap import supports_of

BACKBONE = toy_backbone()
Q, _ = BACKBONE.targets
DTYPES = [torch.float32, torch.float16, torch.bfloat16]


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The bytes of a sound masked adapter in bfloat16, with factors for q."""
    return sound_adapter(tmp_path_factory.mktemp("good"), BACKBONE)


KINDS: tuple[Kind, ...] = get_args(Kind)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_what_is_written_is_read(tmp_path: Path, kind: Kind, dtype: torch.dtype) -> None:
    manifest, deltas = random_adapter(
        BACKBONE, kind=kind, dtype=dtype, density=0.3, targets=tuple(BACKBONE.sites)
    )
    assert kind_of(deltas.values()) == kind
    path = tmp_path / "a.safetensors"
    digest = write_adapter(path, manifest, deltas)
    adapter = read_adapter(path, BACKBONE, expect_digest=digest)
    assert adapter.manifest == manifest == read_manifest(path)
    assert manifest.format_version == 2
    assert adapter.digest == digest == hashlib.sha256(path.read_bytes()).hexdigest()
    assert adapter.profile is None
    assert list(adapter.deltas) == list(BACKBONE.sites)
    for name, delta in adapter.deltas.items():
        assert type(delta) is type(deltas[name])
        assert delta.digest() == deltas[name].digest()
        assert delta.shape == BACKBONE.sites[name].shape


def test_a_mask_may_have_its_factors_beside_a_low_rank_part(tmp_path: Path) -> None:
    manifest, deltas = random_adapter(BACKBONE, kind="combined", rank=2)
    assert isinstance(deltas[Q], CombinedDelta)
    factors = {Q: (torch.randn(2, 5), torch.randn(3, 2))}
    write_adapter(tmp_path / "a", manifest, deltas, factors)
    adapter = read_adapter(tmp_path / "a", BACKBONE)
    assert adapter.deltas[Q].digest() == deltas[Q].digest()
    assert torch.equal(adapter.factors[Q][0], factors[Q][0])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dev_texts", [0, 2])
def test_a_profile_is_carried(tmp_path: Path, kind: Kind, dev_texts: int) -> None:
    spec, profile = random_profile(dev_texts=dev_texts, group="twins")
    manifest, deltas = random_adapter(BACKBONE, kind=kind)
    manifest = manifest.model_copy(update={"profile": spec})
    write_adapter(tmp_path / "a", manifest, deltas, profile=profile)
    adapter = read_adapter(tmp_path / "a", BACKBONE)
    assert adapter.manifest.profile == spec == read_manifest(tmp_path / "a").profile
    assert adapter.profile is not None
    written, read = profile.tensors(), adapter.profile.tensors()
    assert written.keys() == read.keys()
    assert all(torch.equal(read[name], tensor) for name, tensor in written.items())
    assert spec.nbytes == sum(tensor.nbytes for tensor in read.values())


@pytest.mark.parametrize("has", ["section", "tensors"])
def test_a_profile_is_written_whole_or_not(tmp_path: Path, has: str) -> None:
    spec, profile = random_profile()
    manifest, deltas = random_adapter(BACKBONE)
    manifest = manifest.model_copy(update={"profile": spec if has == "section" else None})
    with pytest.raises(FormatError, match="profile") as caught:
        write_adapter(
            tmp_path / "a", manifest, deltas, profile=profile if has == "tensors" else None
        )
    assert caught.value.code == "names"
    assert list(tmp_path.iterdir()) == []


def test_a_profile_of_no_texts_is_not_written(tmp_path: Path) -> None:
    spec, profile = random_profile()
    manifest, deltas = random_adapter(BACKBONE)
    manifest = manifest.model_copy(update={"profile": spec})
    profile.counts[1] = 0
    with pytest.raises(FormatError, match=r"profile\.counts") as caught:
        write_adapter(tmp_path / "a", manifest, deltas, profile=profile)
    assert caught.value.code == "profile"
    assert list(tmp_path.iterdir()) == []


def test_all_sites_of_the_largest_published_t5_fit(tmp_path: Path) -> None:
    """T5 v1.1 XXL has 24 + 24 gated layers; here all have both parts, factors and a profile."""
    architecture = architecture_of(
        {"model_type": "t5", "num_layers": 24, "feed_forward_proj": "gated-gelu"}
    )
    backbone = toy_backbone(dict.fromkeys(sites(architecture), (2, 3)))
    names = tuple(backbone.sites)
    assert len(names) == 24 * (4 + 3) + 24 * (8 + 3) + 1 <= MAX_TARGETS
    manifest, masked = random_adapter(backbone, targets=names, rank=1)
    _, low_rank = random_adapter(backbone, targets=names, rank=1, kind="lowrank")
    deltas: dict[str, Delta] = {}
    for name in names:
        first, second = masked[name], low_rank[name]
        assert isinstance(first, SparseDelta)
        assert isinstance(second, LowRankDelta)
        deltas[name] = CombinedDelta(first, second)
    spec, profile = random_profile()
    manifest = manifest.model_copy(update={"kind": "combined", "profile": spec})
    factors = {name: (torch.ones(1, 3), torch.ones(2, 1)) for name in names}
    path = tmp_path / "a"
    write_adapter(path, manifest, deltas, factors, profile)
    adapter = read_adapter(path, backbone)
    assert list(adapter.deltas) == list(names)
    tensors = len(load_file(path))
    assert tensors == 6 * len(names) + 6
    # Half of each bound is left for the rest of the manifest and longer offsets.
    assert tensors <= 0.65 * MAX_TENSORS
    assert int.from_bytes(path.read_bytes()[:8], "little") < MAX_HEADER_BYTES / 2
    assert len(canonical_json(adapter.manifest)) < MAX_MANIFEST_BYTES / 2


def test_safetensors_reads_the_same_tensors(good: bytes, tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    path.write_bytes(good)
    tensors = load_file(path)
    adapter = read_adapter(path, BACKBONE)
    delta = adapter.deltas[Q]
    assert isinstance(delta, SparseDelta)
    assert torch.equal(tensors[f"{Q}.mask"], delta.mask)
    assert torch.equal(tensors[f"{Q}.values"], delta.values)
    assert torch.equal(tensors[f"{Q}.factor_A"], adapter.factors[Q][0])
    assert list(adapter.factors) == [Q]


def test_equal_input_gives_equal_bytes(tmp_path: Path) -> None:
    manifest, deltas = random_adapter(BACKBONE)
    backwards = dict(reversed(deltas.items()))
    one = write_adapter(tmp_path / "one", manifest, deltas)
    two = write_adapter(tmp_path / "two", manifest, backwards)
    assert one == two
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()


def test_facts_about_the_deltas_are_filled_in(tmp_path: Path) -> None:
    manifest, deltas = random_adapter(BACKBONE)
    bare = manifest.model_copy(update={"density": {}, "mask_digest": None})
    write_adapter(tmp_path / "a", bare, deltas)
    assert read_adapter(tmp_path / "a", BACKBONE).manifest == manifest


def test_a_module_may_be_empty(tmp_path: Path) -> None:
    _, deltas = random_adapter(BACKBONE)
    deltas[Q] = SparseDelta.from_dense(torch.zeros(3, 5))
    manifest = describe(random_adapter(BACKBONE)[0], deltas)
    write_adapter(tmp_path / "a", manifest, deltas)
    assert read_adapter(tmp_path / "a", BACKBONE).deltas[Q].nnz == 0


def test_large_modules_are_quick(tmp_path: Path) -> None:
    """A sixteenth of T5-large's 144 modules; a loop per element would take minutes."""
    backbone = toy_backbone({f"encoder.block.{i}.q": (1024, 1024) for i in range(9)})
    generator = torch.Generator().manual_seed(0)
    dense = torch.randn(1024, 1024, generator=generator)
    dense[torch.rand(1024, 1024, generator=generator) > 0.05] = 0
    deltas: dict[str, Delta] = {
        name: SparseDelta.from_dense(dense, torch.bfloat16) for name in backbone.targets
    }
    template = random_adapter(toy_backbone({"encoder.block.0.q": (1, 1)}))[0]
    manifest = template.model_copy(update={"targets": tuple(backbone.targets)})
    started = time.thread_time()
    write_adapter(tmp_path / "a", manifest, deltas)
    read_adapter(tmp_path / "a", backbone)
    assert time.thread_time() - started < 5


def test_unaligned_files_are_read(good: bytes, tmp_path: Path) -> None:
    """Other writers need not pad the header to 8 bytes as safetensors does."""
    parts = Parts.of(good)
    text = json.dumps(parts.header)
    (tmp_path / "odd").write_bytes(frame(text + " " * ((1 - len(text)) % 8), parts.data))
    (tmp_path / "even").write_bytes(good)
    odd, even = (read_adapter(tmp_path / name, BACKBONE) for name in ("odd", "even"))
    assert odd.digest != even.digest
    for name in BACKBONE.targets:
        assert odd.deltas[name].digest() == even.deltas[name].digest()


@pytest.mark.parametrize(
    ("change", "code"),
    [
        pytest.param({Q: None}, "names", id="a target without a delta"),
        pytest.param({"other.q": LowRankDelta(torch.ones(1, 5), torch.ones(3, 1))}, "names",
                     id="a delta without a target"),
        pytest.param({Q: LowRankDelta(torch.ones(1, 5), torch.ones(3, 1))}, "names",
                     id="a delta of the other kind"),
        pytest.param({Q: SparseDelta((3, 5), torch.zeros(2, dtype=torch.uint8), torch.ones(1))},
                     "popcount", id="a delta that does not fit itself"),
    ],
)  # fmt: skip
def test_bad_adapters_are_not_written(
    tmp_path: Path, change: dict[str, Delta | None], code: str
) -> None:
    manifest, deltas = random_adapter(BACKBONE)
    changed = {name: delta for name, delta in {**deltas, **change}.items() if delta is not None}
    with pytest.raises(FormatError) as caught:
        write_adapter(tmp_path / "a", manifest, changed)
    assert caught.value.code == code
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("rank", "factor_a", "code"),
    [
        (None, torch.ones(2, 5), "manifest"),
        (1, torch.ones(2, 5), "shape"),
        (2, torch.full((2, 5), float("nan")), "nonfinite"),
    ],
    ids=["no rank", "over the rank", "NaN"],
)
def test_bad_factors_are_not_written(
    tmp_path: Path, rank: int | None, factor_a: torch.Tensor, code: str
) -> None:
    manifest, deltas = random_adapter(BACKBONE)
    manifest = manifest.model_copy(update={"rank": rank})
    with pytest.raises(FormatError) as caught:
        write_adapter(tmp_path / "a", manifest, deltas, {Q: (factor_a, torch.ones(3, 2))})
    assert caught.value.code == code
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("kind", KINDS)
def test_supports_are_those_of_the_masks(tmp_path: Path, kind: Kind) -> None:
    backbone = toy_backbone()
    names = tuple(backbone.sites)
    path = write_random_adapter(tmp_path, backbone, kind=kind, density=0.4, targets=names)
    read = read_supports(path, backbone)
    deltas = read_adapter(path, backbone).deltas
    expected = supports_of({n: d for n, d in deltas.items() if sparse_part(d) is not None})
    assert len(expected) == {"masked": 3, "combined": 2, "lowrank": 0}[kind]
    assert read.keys() == expected.keys()
    for name, support in expected.items():
        assert read[name].shape == support.shape
        assert read[name].bits.tolist() == support.bits.tolist()


def test_supports_of_another_layout_are_refused(tmp_path: Path) -> None:
    path = write_random_adapter(tmp_path, toy_backbone())
    other = toy_backbone(dict.fromkeys(toy_backbone().targets, (4, 5)))
    with pytest.raises(FormatError) as caught:
        read_supports(path, other)
    assert caught.value.code == "shape"


def test_an_old_file_is_replaced_whole(tmp_path: Path) -> None:
    path = write_random_adapter(tmp_path, BACKBONE)
    before = path.read_bytes()
    manifest, deltas = random_adapter(BACKBONE, seed=1)
    write_adapter(path, manifest, deltas)
    assert path.read_bytes() != before
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]
