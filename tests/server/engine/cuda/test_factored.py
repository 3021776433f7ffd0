"""The factored form: found where factors give the stored mask and values, refused elsewhere."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from device_slots import CPU, adapter_of, factor_pair
from jumplora_adapters.delta import SparseDelta
from jumplora_server.engine.cuda.factored import (
    MAX_EXCEPTIONS,
    has_mask,
    kept_entries,
    product_in_order,
    threshold_of,
    try_factor,
)
from jumplora_server.engine.cuda.forms import factor_all

SHAPE = (40, 56)
TAU, SCALE = 1.5, 4.0


@settings(max_examples=40)
@given(
    rank=st.integers(1, 9),
    tau=st.sampled_from([0.0, 0.3, TAU, 100.0]),
    dtype=st.sampled_from([torch.float32, torch.float16, torch.bfloat16]),
    seed=st.integers(0, 50),
)
def test_what_a_file_was_made_from_gives_its_mask(
    rank: int, tau: float, dtype: torch.dtype, seed: int
) -> None:
    a, b = factor_pair(SHAPE, rank, seed)
    delta = SparseDelta.from_factors(a, b, tau, SCALE, dtype)
    factors = try_factor(delta, a, b, tau=tau, scale=SCALE, device=CPU)
    assert factors is not None
    assert factors.exceptions.numel() <= 2
    assert torch.equal(kept_entries(factors), delta.support())


def test_the_product_sums_in_order_with_every_step_rounded() -> None:
    a, b = factor_pair(SHAPE, 5)
    expected = torch.zeros(SHAPE)
    for row in range(0, SHAPE[0], 13):
        for column in range(0, SHAPE[1], 11):
            total = torch.tensor(0.0)
            for k in range(5):
                total = total + (b[row, k] * a[k, column])
            expected[row, column] = total
            assert product_in_order(a, b)[row, column] == total


def crafted(flips: int) -> tuple[SparseDelta, torch.Tensor, torch.Tensor]:
    """A delta whose mask differs from its factors' in the first `flips` entries."""
    a, b = factor_pair(SHAPE, 3)
    product = product_in_order(a, b)
    keep = product.abs() > TAU
    keep.view(-1)[:flips] = ~keep.view(-1)[:flips]
    return SparseDelta.from_dense(product * keep * SCALE), a, b


@pytest.mark.parametrize(
    ("flips", "found"), [(0, True), (1, True), (MAX_EXCEPTIONS, True), (MAX_EXCEPTIONS + 1, False)]
)
def test_too_many_exceptions_are_no_factored_form(flips: int, found: bool) -> None:
    delta, a, b = crafted(flips)
    factors = try_factor(delta, a, b, tau=TAU, scale=SCALE, device=CPU)
    assert (factors is not None) == found
    if factors is not None:
        assert factors.exceptions.tolist() == list(range(flips))


@pytest.mark.parametrize(
    ("scale", "noise"), [(SCALE * 1.01, 0.0), (-SCALE, 0.0), (SCALE, 3e-5)],
    ids=["another scale", "another sign", "another state"],
)  # fmt: skip
def test_factors_that_give_other_values_are_refused(scale: float, noise: float) -> None:
    delta, a, b = crafted(0)
    values = delta.values * (1 + noise)
    other = SparseDelta(delta.shape, delta.mask, values)
    assert try_factor(other, a, b, tau=TAU, scale=scale, device=CPU) is None


def test_factors_of_another_shape_are_refused() -> None:
    delta, a, b = crafted(0)
    assert try_factor(delta, a[:, :-1], b, tau=TAU, scale=SCALE, device=CPU) is None


def test_a_mask_of_another_digest_is_told_apart() -> None:
    delta, _, _ = crafted(0)
    keep = delta.support()
    assert has_mask(keep, delta)
    keep[0, 0] = ~keep[0, 0]
    assert not has_mask(keep, delta)


@pytest.mark.parametrize(
    ("thresholds", "expected"),
    [
        ({"global": 1.0}, 1.0),
        ({"encoder.block.1": 2.0, "encoder.block.11": 3.0}, 2.0),
        ({"encoder.block.1": 2.0, "encoder.block.1.layer.0.SelfAttention.q": 4.0}, 4.0),
        ({"decoder.block.1": 2.0}, None),
    ],
    ids=["global", "its block", "its own", "none"],
)
def test_a_module_has_the_threshold_of_its_narrowest_group(
    thresholds: dict[str, float], expected: float | None
) -> None:
    assert threshold_of("encoder.block.1.layer.0.SelfAttention.q", thresholds) == expected


@pytest.mark.parametrize(
    ("alpha", "thresholds", "found"),
    [
        (12.0, {"global": TAU}, {"m"}),
        (None, {"global": TAU}, set()),
        (12.0, None, set()),
        (12.0, {"another": TAU}, set()),
    ],
    ids=["all there", "no alpha", "no thresholds", "none for the module"],
)
def test_an_adapter_says_enough_or_stays_packed(
    alpha: float | None, thresholds: dict[str, float] | None, found: set[str]
) -> None:
    delta, a, b = crafted(0)
    adapter = adapter_of(
        {"m": delta, "bare": delta},
        factors={"m": (a, b)}, thresholds=thresholds, rank=3, alpha=alpha,
    )  # fmt: skip
    assert set(factor_all(adapter, CPU)) == found
