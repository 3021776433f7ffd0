"""The gate against values worked out by hand from its definition."""

from __future__ import annotations

import math

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
        # gradient 5); 0.0507 is not. Sum 3 - 5 = -2, mean over six -1/3; times -(0.05 / 0.001).
        pytest.param("sum", 100.0, id="sum"),
        pytest.param("mean", 100.0 / 6, id="mean-as-published"),
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
    assert float(log_tau.grad) == pytest.approx(-(0.05 / 0.01) * 7.0, rel=1e-4)


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
