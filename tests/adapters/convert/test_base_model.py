from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from factories import tiny_t5
from jumplora_adapters.backbone import Backbone, read_backbone
from jumplora_adapters.convert.base_model import compare_base_model
from jumplora_adapters.errors import ConvertError


@pytest.mark.parametrize(
    ("named", "name", "same"),
    [
        pytest.param(None, "t5-small", True, id="nothing said"),
        pytest.param("t5-small", "t5-small", True, id="the name"),
        pytest.param("google-t5/t5-small", "t5-small", True, id="an owner before it"),
        pytest.param("google-t5/t5-small", "google-t5/t5-small", True, id="hub id"),
        pytest.param("other/t5-small", "google-t5/t5-small", False, id="another owner"),
        pytest.param("/home/else/models/t5-small/", "t5-small", True, id="another machine's path"),
        pytest.param("/home/else/t5-small", "google-t5/t5-small", True, id="path and hub id"),
        pytest.param(r"C:\models\T5-small", "t5-small", True, id="Windows"),
        pytest.param(
            "/r/hub/models--google--flan-t5-small/snapshots/0ab1",
            "google/flan-t5-small",
            True,
            id="the hub's cache",
        ),
        pytest.param(
            "/r/hub/models--google--t5-small/snapshots/0ab1", "o/t5-small", False, id="cache, other"
        ),
        pytest.param("google/flan-t5-large", "flan-t5-small", False, id="another size"),
        pytest.param("x" * 5000, "t5-small", False, id="a name too long for a path"),
        pytest.param("t5\0", "t5-small", False, id="no path at all"),
    ],
)
def test_by_name_alone(named: str | None, name: str, same: bool, backbone: Backbone) -> None:
    warning = compare_base_model(named, replace(backbone, name=name))
    assert (warning is None) == same
    assert warning is None or len(warning) < 400


def test_the_backbone_s_own_folder_under_any_name(backbone: Backbone, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(backbone.path)
    shutil.copytree(backbone.path, tmp_path / "copy")
    for named in (backbone.path, tmp_path / "link", tmp_path / "copy"):
        assert compare_base_model(str(named), backbone) is None


def test_another_precision_or_tokenizer_is_a_warning(tmp_path: Path) -> None:
    backbone = read_backbone(tiny_t5(tmp_path / "t5"))
    for dtype in (torch.bfloat16, torch.float16):
        folder = shutil.copytree(backbone.path, tmp_path / str(dtype))
        state = load_file(folder / "model.safetensors")
        save_file({n: t.to(dtype) for n, t in state.items()}, folder / "model.safetensors")
        assert "up to rounding" in str(compare_base_model(str(folder), backbone))
    folder = shutil.copytree(backbone.path, tmp_path / "tokenizer")
    (folder / "tokenizer.json").write_text("{}")
    assert "tokenizer" in str(compare_base_model(str(folder), backbone))


@pytest.mark.parametrize("other", [{"seed": 1}, {"layers": 1}], ids=["weights", "depth"])
def test_other_weights_are_refused(other: dict[str, int], tmp_path: Path) -> None:
    backbone = read_backbone(tiny_t5(tmp_path / "t5"))
    theirs = tiny_t5(tmp_path / "theirs", **other)  # type: ignore[arg-type]
    with pytest.raises(ConvertError, match=r"those of the backbone .* null in adapter_config"):
        compare_base_model(str(theirs), backbone)


def test_other_weights_than_q_and_v_count_as_well(tmp_path: Path) -> None:
    """The fingerprints of version 1 are the same."""
    backbone = read_backbone(tiny_t5(tmp_path / "t5"))
    folder = shutil.copytree(backbone.path, tmp_path / "theirs")
    state = load_file(folder / "model.safetensors")
    state["decoder.block.1.layer.2.DenseReluDense.wo.weight"] += 1
    save_file(state, folder / "model.safetensors")
    assert read_backbone(folder).fingerprints[1] == backbone.fingerprints[1]
    with pytest.raises(ConvertError, match="are not those of the backbone"):
        compare_base_model(str(folder), backbone)


def test_a_folder_without_a_t5_is_compared_by_its_name(backbone: Backbone, tmp_path: Path) -> None:
    (tmp_path / backbone.name).mkdir()
    assert compare_base_model(str(tmp_path / backbone.name), backbone) is None
    (tmp_path / "bart").mkdir()
    assert compare_base_model(str(tmp_path / "bart"), backbone) is not None
