"""A feed-forward's function is transformers', in torch and in the native kernels, or refused."""

from __future__ import annotations

from typing import get_args

import pytest
import torch
from torch import Tensor

from decoding import rows_that_differ, torch_threads
from jumplora_adapters.architecture import Activation, architecture_of
from jumplora_adapters.errors import BackboneError
from jumplora_server.engine.activations import activate
from jumplora_server.engine.native.layout import Function, Kind, Step
from jumplora_server.engine.native.library import best_set, load_library, why_unavailable
from jumplora_server.engine.native.tape import Tape

ACTIVATIONS: tuple[Activation, ...] = get_args(Activation)
native = pytest.mark.skipif(why_unavailable() is not None, reason=str(why_unavailable()))


def numbers(rows: int = 70, width: int = 47) -> Tensor:
    """Small and large ones, which meet every branch of an exponential."""
    x = torch.randn(rows, width, generator=torch.Generator().manual_seed(2))
    x[1] *= 10
    x[2] *= 1000
    x[3] = torch.linspace(-12, 12, width)
    return x


def reference(activation: Activation, x: Tensor) -> Tensor:
    """transformers' function of that name, in float64."""
    from transformers.activations import ACT2FN

    wide: Tensor = ACT2FN["gelu_new" if activation == "gelu_tanh" else activation](x.double())
    return wide


def test_every_function_of_transformers_is_computed_or_refused() -> None:
    from transformers import T5Config
    from transformers.activations import ACT2FN

    x, computed = numbers(), set[str]()
    for name in ACT2FN:
        for proj in (name, f"gated-{name}"):
            config = {"model_type": "t5", "feed_forward_proj": proj}
            try:
                ours = architecture_of(config)
            except BackboneError:
                with pytest.raises(BackboneError, match=f"feed_forward_proj is '{proj}'"):
                    architecture_of(config)
                continue
            theirs = T5Config(feed_forward_proj=proj)
            assert ours.is_gated == theirs.is_gated_act
            got = activate(ours.activation, x)
            torch.testing.assert_close(got, ACT2FN[theirs.dense_act_fn](x), atol=3e-6, rtol=3e-6)
            computed.add(proj)
    assert {"relu", "gelu", "gelu_new", "silu", "gated-gelu", "gated-silu"} <= computed


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("width", [19, 47, 48, 64, 130])
def test_bits_ignore_mates_at_any_width(
    activation: Activation, width: int, dtype: torch.dtype
) -> None:
    x = numbers(width=width).to(dtype)
    wrong = rows_that_differ(lambda rows: activate(activation, rows), x, range(1, 69))
    assert wrong == []
    expected = reference(activation, x).to(dtype)
    torch.testing.assert_close(activate(activation, x), expected, atol=1e-6, rtol=2e-2)


def replayed(activation: Activation, x: Tensor, *, is_gated: bool) -> Tensor:
    """By the kernels: of x itself, or of its first half times its second."""
    width, tape = x.shape[1], Tape(load_library(best_set()))
    function = Function[activation.upper()]
    if is_gated:
        out = torch.full((len(x), width // 2), torch.nan)
        tape.add(Kind.GATE, x, out, n=(width // 2, function))
    else:
        out = x.clone()
        tape.add(Kind.ACTIVATE, out, n=(width, function))
    tape.replay(Step(rows=len(x)))
    return out


@native
@pytest.mark.parametrize("is_gated", [False, True], ids=["plain", "gated"])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_kernels_compute_the_function(activation: Activation, is_gated: bool) -> None:
    for width in (2, 16, 32, 46, 94):
        x = numbers(width=width)
        gate, value = x.chunk(2, dim=1) if is_gated else (x, torch.ones(()))
        expected = reference(activation, gate) * value
        # Of the function itself, about two units in the last place of 1.
        allowed = 4e-7 * value.abs() + 1e-6 * expected.abs()
        for threads in (1, 3):
            with torch_threads(threads):
                whole = replayed(activation, x, is_gated=is_gated)
                assert bool(((whole - expected).abs() <= allowed).all())
                for rows in (1, 2, 7, 64):
                    alone = replayed(activation, x[-rows:].clone(), is_gated=is_gated)
                    assert torch.equal(alone, whole[-rows:])


@native
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_kernels_hide_no_broken_number(activation: Activation) -> None:
    x = torch.tensor([[torch.nan, 1.0, torch.inf, -1.0]])
    got = replayed(activation, x, is_gated=False)[0]
    assert torch.equal(got.isnan(), torch.tensor([True, False, False, False]))
    assert got[2] == torch.inf


@native
@pytest.mark.parametrize("kind", [Kind.ACTIVATE, Kind.GATE])
def test_a_function_of_another_version_fails_its_step(kind: Kind) -> None:
    tape, x = Tape(load_library(best_set())), torch.zeros(1, 8)
    tape.add(kind, x, x, n=(4, len(Function)))
    with pytest.raises(RuntimeError, match="could not compute a step"):
        tape.replay(Step(rows=1))
