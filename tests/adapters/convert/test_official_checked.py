"""Official checkpoints that are refused, or converted with a warning."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from foreign_checkpoints import WAS_RUN, Official, RunsCode, official_state
from jumplora_adapters.backbone import Backbone
from jumplora_adapters.convert.draft import Draft
from jumplora_adapters.convert.form import Form
from jumplora_adapters.convert.official import convert_official, read_official
from jumplora_adapters.convert.scaling import Scaling
from jumplora_adapters.errors import ConvertError

ALPHA = Scaling(alpha=32.0)
Q = "encoder.block.0.layer.0.SelfAttention.q"


def _with(name: str, **changes: Any) -> Callable[[Official], Any]:
    """The state with keys of one module replaced, or removed where the value is None."""

    def change(state: Official) -> Any:
        entry: dict[str, Any] = {**state[name], **changes}
        return {**state, name: {key: value for key, value in entry.items() if value is not None}}

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        pytest.param(_with(Q, A=torch.ones(4, 7)), "another backbone", id="other width"),
        pytest.param(_with(Q, B=torch.ones(32, 5)), "have no product", id="other rank"),
        pytest.param(_with(Q, A=torch.ones(4)), "have no product", id="a vector"),
        pytest.param(_with(Q, A=torch.full((4, 32), torch.nan)), "NaN or infinity", id="nan"),
        pytest.param(_with(Q, B=torch.full((32, 4), torch.inf)), "NaN or infinity", id="inf"),
        pytest.param(_with(Q, A=torch.ones(4, 32).long()), "floating point", id="integers"),
        pytest.param(_with(Q, A=[1.0]), "must be tensors", id="a list"),
        pytest.param(_with(Q, A=None), "expected A, B and log_threshold", id="no A"),
        pytest.param(_with(Q, C=torch.ones(1)), "expected A, B and log_threshold", id="extra"),
        pytest.param(_with(Q, log_threshold=None), "all or none", id="one without threshold"),
        pytest.param(_with(Q, log_threshold=torch.ones(2)), "not a scalar", id="two thresholds"),
        pytest.param(_with(Q, log_threshold=True), "not a scalar", id="true as threshold"),
        pytest.param(_with(Q, log_threshold=10**400), "no finite", id="a number too large"),
        pytest.param(_with(Q, log_threshold=torch.tensor(1)), "is of torch.int64", id="integer"),
        pytest.param(_with(Q, A=torch.ones(4, 32).to_sparse()), "dense tensor", id="sparse"),
        pytest.param(_with(Q, A=torch.ones(4, 32, device="meta")), "on meta", id="no numbers"),
        pytest.param(
            _with(Q, A=torch.ones(4, 32, dtype=torch.complex64)), "floating point", id="complex"
        ),
        pytest.param(
            _with(Q, A=torch.ones(4, 32).to(torch.float8_e4m3fn)), "float8", id="eight bits"
        ),
        pytest.param(
            _with(Q, A=torch.full((4, 32), 1e300, dtype=torch.float64)), "infinity", id="too large"
        ),
        pytest.param(
            _with(Q, A=torch.ones(1).expand(10**9, 32), B=torch.ones(1).expand(32, 10**9)),
            "the rank is 1000000000, at most 64",
            id="a rank without end",
        ),
        pytest.param(_with(Q, log_threshold=torch.tensor(torch.nan)), "no finite", id="nan log"),
        pytest.param(_with(Q, log_threshold=torch.tensor(1e4)), "no finite", id="huge log"),
        pytest.param(lambda state: {**state, "shared": state[Q]}, "none of", id="foreign module"),
        pytest.param(lambda state: {**state, "x." + Q: state[Q]}, "both mean", id="same twice"),
        pytest.param(lambda state: {"q": state[Q]}, "ambiguous", id="every q"),
        pytest.param(lambda state: {**state, 7: state[Q]}, "expected A, B", id="number as name"),
        pytest.param(lambda state: list(state), "holds a list", id="no dict"),
        pytest.param(lambda state: {}, "of 0 entries", id="empty"),
        pytest.param(lambda state: {**state, "x": RunsCode()}, "would run code", id="code"),
    ],
)
def test_refused(
    change: Callable[[Official], Any],
    message: str,
    backbone: Backbone,
    draft: Draft,
    tmp_path: Path,
) -> None:
    checkpoint = tmp_path / "c.pt"
    torch.save(change(official_state(backbone)), checkpoint)
    out = tmp_path / "a.safetensors"
    with pytest.raises(ConvertError, match=message):
        convert_official(checkpoint, out, draft, backbone, ALPHA, Form())
    assert not out.exists()
    assert not WAS_RUN.exists()


def _all(key: str, value: Any) -> Callable[[Official], Any]:
    return lambda state: {name: {**entry, key: value(entry)} for name, entry in state.items()}


@pytest.mark.parametrize(
    ("change", "warnings"),
    [
        pytest.param(dict, (), id="as it should be"),
        pytest.param(
            _all("log_threshold", lambda _: torch.tensor(80.0)),
            ("it changes nothing: it is the bare backbone",),
            id="all gated away",
        ),
        pytest.param(
            _all("B", lambda entry: entry["B"] * 0),
            ("it changes nothing: it is the bare backbone",),
            id="B is zero",
        ),
        pytest.param(
            _all("log_threshold", lambda _: torch.tensor(-torch.inf)),
            (
                f"the threshold keeps every entry of 12 of the 12 modules, such as {Q} (0): the"
                " gate closes nothing there",
            ),
            id="nothing gated away",
        ),
        pytest.param(
            _with(Q, log_threshold=torch.tensor(-30.0)),
            (
                f"the threshold keeps every entry of 1 of the 12 modules, such as {Q} (9.36e-14):"
                " the gate closes nothing there",
            ),
            id="one gate open",
        ),
        pytest.param(
            _with(Q, log_threshold=torch.tensor(30.0)),
            (f"1 of its 12 modules change nothing, such as {Q}",),
            id="one gate shut",
        ),
        pytest.param(
            _with(Q, A=torch.ones(2, 32), B=torch.ones(32, 2).triu()),
            ("the ranks go from 2 to 4: alpha is divided by each module's rank",),
            id="ranks",
        ),
        pytest.param(
            lambda state: {name: entry for name, entry in state.items() if name.endswith(".q")},
            (
                f"the checkpoint lacks 6 of the 12 q and v modules, such as {Q[:-1]}v: they keep"
                " the backbone's weights",
            ),
            id="q only",
        ),
        pytest.param(
            lambda state: {
                name.replace("SelfAttention.q", "SelfAttention.k"): entry
                for name, entry in state.items()
                if "SelfAttention.q" in name
            },
            (
                "the checkpoint lacks 2 of the 6 k modules, such as"
                " decoder.block.0.layer.1.EncDecAttention.k: they keep the backbone's weights",
            ),
            id="another kind of module",
        ),
    ],
)
def test_warnings(
    change: Callable[[Official], Any],
    warnings: tuple[str, ...],
    backbone: Backbone,
    draft: Draft,
    tmp_path: Path,
) -> None:
    checkpoint = tmp_path / "c.pt"
    torch.save(change(official_state(backbone)), checkpoint)
    converted = convert_official(
        checkpoint, tmp_path / "a.safetensors", draft, backbone, ALPHA, Form()
    )
    assert converted.warnings == warnings


@pytest.mark.parametrize(
    "content", [b"", b"not a torch file", b"PK\x03\x04 broken"], ids=["empty", "text", "zip"]
)
def test_damaged_files_are_refused(content: bytes, backbone: Backbone, tmp_path: Path) -> None:
    (tmp_path / "c.pt").write_bytes(content)
    with pytest.raises(ConvertError):
        read_official(tmp_path / "c.pt", backbone)
    with pytest.raises(ConvertError, match="no checkpoint file"):
        read_official(tmp_path / "missing.pt", backbone)
