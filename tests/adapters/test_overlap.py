from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from factories import random_adapter, toy_backbone
from jumplora_adapters.delta import CombinedDelta, Delta, LowRankDelta, SparseDelta
from jumplora_adapters.errors import FormatError
from jumplora_adapters.overlap import (
    PairOverlap,
    overlap_pair,
    overlaps,
    support_of,
    supports_of,
    union_supports,
)

Supports = dict[str, torch.Tensor]


def _pair(first: Supports, second: Supports) -> PairOverlap:
    """The overlap of two adapters given by bool matrices."""
    deltas = [
        {name: SparseDelta.from_dense(mask.float()) for name, mask in adapter.items()}
        for adapter in (first, second)
    ]
    return overlap_pair("a", supports_of(deltas[0]), "b", supports_of(deltas[1]))


def _random(shapes: dict[str, tuple[int, int]], density: dict[str, float], seed: int) -> Supports:
    generator = torch.Generator().manual_seed(seed)
    return {
        name: torch.rand(shape, generator=generator) < density[name]
        for name, shape in shapes.items()
    }


@given(data=st.data())
def test_counts_agree_with_dense_masks(data: st.DataObject) -> None:
    rows, columns = data.draw(st.integers(1, 9)), data.draw(st.integers(1, 9))
    bits = st.lists(st.booleans(), min_size=rows * columns, max_size=rows * columns)
    first = torch.tensor(data.draw(bits)).view(rows, columns)
    second = torch.tensor(data.draw(bits)).view(rows, columns)
    pair = _pair({"m": first}, {"m": second})
    (module,) = pair.modules
    intersection, union = int((first & second).sum()), int((first | second).sum())
    assert (module.first, module.second) == (int(first.sum()), int(second.sum()))
    assert (module.intersection, module.union) == (intersection, union)
    assert (pair.intersection, pair.union) == (intersection, union)
    assert pair.jaccard == (intersection / union if union else 0.0)
    p, q = int(first.sum()) / first.numel(), int(second.sum()) / second.numel()
    assert module.expected_intersection == pytest.approx(p * q * first.numel())
    assert module.expected_union == pytest.approx((p + q - p * q) * first.numel())


def test_chance_is_the_mean_of_random_supports() -> None:
    """Monte Carlo over supports of the same sizes, shuffled within each module."""
    shapes = {"dense": (24, 32), "sparse": (32, 32)}
    first = _random(shapes, {"dense": 0.5, "sparse": 0.02}, seed=1)
    second = _random(shapes, {"dense": 0.4, "sparse": 0.05}, seed=2)
    chance = _pair(first, second).chance
    generator = np.random.default_rng(3)
    jaccards = []
    for _ in range(400):
        intersection = union = 0
        for name in shapes:
            left = generator.permutation(first[name].flatten().numpy())
            right = second[name].flatten().numpy()
            intersection += int((left & right).sum())
            union += int((left | right).sum())
        jaccards.append(intersection / union)
    error = np.std(jaccards) / np.sqrt(len(jaccards))
    assert chance == pytest.approx(np.mean(jaccards), abs=4 * error)
    # The whole-model formula would be far off, because the modules' densities differ.
    p, q = (
        sum(int(mask.sum()) for mask in side.values()) / (24 * 32 + 32 * 32)
        for side in (first, second)
    )
    assert abs(p * q / (p + q - p * q) - chance) > 20 * error


def test_equal_densities_give_the_published_formula() -> None:
    mask = torch.zeros(50, 20, dtype=torch.bool)
    mask.view(-1)[:124] = True  # 87.6 % sparse
    assert _pair({"m": mask}, {"m": mask}).chance == pytest.approx(0.124 / (2 - 0.124))


@pytest.mark.parametrize(
    ("first", "second", "jaccard", "chance"),
    [
        pytest.param([1, 1, 0, 0], [1, 1, 0, 0], 1.0, 1 / 3, id="equal"),
        pytest.param([1, 1, 0, 0], [0, 0, 1, 1], 0.0, 1 / 3, id="disjoint"),
        pytest.param([1, 1, 1, 1], [1, 0, 0, 0], 0.25, 0.25, id="one is everything"),
        pytest.param([0, 0, 0, 0], [0, 0, 0, 0], 0.0, 0.0, id="both empty"),
        pytest.param([0, 0, 0, 0], [1, 1, 0, 0], 0.0, 0.0, id="one empty"),
    ],
)
def test_small_cases(first: list[int], second: list[int], jaccard: float, chance: float) -> None:
    masks = [torch.tensor(bits, dtype=torch.bool).view(2, 2) for bits in (first, second)]
    pair = _pair({"m": masks[0]}, {"m": masks[1]})
    assert pair.jaccard == jaccard
    assert pair.chance == pytest.approx(chance)
    assert pair.times_chance == pytest.approx(jaccard / chance if chance else 0.0)


def test_a_module_that_one_lacks_is_empty_there() -> None:
    full = torch.ones(3, 3, dtype=torch.bool)
    pair = _pair({"x": full, "y": full}, {"x": full})
    assert [(module.module, module.intersection, module.union) for module in pair.modules] == [
        ("x", 9, 9),
        ("y", 0, 9),
    ]
    assert pair.jaccard == 0.5
    assert (pair.first_density, pair.second_density) == (1.0, 0.5)


@pytest.mark.parametrize("shape", [(2, 4), (3, 3), (5, 7)])
def test_low_rank_keeps_everything_and_no_padding(shape: tuple[int, int]) -> None:
    delta: Delta = LowRankDelta(torch.ones(2, shape[1]), torch.ones(shape[0], 2))
    support = support_of(delta)
    ours = SparseDelta.from_dense(torch.ones(shape))
    assert support.kept == shape[0] * shape[1]
    assert np.array_equal(support.bits, ours.mask.numpy())


def test_a_low_rank_part_beside_a_mask_is_left_out() -> None:
    sparse = SparseDelta.from_dense(torch.eye(3))
    delta = CombinedDelta(sparse, LowRankDelta(torch.ones(1, 3), torch.ones(3, 1)))
    assert support_of(delta).kept == 3
    assert np.array_equal(support_of(delta).bits, support_of(sparse).bits)


def test_union_of_a_lineage() -> None:
    shapes = {"m": (9, 5), "n": (4, 4)}
    sides = [_random(shapes, {"m": 0.3, "n": 0.2}, seed) for seed in range(3)]
    del sides[1]["n"]
    packed = [
        supports_of({name: SparseDelta.from_dense(mask.float()) for name, mask in side.items()})
        for side in sides
    ]
    union = union_supports(packed)
    assert union["m"].kept == int((sides[0]["m"] | sides[1]["m"] | sides[2]["m"]).sum())
    assert union["n"].kept == int((sides[0]["n"] | sides[2]["n"]).sum())
    assert packed[0]["m"].kept == int(sides[0]["m"].sum())  # the parts stay as they were


def test_all_pairs_in_order() -> None:
    backbone = toy_backbone({"m": (64, 48), "n": (32, 48)})
    adapters = {
        name: supports_of(random_adapter(backbone, seed=seed, density=0.2)[1])
        for seed, name in enumerate(["x", "y", "z"])
    }
    pairs = overlaps(adapters)
    assert [(pair.first, pair.second) for pair in pairs] == list(combinations("xyz", 2))
    assert all(len(pair.modules) == len(backbone.targets) for pair in pairs)
    assert all(0.8 < pair.times_chance < 1.2 for pair in pairs)


def test_other_shapes_are_refused() -> None:
    with pytest.raises(FormatError, match="different backbones"):
        _pair({"m": torch.ones(2, 3).bool()}, {"m": torch.ones(3, 2).bool()})
    small, large = (
        {"m": support_of(SparseDelta.from_dense(torch.ones(size, 2)))} for size in (2, 3)
    )
    with pytest.raises(FormatError, match="different backbones"):
        union_supports([small, large])
