"""Sites side by side: one product, and each site's deltas in its own columns."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from jumplora_adapters.architecture import architecture_of
from jumplora_adapters.network import network
from jumplora_server.engine.linear import Projection, make_linear

CONFIG = architecture_of(
    {"model_type": "t5", "d_model": 8, "num_heads": 2, "d_kv": 3, "d_ff": 12, "num_layers": 1}
)
BLOCK = network(CONFIG).encoder.blocks[0]
CPU = torch.device("cpu")


class Written:
    """A plan that adds a matrix for each module it knows, and notes what it was asked."""

    def __init__(self, deltas: dict[str, Tensor]) -> None:
        self._deltas = deltas
        self.added: list[str] = []

    def has(self, module: str) -> bool:
        return module in self._deltas

    def add(self, module: str, x: Tensor, y: Tensor) -> None:
        self.added.append(module)
        y += x @ self._deltas[module].t()

    def instead(self, module: str) -> tuple[()]:
        return ()


def numbers(*shape: int, seed: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def qkv() -> Projection:
    weight = numbers(18, 8, seed=1)
    sites = (BLOCK.attention.q, BLOCK.attention.k, BLOCK.attention.v)
    return Projection(sites, make_linear(weight, "float32", CPU))


def test_deltas_are_added_to_their_own_columns(qkv: Projection) -> None:
    x = numbers(5, 8, seed=2)
    delta = numbers(6, 8, seed=3)
    plan = Written({BLOCK.attention.v.name: delta})
    bare = qkv(x, Written({}))
    found = qkv(x, plan)
    assert torch.equal(found[:, :12], bare[:, :12])
    torch.testing.assert_close(found[:, 12:], bare[:, 12:] + x @ delta.t())
    assert plan.added == [BLOCK.attention.v.name]


def test_a_plan_is_asked_to_add_only_what_it_has(qkv: Projection) -> None:
    others = Written({BLOCK.attention.o.name: numbers(8, 6, seed=3)})
    qkv(numbers(5, 8, seed=2), others)
    assert others.added == []
    assert not qkv.has_deltas(others)
    assert qkv.has_deltas(Written({BLOCK.attention.k.name: numbers(6, 8, seed=3)}))


def test_onto_adds_the_product_and_the_deltas_to_what_is_there() -> None:
    weight, delta = numbers(8, 12, seed=1), numbers(8, 12, seed=2)
    narrow = Projection((BLOCK.feed_forward.narrow,), make_linear(weight, "float32", CPU))
    x, y = numbers(5, 12, seed=3), numbers(5, 8, seed=4)
    before = y.clone()
    found = narrow.onto(y, x, Written({BLOCK.feed_forward.narrow.name: delta}))
    torch.testing.assert_close(found, before + x @ (weight + delta).t())
    assert torch.equal(y, before), "on a CPU the residual stays as it was"


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int8"])
def test_every_form_of_a_linear_adds_onto_what_it_is_given(dtype: str) -> None:
    weight = numbers(8, 12, seed=1)
    linear = make_linear(weight, dtype, CPU)
    kind = torch.bfloat16 if dtype == "bfloat16" else torch.float32
    x, y = numbers(5, 12, seed=3).to(kind), numbers(5, 8, seed=4).to(kind)
    assert torch.equal(linear.onto(y, x), y + linear(x))


def test_sites_of_two_shapes_cannot_stand_side_by_side() -> None:
    # Of an attention whose keys are fewer than its queries, say: their columns would be mixed up.
    sites = (BLOCK.attention.q, BLOCK.attention.o)
    with pytest.raises(AssertionError, match="one shape"):
        Projection(sites, make_linear(numbers(14, 8, seed=1), "float32", CPU))
