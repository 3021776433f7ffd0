"""Folders of strangers: links, pipes, sizes, and names of folders on this machine."""

from __future__ import annotations

import json
import os
import resource
from collections.abc import Callable
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from factories import tiny_t5
from foreign_checkpoints import WAS_RUN, RunsCode, save_peft
from jumplora_adapters.backbone import Backbone
from jumplora_adapters.convert import tensor_file
from jumplora_adapters.convert.draft import Converted, Draft
from jumplora_adapters.convert.form import Form
from jumplora_adapters.convert.peft import convert_peft
from jumplora_adapters.errors import ConvertError

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"


def _convert(backbone: Backbone, folder: Path, draft: Draft, trusted: bool = False) -> Converted:
    out = folder.parent / "a.safetensors"
    return convert_peft(folder, out, draft, backbone, Form(), source="upload", trusted=trusted)


def _move(folder: Path, name: str) -> None:
    (folder / name).rename(folder.parent / name)
    (folder / name).symlink_to(folder.parent / name)


def _pipe(folder: Path, name: str) -> None:
    (folder / name).unlink()
    os.mkfifo(folder / name)  # reading it would wait


@pytest.mark.parametrize("name", [CONFIG, WEIGHTS])
@pytest.mark.parametrize("change", [_move, _pipe])
def test_only_ordinary_files_are_read(
    change: Callable[[Path, str], None], name: str, backbone: Backbone, draft: Draft, tmp_path: Path
) -> None:
    folder = tmp_path / "peft"
    save_peft(folder, backbone)
    change(folder, name)
    with pytest.raises(ConvertError):
        _convert(backbone, folder, draft)
    assert not (tmp_path / "a.safetensors").exists()
    if change is _move:  # as the hub's cache has them
        assert _convert(backbone, folder, draft, trusted=True).warnings == ()


def test_a_folder_of_this_machine_is_not_looked_at(
    backbone: Backbone, draft: Draft, tmp_path: Path
) -> None:
    other = tiny_t5(tmp_path / "other", seed=9)
    save_peft(tmp_path / "peft", backbone, base_model_name_or_path=str(other))
    with pytest.raises(ConvertError, match="are not those of the backbone"):
        _convert(backbone, tmp_path / "peft", draft, trusted=True)
    (warning,) = _convert(backbone, tmp_path / "peft", draft).warnings
    assert warning.startswith(f"base_model_name_or_path is '{other}'"[:60])


def test_the_same_folder_is_the_same_version(
    backbone: Backbone, draft: Draft, tmp_path: Path
) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        save_peft(tmp_path / name / "peft", backbone)
    one, two = (_convert(backbone, tmp_path / name / "peft", draft) for name in ("one", "two"))
    assert one.digest == two.digest
    assert one.manifest.training["converted_from"] == "upload"


def test_a_pickle_is_not_opened(backbone: Backbone, draft: Draft, tmp_path: Path) -> None:
    import torch

    save_peft(tmp_path / "peft", backbone)
    (tmp_path / "peft" / WEIGHTS).unlink()
    for name in ("adapter_model.bin", WEIGHTS):
        torch.save(RunsCode(), tmp_path / "peft" / name)
        with pytest.raises(ConvertError):
            _convert(backbone, tmp_path / "peft", draft)
    assert not WAS_RUN.exists()


def test_too_many_bytes_or_tensors_are_refused(
    backbone: Backbone, draft: Draft, tmp_path: Path
) -> None:
    save_peft(tmp_path / "peft", backbone)
    weights = tmp_path / "peft" / WEIGHTS
    state = load_file(weights)
    (first,) = list(state.values())[:1]
    many = {f"x.{number}.lora_A.weight": first[:1, :1].clone() for number in range(8193)}
    save_file(state | many, weights)
    with pytest.raises(ConvertError, match="tensors, at most 8192"):
        _convert(backbone, tmp_path / "peft", draft)
    os.truncate(weights, tensor_file.MAX_BYTES + 1)  # a hole: it takes no room
    with pytest.raises(ConvertError, match="bytes, at most"):
        _convert(backbone, tmp_path / "peft", draft)


def test_a_header_that_claims_gigabytes_takes_none(
    backbone: Backbone, draft: Draft, tmp_path: Path
) -> None:
    save_peft(tmp_path / "peft", backbone)
    name = "base_model.model.lm_head.shira_weight"
    header = json.dumps({name: {"dtype": "F32", "shape": [1 << 40], "data_offsets": [0, 1 << 42]}})
    weights = tmp_path / "peft" / WEIGHTS
    weights.write_bytes(len(header).to_bytes(8, "little") + header.encode())
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(ConvertError, match="sound safetensors"):
        _convert(backbone, tmp_path / "peft", draft)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000
