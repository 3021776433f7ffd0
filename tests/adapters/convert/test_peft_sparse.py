"""Sparse adapters of PEFT and of its forks: the same matrix, or a refusal."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch import Tensor

from fork_folders import FRONT, save_rosa, save_sft
from jumplora_adapters.backbone import Backbone
from jumplora_adapters.convert.draft import Converted, Draft
from jumplora_adapters.convert.form import Form
from jumplora_adapters.convert.peft import convert_peft
from jumplora_adapters.convert.sparse import entries_at, flat_positions, whole_numbers
from jumplora_adapters.delta import CombinedDelta, LowRankDelta, SparseDelta
from jumplora_adapters.errors import ConvertError
from jumplora_adapters.format import read_adapter
from jumplora_adapters.network import Site
from peft_folders import (
    assert_updates,
    change_tensors,
    convert,
    in_t5,
    peft,
    save_adapted,
    set_fields,
)

Q = "encoder.block.0.layer.0.SelfAttention.q"
WO = "decoder.block.1.layer.2.DenseReluDense.wo"
TARGETS = ["q", "wi_0", "wo", "lm_head"]
Save = Callable[[Path, Backbone], dict[str, Tensor]]


def _shira(folder: Path, backbone: Backbone) -> dict[str, Tensor]:
    return save_adapted(backbone, folder, peft.ShiraConfig(r=2, target_modules=TARGETS))


def _super(folder: Path, backbone: Backbone) -> dict[str, Tensor]:
    config = peft.SupertuningConfig(sparsity=0.9, target_modules=TARGETS)
    return save_adapted(backbone, folder, config)


def _supra(folder: Path, backbone: Backbone) -> dict[str, Tensor]:
    config = peft.SupertuningConfig(sparsity=0.9, r=3, lora_alpha=5, target_modules=TARGETS)
    return save_adapted(backbone, folder, config)


def _rosa(folder: Path, backbone: Backbone) -> dict[str, Tensor]:
    return save_rosa(folder, backbone, [Q, WO, "lm_head"])


def _sft(folder: Path, backbone: Backbone) -> dict[str, Tensor]:
    return save_sft(folder, backbone, [Q, WO, "lm_head"])


FORMATS: dict[str, Save] = {
    "shira": _shira, "supertuning": _super, "supra": _supra, "rosa": _rosa, "sft": _sft,
}  # fmt: skip
KINDS = {"shira": SparseDelta, "supertuning": SparseDelta, "sft": SparseDelta}


@pytest.mark.parametrize("name", FORMATS)
def test_a_folder_becomes_the_same_matrices(
    name: str, backbone: Backbone, draft: Draft, tmp_path: Path
) -> None:
    expected = FORMATS[name](tmp_path / "peft", backbone)
    converted = convert(backbone, tmp_path / "peft", draft)
    deltas = read_adapter(converted.path, backbone).deltas
    assert set(deltas) == set(expected)
    for site, delta in deltas.items():
        assert isinstance(delta, KINDS.get(name, CombinedDelta))
        if isinstance(delta, SparseDelta):
            assert torch.equal(delta.to_dense(), expected[site])
        else:
            torch.testing.assert_close(delta.to_dense(), expected[site], rtol=1e-5, atol=1e-5)
    method = "supertuning" if name == "supra" else name
    assert converted.manifest.method == method
    assert converted.manifest.kind == ("masked" if name in KINDS else "combined")
    assert converted.warnings == ()


@pytest.mark.parametrize("name", FORMATS)
def test_masked_and_pruned_when_asked(
    name: str, backbone: Backbone, draft: Draft, tmp_path: Path
) -> None:
    expected = FORMATS[name](tmp_path / "peft", backbone)
    out = tmp_path / "a.safetensors"
    convert_peft(tmp_path / "peft", out, draft, backbone, Form(kind="masked"))
    for site, delta in read_adapter(out, backbone).deltas.items():
        assert isinstance(delta, SparseDelta)
        torch.testing.assert_close(delta.to_dense(), expected[site], rtol=1e-5, atol=1e-5)
    pruned = Form(kind="masked", density=0.02, dtype=torch.bfloat16)
    converted = convert_peft(tmp_path / "peft", out, draft, backbone, pruned)
    assert converted.density == pytest.approx(0.02, rel=0.02)
    with pytest.raises(ConvertError, match="--kind lowrank"):
        convert_peft(tmp_path / "peft", out, draft, backbone, Form(kind="lowrank"))
    with pytest.raises(ConvertError, match="--keep-factors"):
        convert_peft(tmp_path / "peft", out, draft, backbone, Form(factors="keep"))


def test_names_of_a_wrapper_are_read_too(backbone: Backbone, draft: Draft, tmp_path: Path) -> None:
    config = peft.ShiraConfig(r=2, target_modules=r".*decoder.*\.(k|wi_1)")
    expected = save_adapted(backbone, tmp_path / "peft", config, in_t5)
    assert_updates(convert(backbone, tmp_path / "peft", draft), backbone, expected)


def _change(name: str, site: str, part: str, change: Callable[[Tensor], Tensor | None]) -> Any:
    """Changes one tensor of a saved folder."""

    def of(state: dict[str, Tensor]) -> dict[str, Tensor]:
        changed = dict(state)
        new = change(changed.pop(f"{FRONT}{site}.{part}"))
        return changed if new is None else {**changed, f"{FRONT}{site}.{part}": new}

    return name, of


def _put(*place: int, value: float) -> Callable[[Tensor], Tensor]:
    def put(tensor: Tensor) -> Tensor:
        changed = tensor.clone()
        changed[place] = value
        return changed

    return put


def _twice(tensor: Tensor) -> Tensor:
    changed = tensor.clone()
    changed[..., 1] = changed[..., 0]
    return changed


def _gone(tensor: Tensor) -> None:
    return None


SHIRA = ("shira", Q, "shira_indices")
SUPER = ("supertuning", Q, "supertuning_indices")
SFT = ("sft", Q, "sft_delta.indices")
ROSA = ("rosa", Q, "rosa_spa.col_idx")
OFFSETS = ("rosa", Q, "rosa_spa.row_offs")


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        pytest.param(_change(*SHIRA, _twice), "an index comes twice", id="shira twice"),
        pytest.param(_change(*SUPER, _twice), "an index comes twice", id="super twice"),
        pytest.param(_change(*SFT, _twice), "an index comes twice", id="sft twice"),
        pytest.param(
            _change(*ROSA, lambda t: torch.zeros_like(t)), "an index comes twice", id="rosa twice"
        ),
        pytest.param(
            _change(*SHIRA, _put(0, 0, value=32)), "row indices go from 0 to 32", id="shira row"
        ),
        pytest.param(
            _change(*SHIRA, _put(1, 0, value=-1)), "column indices go from -1", id="shira column"
        ),
        pytest.param(_change(*SUPER, _put(0, value=1024)), "to 1024, allowed", id="super beyond"),
        pytest.param(_change(*SUPER, _put(0, value=-1)), "from -1 to", id="super before"),
        pytest.param(_change(*SFT, _put(0, value=1 << 30)), "another backbone", id="sft beyond"),
        pytest.param(_change(*ROSA, _put(0, value=-1)), "to 65535, allowed", id="rosa beyond"),
        pytest.param(_change(*OFFSETS, _put(0, value=1)), "does not rise", id="rosa start"),
        pytest.param(_change(*OFFSETS, _put(-1, value=7)), "does not rise", id="rosa end"),
        pytest.param(_change(*OFFSETS, _put(3, value=999)), "does not rise", id="rosa falls"),
        pytest.param(_change(*OFFSETS, lambda t: t[1:]), r"expected \[33\]", id="rosa rows"),
        pytest.param(_change(*SHIRA, lambda t: t[:1]), "rows, columns", id="shira of one row"),
        pytest.param(_change(*SHIRA, lambda t: t[:, 1:]), "a value for each", id="shira fewer"),
        pytest.param(_change(*SUPER, lambda t: t[1:]), "a value for each", id="super fewer"),
        pytest.param(_change(*SUPER, lambda t: t[None]), "a value for each", id="super shape"),
        pytest.param(_change(*SHIRA, lambda t: t + 0.5), "not a whole number", id="half"),
        pytest.param(
            _change(*SHIRA, lambda t: t.float() + 2**24), "whole numbers under", id="rounded"
        ),
        pytest.param(
            _change(*SHIRA, lambda t: t * torch.nan), "whole", id="nan as index"
        ),
        pytest.param(_change(*SUPER, lambda t: t.to(torch.uint8)), "of torch.uint8", id="bytes"),
        pytest.param(_change(*SUPER, lambda t: t.half()), "of torch.float16", id="halves"),
        pytest.param(
            _change("shira", Q, "shira_weight", _put(0, value=torch.inf)), "NaN or inf", id="inf"
        ),
        pytest.param(
            _change("sft", Q, "sft_delta.values", _put(0, value=torch.nan)), "NaN", id="nan"
        ),
        pytest.param(
            _change("sft", Q, "sft_delta.values", lambda t: t.int()), "floating", id="integers"
        ),
        pytest.param(_change(*SHIRA, _gone), "no shira_indices: save", id="no shira indices"),
        pytest.param(_change("shira", Q, "shira_weight", _gone), "no shira_weight", id="no weight"),
        pytest.param(_change(*SUPER, _gone), "no supertuning_indices: save", id="no super indices"),
        pytest.param(_change(*SFT, _gone), "no sft_delta.indices", id="no sft indices"),
        pytest.param(_change(*OFFSETS, _gone), "no rosa_spa.row_offs", id="no rosa offsets"),
        pytest.param(
            _change("rosa", Q, "rosa_A.weight", _gone), "rosa_B.weight and no rosa_A", id="no A"
        ),
        pytest.param(
            _change("supra", Q, "supertuning_lora_B.weight", _gone), "no supertuning_lora_B",
            id="no B",
        ),
        pytest.param(
            _change("supra", Q, "supertuning_lora_A.weight", lambda t: t[:2]), "no product",
            id="ranks of A and B",
        ),
    ],
)  # fmt: skip
def test_tensors_that_do_not_fit_are_refused(
    changed: Any, message: str, backbone: Backbone, draft: Draft, tmp_path: Path
) -> None:
    name, change = changed
    FORMATS[name](tmp_path / "peft", backbone)
    change_tensors(tmp_path / "peft", change)
    with pytest.raises(ConvertError, match=message):
        convert(backbone, tmp_path / "peft", draft)


@pytest.mark.parametrize(
    ("name", "config", "message"),
    [
        pytest.param(
            "supertuning",
            {"save_precomputed_indices": False},
            "set save_precomputed_indices of its configuration to true",
            id="indices of another load",
        ),
        pytest.param("supertuning", {"r": 3}, "its values and no supertuning_lora_A", id="r"),
        pytest.param("supertuning", {"lora_alpha": 3}, "without r", id="alpha without r"),
        pytest.param("supra", {"r": None, "lora_alpha": None}, "leave it out", id="no r"),
        pytest.param("supra", {"r": 4}, "have rank 3, .* says 4", id="another rank"),
        pytest.param("supra", {"lora_alpha": "5"}, "expected a number", id="alpha as text"),
        pytest.param("shira", {"fan_in_fan_out": True}, "transposed", id="transposed"),
        pytest.param("shira", {"modules_to_save": ["lm_head"]}, "whole modules", id="modules"),
        pytest.param("shira", {"lora_alpha": 4}, "lora_alpha is 4: this field", id="LoRA's field"),
        pytest.param("shira", {"target_modules": ["q"]}, "does not choose", id="fewer targets"),
        pytest.param("rosa", {"alpha_pattern": {"q": 4}}, "was not run", id="rosa alpha pattern"),
        pytest.param("rosa", {"bias": "rosa_only"}, "bias is 'rosa_only'", id="rosa bias"),
        pytest.param("rosa", {"r": 0}, "have rank 4, .* says 0", id="rosa without r"),
        pytest.param("rosa", {"r": 2}, "have rank 4, .* says 2", id="rosa rank"),
        pytest.param("rosa", {"use_rslora": "yes"}, "true or false", id="rosa flag"),
        pytest.param("rosa", {"init_lora_weights": "loftq"}, "quantized base", id="rosa loftq"),
        pytest.param("sft", {"num_deltas": {Q: 102}}, "does not choose", id="sft deltas"),
        pytest.param("sft", {"num_deltas": [Q]}, "expected an object", id="sft deltas as list"),
    ],
)
def test_configurations_that_say_something_else_are_refused(
    name: str,
    config: dict[str, Any],
    message: str,
    backbone: Backbone,
    draft: Draft,
    tmp_path: Path,
) -> None:
    FORMATS[name](tmp_path / "peft", backbone)
    set_fields(tmp_path / "peft", **config)
    with pytest.raises(ConvertError, match=message):
        convert(backbone, tmp_path / "peft", draft)


@pytest.mark.parametrize("init", ["shira", "supertuning"])
def test_random_numbers_for_what_is_missing_are_refused(
    init: str, backbone: Backbone, draft: Draft, tmp_path: Path
) -> None:
    FORMATS[init](tmp_path / "peft", backbone)
    change_tensors(tmp_path / "peft", lambda state: {n: t for n, t in state.items() if Q in n})
    assert "lacks" in convert(backbone, tmp_path / "peft", draft).warnings[0]
    set_fields(tmp_path / "peft", init_weights=False)
    with pytest.raises(ConvertError, match="random numbers at each load"):
        convert(backbone, tmp_path / "peft", draft)


def test_indices_of_windows_are_the_same_adapter(
    backbone: Backbone, draft: Draft, tmp_path: Path
) -> None:
    expected = _shira(tmp_path / "peft", backbone)
    change_tensors(
        tmp_path / "peft",
        lambda state: {n: t.float() if n.endswith("indices") else t for n, t in state.items()},
    )
    assert_updates(convert(backbone, tmp_path / "peft", draft), backbone, expected)


def test_zeros_are_not_stored_and_a_part_that_changes_nothing_neither(
    backbone: Backbone, draft: Draft, tmp_path: Path
) -> None:
    expected = _supra(tmp_path / "peft", backbone)
    zeroed = {
        f"{FRONT}{Q}.supertuning_lora_B.weight": 0.0,
        f"{FRONT}lm_head.supertuning_values": 0.0,
        f"{FRONT}{WO}.supertuning_lora_A.weight": 0.0,
        f"{FRONT}{WO}.supertuning_values": 0.0,
    }
    change_tensors(
        tmp_path / "peft", lambda state: {n: t * zeroed.get(n, 1.0) for n, t in state.items()}
    )
    converted = convert(backbone, tmp_path / "peft", draft)
    deltas = read_adapter(converted.path, backbone).deltas
    assert isinstance(deltas[Q], SparseDelta)
    assert isinstance(deltas["lm_head"], LowRankDelta)
    assert isinstance(deltas[WO], SparseDelta)
    assert deltas[WO].nnz == 0
    assert converted.warnings == (f"1 of its {len(expected)} modules change nothing, such as {WO}",)


@pytest.mark.parametrize("index", [torch.int32, torch.int64])
def test_sft_has_had_two_types_of_indices(
    index: torch.dtype, backbone: Backbone, draft: Draft, tmp_path: Path
) -> None:
    expected = save_sft(tmp_path / "peft", backbone, [Q, WO], index=index)
    assert_updates(convert(backbone, tmp_path / "peft", draft), backbone, expected)


@pytest.mark.parametrize(
    ("options", "kind"),
    [
        pytest.param({"r": 0}, SparseDelta, id="sparse alone"),
        pytest.param({"d": 0.0}, LowRankDelta, id="LoRA alone"),
        pytest.param({"rank_pattern": {"q": 2}}, CombinedDelta, id="a pattern of ranks"),
    ],
)
def test_parts_of_rosa(
    options: dict[str, Any], kind: type, backbone: Backbone, draft: Draft, tmp_path: Path
) -> None:
    expected = save_rosa(tmp_path / "peft", backbone, [Q, WO], **options)
    converted = convert(backbone, tmp_path / "peft", draft)
    assert_updates(converted, backbone, expected)
    assert isinstance(read_adapter(converted.path, backbone).deltas[Q], kind)


def test_rosa_before_it_chose_its_entries_is_a_lora(
    backbone: Backbone, draft: Draft, tmp_path: Path
) -> None:
    """The fork leaves the sparse part out as long as no mask was set."""
    save_rosa(tmp_path / "peft", backbone, [Q], use_rslora=True)
    change_tensors(
        tmp_path / "peft",
        lambda state: {
            n: t * 0 if n.endswith(("offs", "col_idx")) else t for n, t in state.items()
        },
    )
    state = load_file(tmp_path / "peft" / "adapter_model.safetensors")
    delta = read_adapter(convert(backbone, tmp_path / "peft", draft).path, backbone).deltas[Q]
    assert isinstance(delta, LowRankDelta)
    # alpha 8 over the root of r 4
    assert torch.equal(delta.B, 4 * state[f"{FRONT}{Q}.rosa_B.weight"].float())


def test_columns_of_rosa_above_32767_are_unsigned(
    backbone: Backbone, draft: Draft, tmp_path: Path
) -> None:
    wide = "lm_head"
    site = Site(wide, (3, 65_535), "decoder", None, "head", "lm_head")
    stretched = replace(backbone, sites={**backbone.sites, wide: site})
    expected = save_rosa(tmp_path / "peft", stretched, [wide])
    columns = load_file(tmp_path / "peft" / "adapter_model.safetensors")[
        f"{FRONT}{wide}.rosa_spa.col_idx"
    ]
    assert int(columns.min()) < 0
    converted = convert(stretched, tmp_path / "peft", draft)
    delta = read_adapter(converted.path, stretched).deltas[wide]
    assert isinstance(delta, CombinedDelta)
    torch.testing.assert_close(delta.to_dense(), expected[wide], rtol=1e-5, atol=1e-5)


@settings(max_examples=50, deadline=None)
@given(rows=st.integers(1, 9), columns=st.integers(1, 9), seed=st.integers(0, 99), data=st.data())
def test_entries_in_any_order_are_the_dense_matrix(
    rows: int, columns: int, seed: int, data: st.DataObject
) -> None:
    size = rows * columns
    chosen = data.draw(st.lists(st.integers(0, size - 1), unique=True, max_size=size))
    values = torch.randn(len(chosen), generator=torch.Generator().manual_seed(seed))
    values[: seed % 3] = 0.0
    flat = torch.tensor(chosen, dtype=torch.int64)
    dense = torch.zeros(size)
    dense[flat] = values
    positions = flat_positions("m", flat // columns, flat % columns, (rows, columns))
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        delta = entries_at("m", positions, values, (rows, columns)).to_delta(dtype)
        delta.check()
        expected = SparseDelta.from_dense(dense.view(rows, columns), dtype)
        assert torch.equal(delta.mask, expected.mask)
        assert torch.equal(delta.values, expected.values)


def test_whole_numbers_keep_their_values() -> None:
    for dtype in (torch.int16, torch.uint16, torch.int32, torch.int64, torch.float32):
        given = torch.tensor([0, 1, 32_767], dtype=dtype)
        assert torch.equal(whole_numbers("x", given), torch.tensor([0, 1, 32_767]))
    assert whole_numbers("x", torch.tensor([2.0**24 - 1])).item() == (1 << 24) - 1


def test_a_value_beyond_the_range_is_refused(
    backbone: Backbone, draft: Draft, tmp_path: Path
) -> None:
    save_sft(tmp_path / "peft", backbone, [Q])
    change_tensors(
        tmp_path / "peft",
        lambda state: {n: t * 1e30 if n.endswith("values") else t for n, t in state.items()},
    )
    with pytest.raises(ConvertError, match="--values"):
        convert_peft(tmp_path / "peft", tmp_path / "a", draft, backbone, Form(dtype=torch.float16))
    assert isinstance(convert(backbone, tmp_path / "peft", draft), Converted)
