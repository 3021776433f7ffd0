"""One step of the published layer, every number worked out by hand in the comments.

Z = B A, r = 1, d_out = d_in = 2, alpha / r = 4, tau = 0.4, f = 0.75, bandwidth 0.25.
"""

from __future__ import annotations

import math

import pytest
import torch

from jumplora_adapters.continual.penalty import EllaPenalty
from jumplora_adapters.training.gate import Gate
from jumplora_adapters.training.layer import AdaptedLinear
from jumplora_adapters.training.schedule import Schedule
from jumplora_adapters.training.threshold import threshold_for


@pytest.fixture
def layer() -> AdaptedLinear:
    gate = Gate(bandwidth=0.25, estimator="mean")
    with torch.no_grad():
        gate.log_tau.fill_(math.log(0.4))
    gate.fraction = 0.75
    made = AdaptedLinear(
        torch.zeros(2, 2), rank=1, scale=4.0, gate=gate, seed=torch.Generator().manual_seed(0)
    )
    with torch.no_grad():
        made.A.copy_(torch.tensor([[1.0, 2.0]]))
        made.B.copy_(torch.tensor([[0.5], [-0.25]]))
    return made  # Z = [[0.5, 1.0], [-0.25, -0.5]]: all but -0.25 pass


def test_forward(layer: AdaptedLinear) -> None:
    # Z_f = [[0.5, 1.0], [0.25 * -0.25, -0.5]]; y = 4 x Z_f^T
    # y_0 = 4 (0.5 - 1.0) = -2, y_1 = 4 (-0.0625 + 0.5) = 1.75
    y = layer(torch.tensor([[1.0, -1.0]]))
    assert y.tolist() == [[pytest.approx(-2.0), pytest.approx(1.75)]]


def test_ellas_term(layer: AdaptedLinear) -> None:
    past = torch.tensor([[1.0, 0.5], [2.0, -1.0]])
    # 4 Z_f * past = [[2, 2], [-0.5, 2]]; 0.1 * (4 + 4 + 0.25 + 4)
    assert EllaPenalty({"q": layer}, {"q": past}, 0.1).add() == pytest.approx(1.225)
    # d / d Z_f = 2 * 0.1 * 4 * [[2 * 1, 2 * 0.5], [-0.5 * 2, 2 * -1]] = [[1.6, 0.8], [-0.8, -1.6]]
    # d / d Z = the same where an entry passed, else a quarter: [[1.6, 0.8], [-0.2, -1.6]]
    assert layer.A.grad is not None
    assert layer.B.grad is not None
    # B^T dZ = [0.5 * 1.6 - 0.25 * -0.2, 0.5 * 0.8 - 0.25 * -1.6]
    assert layer.A.grad.tolist() == [[pytest.approx(0.85), pytest.approx(0.8)]]
    # dZ A^T = [1.6 + 2 * 0.8, -0.2 + 2 * -1.6]
    assert layer.B.grad.tolist() == [[pytest.approx(3.2)], [pytest.approx(-3.4)]]
    assert layer.gate is not None
    assert layer.gate.log_tau.grad is None


def test_gradients(layer: AdaptedLinear) -> None:
    x = torch.tensor([[1.0, -1.0]], requires_grad=True)
    (layer(x) * torch.tensor([[1.0, 2.0]])).sum().backward()
    # d loss / d Z_f = 4 [1, 2]^T [1, -1] = [[4, -4], [8, -8]]
    # d loss / d Z = the same where an entry passed, else a quarter: [[4, -4], [2, -8]]
    assert layer.A.grad is not None
    assert layer.B.grad is not None
    assert layer.gate is not None
    assert x.grad is not None
    # B^T dZ = [0.5 * 4 - 0.25 * 2, 0.5 * -4 - 0.25 * -8]
    assert layer.A.grad.tolist() == [[pytest.approx(1.5), pytest.approx(0.0, abs=1e-6)]]
    # dZ A^T = [4 - 8, 2 - 16]
    assert layer.B.grad.tolist() == [[pytest.approx(-4.0)], [pytest.approx(-14.0)]]
    # 4 g Z_f = 4 [0.5 - 2 * 0.0625, 1.0 - 2 * 0.5]
    assert x.grad.tolist() == [[pytest.approx(1.5), pytest.approx(0.0, abs=1e-6)]]
    # Within 0.125 of tau are 0.5 (sign +, gradient 4) and -0.5 (sign -, gradient -8): 4 + 8 = 12,
    # the mean over four entries 3, times f 2.25; times -(0.4 / 0.25) is d loss / d tau = -3.6,
    # and times tau that of its logarithm.
    assert layer.gate.log_tau.grad is not None
    assert float(layer.gate.log_tau.grad) == pytest.approx(-1.44)


def test_the_schedule_of_twenty_steps(layer: AdaptedLinear) -> None:
    # s0 = int(0.2 * 20) = 4, s1 = int(0.8 * 20) = 16, f linear between: (10 - 4) / 12 = 0.5
    schedule = Schedule.of(20)
    assert [schedule.fraction(k) for k in (0, 4, 7, 10, 16, 20)] == [0, 0, 0.25, 0.5, 1, 1]
    assert (schedule.gate_step, schedule.full_step) == (4, 16)


def test_the_threshold_at_s0_keeps_as_many_entries_as_the_factors_have() -> None:
    # r = 1 over a 4 x 4: A and B have 8 entries, so 8 of 16 pass. |Z| is the table of a_j b_i,
    # 1 2 4 8 times 1 3 5 7: sorted 1 2 3 4 5 6 7 8 | 10 12 14 20 24 28 40 56, tau = the 8th.
    layer = AdaptedLinear(
        torch.zeros(4, 4), rank=1, scale=4.0, gate=None, seed=torch.Generator().manual_seed(0)
    )
    with torch.no_grad():
        layer.A.copy_(torch.tensor([[1.0, -2.0, 4.0, -8.0]]))
        layer.B.copy_(torch.tensor([[1.0], [3.0], [-5.0], [7.0]]))
    assert threshold_for([layer]) == 8.0
