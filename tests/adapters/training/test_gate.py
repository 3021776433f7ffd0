"""The gate against values worked out by hand from its definition."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from jumplora_adapters.training.gate import Estimator, Gate, jump_gate


def _log_tau(tau: float) -> torch.Tensor:
    return torch.tensor(math.log(tau), requires_grad=True)


def test_entries_pass_unchanged_or_not_at_all() -> None:
    z = torch.tensor([[0.7, -0.7, 0.3], [-0.3, 0.0, 0.51]])
    gated = jump_gate(z, _log_tau(0.5))
    assert gated.tolist() == torch.tensor([[0.7, -0.7, 0.0], [0.0, 0.0, 0.51]]).tolist()


def test_an_entry_equal_to_the_threshold_does_not_pass() -> None:
    log_tau = torch.tensor(0.0)  # exp(0) is exactly 1
    assert jump_gate(torch.tensor([1.0, -1.0, 1.0000001]), log_tau).tolist() == [
        0.0,
        0.0,
        pytest.approx(1.0000001),
    ]


def test_gradient_passes_where_the_entry_passed() -> None:
    z = torch.tensor([[0.7, -0.7], [0.3, -0.3]], requires_grad=True)
    jump_gate(z, _log_tau(0.5)).backward(torch.tensor([[1.0, 2.0], [3.0, 4.0]]))  # type: ignore[no-untyped-call]
    assert z.grad is not None
    assert z.grad.tolist() == [[1.0, 2.0], [0.0, 0.0]]


@pytest.mark.parametrize(
    ("estimator", "expected"),
    [
        # Near tau = 0.05 within 0.0005 are 0.0504 (sign +, gradient 3) and -0.0496 (sign -,
        # gradient 5); 0.0507 is not. Sum 3 - 5 = -2, mean over six -1/3; times -(0.05 / 0.001)
        # for tau, and times 0.05 once more for its logarithm.
        pytest.param("sum", 5.0, id="sum"),
        pytest.param("mean", 5.0 / 6, id="mean-as-published"),
    ],
)
def test_threshold_gradient(estimator: Estimator, expected: float) -> None:
    z = torch.tensor([[0.5, -0.5, 0.0504], [-0.0496, 0.0507, 0.0]], requires_grad=True)
    log_tau = _log_tau(0.05)
    gradient = torch.tensor([[1.0, 2.0, 3.0], [5.0, 7.0, 11.0]])
    jump_gate(z, log_tau, 0.001, estimator).backward(gradient)  # type: ignore[no-untyped-call]
    assert log_tau.grad is not None
    assert float(log_tau.grad) == pytest.approx(expected, rel=1e-4)


def test_a_wider_band_reaches_further_and_weighs_less() -> None:
    z = torch.tensor([0.5, 0.0507], requires_grad=True)
    log_tau = _log_tau(0.05)
    jump_gate(z, log_tau, 0.01, "sum").backward(torch.tensor([1.0, 7.0]))  # type: ignore[no-untyped-call]
    assert log_tau.grad is not None
    assert float(log_tau.grad) == pytest.approx(-(0.05 * 0.05 / 0.01) * 7.0, rel=1e-4)


class _PublishedGate(torch.autograd.Function):
    """The published form over tau itself: its caller exponentiates, autograd adds that factor."""

    @staticmethod
    def forward(ctx: Any, z: torch.Tensor, tau: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(z, tau)
        return z * (z.abs() > tau)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        z, tau = ctx.saved_tensors
        rect = ((z.abs() - tau) / 0.001).abs() < 0.5
        return gradient * (z.abs() > tau), -(tau / 0.001) * (rect * z.sign() * gradient).mean()


def test_the_mean_estimator_is_the_published_one_under_autograds_own_chain_rule() -> None:
    generator = torch.Generator().manual_seed(0)
    z = torch.randn(64, 64, generator=generator) * 0.02
    gradient = torch.randn(64, 64, generator=generator)
    ours, published = _log_tau(0.009), _log_tau(0.009)
    jump_gate(z, ours, 0.001, "mean").backward(gradient)  # type: ignore[no-untyped-call]
    _PublishedGate.apply(z, published.exp()).backward(gradient)  # type: ignore[no-untyped-call]
    assert published.grad is not None
    assert float(published.grad) != 0
    assert float(ours.grad) == pytest.approx(float(published.grad), rel=1e-5)  # type: ignore[arg-type]


@pytest.mark.parametrize("tau", [0.009, 0.05])
def test_the_sum_estimator_is_the_slope_of_the_loss(tau: float) -> None:
    # Many evenly spaced z make the loss sum(G(z)) smooth in tau; its slope by finite difference.
    z = torch.linspace(0.0, 0.1, 2_000_001, dtype=torch.float64)
    step = 0.02

    def loss(log_tau: float) -> float:
        return float(torch.where(z > math.exp(log_tau), z, 0.0).sum())

    slope = (loss(math.log(tau) + step) - loss(math.log(tau) - step)) / (2 * step)
    log_tau = _log_tau(tau)
    values = z.float().requires_grad_()
    jump_gate(values, log_tau, 0.001, "sum").sum().backward()  # type: ignore[no-untyped-call]
    assert log_tau.grad is not None
    assert float(log_tau.grad) == pytest.approx(slope, rel=0.02)


@given(tau=st.floats(1e-6, 1e3))
def test_setting_tau_cuts_tau_itself_and_little_more(tau: float) -> None:
    gate = Gate(bandwidth=0.001, estimator="mean")
    gate.set_tau(tau)
    entry = float(torch.tensor(tau, dtype=torch.float32))
    assert entry <= gate.tau <= entry * (1 + 4e-6)


def test_a_fresh_gate_is_open_and_starts_where_the_method_says() -> None:
    gate = Gate(bandwidth=0.001, estimator="mean")
    assert gate.fraction == 0.0
    assert gate.log_tau.dtype == torch.float32
    assert float(gate.log_tau.detach()) == pytest.approx(-4.7)
