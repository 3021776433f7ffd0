"""Folders of strangers: links, pipes, sizes, and names of folders on this machine."""

from __future__ import annotations

import json
import os
import resource
import shutil
import tempfile
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import Tensor

from factories import tiny_t5
from foreign_checkpoints import WAS_RUN, RunsCode, save_peft
from fork_folders import save_rosa, save_sft
from jumplora_adapters.backbone import Backbone
from jumplora_adapters.convert import tensor_file
from jumplora_adapters.convert.draft import Converted, Draft
from jumplora_adapters.convert.form import Form
from jumplora_adapters.convert.peft import convert_peft
from jumplora_adapters.errors import ConvertError
from peft_folders import peft, save_adapted

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


@pytest.fixture(scope="module")
def folders(backbone: Backbone, tmp_path_factory: pytest.TempPathFactory) -> Sequence[Path]:
    home = tmp_path_factory.mktemp("folders")
    save_peft(home / "lora", backbone)
    save_adapted(backbone, home / "shira", peft.ShiraConfig(r=2, target_modules=["q"]))
    supra = peft.SupertuningConfig(sparsity=0.9, r=2, target_modules=["wo"])
    save_adapted(backbone, home / "supra", supra)
    save_rosa(home / "rosa", backbone, ["lm_head"])
    save_sft(home / "sft", backbone, ["lm_head"])
    return sorted(home.iterdir())


VALUES = st.sampled_from(
    [None, True, False, 0, -1, float("inf"), float("nan"), 10**30, -0.5, "", "x", "(" * 50, [], {},
     [1], [None], {"a": 1}, {"q": 0}, {"q": 1e300}, "all-linear", ["lm_head"], "\ud800"]
)  # fmt: skip
CHANGES: list[Callable[[Tensor], Tensor]] = [
    lambda tensor: tensor.flatten(),
    lambda tensor: tensor[None],
    lambda tensor: tensor[:0],
    lambda tensor: tensor[1:],
    lambda tensor: tensor.flip(0),
    lambda tensor: tensor * -1,
    lambda tensor: tensor * 0,
    lambda tensor: tensor.float() * float("inf"),
    lambda tensor: tensor.float() * 1e38,
    lambda tensor: tensor.to(torch.int8),
    lambda tensor: tensor.to(torch.float64),
    lambda tensor: tensor.to(torch.bool),
    lambda tensor: tensor.to(torch.complex64),
    lambda tensor: torch.cat([tensor, tensor]),
    lambda tensor: torch.tensor(3.0),
    lambda tensor: torch.zeros(0, 32),
]


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_a_changed_folder_is_refused_or_converted(
    data: st.DataObject, folders: Sequence[Path], backbone: Backbone
) -> None:
    """Nothing but a ConvertError comes out."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(shutil.copytree(data.draw(st.sampled_from(folders)), Path(name) / "peft"))
        config = json.loads((folder / CONFIG).read_text())
        for field in data.draw(st.lists(st.sampled_from(sorted(config)), max_size=2)):
            config[field] = data.draw(VALUES)
        (folder / CONFIG).write_text(json.dumps(config))
        state = load_file(folder / WEIGHTS)
        # Each once: some changes leave a number without dimensions, which others cannot slice.
        changed = st.lists(st.sampled_from(sorted(state)), max_size=2, unique=True)
        for key in data.draw(changed):
            change = data.draw(st.sampled_from(CHANGES))
            given = state[key]
            real = given.real if given.is_complex() else given  # torch warns when it casts others
            state[key] = change(real).contiguous()
        save_file(state, folder / WEIGHTS)
        draft = Draft(task="task", created="2026-01-01T00:00:00Z")
        with suppress(ConvertError):
            assert _convert(backbone, folder, draft).path.is_file()
