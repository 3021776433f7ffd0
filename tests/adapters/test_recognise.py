"""What lies at a path, and that each import command names the command that takes a wrong one."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from typer.testing import CliRunner

from factories import tiny_t5, write_random_adapter
from foreign_checkpoints import official_state, save_official, save_peft
from jumplora_adapters.backbone import Backbone, read_backbone
from jumplora_adapters.errors import ConvertError
from jumplora_adapters.recognise import Kind, check_is, recognise
from jumplora_adapters.store import Store
from jumplora_server.cli.main import command_line

Q = "encoder.block.0.layer.0.SelfAttention.q"


@pytest.fixture(scope="module")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> Backbone:
    return read_backbone(tiny_t5(tmp_path_factory.mktemp("backbone") / "tiny"))


def _peft(folder: Path, backbone: Backbone) -> Path:
    save_peft(folder / "my lora", backbone)
    return folder / "my lora"


def _pickled(folder: Path, name: str) -> Path:
    torch.save({"a": torch.ones(2)}, folder / name)
    return folder / name


def _pickled_backbone(folder: Path) -> Path:
    (folder / "config.json").write_text("{}")
    return _pickled(folder, "pytorch_model.bin").parent


def _dense(folder: Path) -> Path:
    save_file({Q: torch.ones(32, 32)}, folder / "delta.safetensors")
    return folder / "delta.safetensors"


def _store(folder: Path, backbone: Backbone) -> Path:
    file = write_random_adapter(folder, backbone, task="one")
    Store(folder / "store").publish(file, backbone)
    return folder / "store"


def _run(folder: Path) -> Path:
    (folder / "matrix.json").write_text("{}")
    (folder / "adapters").mkdir()
    return folder


Make = Callable[[Path, Backbone], Path]
THINGS: dict[str, tuple[Make, str]] = {
    "peft": (_peft, "jumplora convert peft '{path}'"),
    "peft weights": (
        lambda folder, backbone: _peft(folder, backbone) / "adapter_model.safetensors",
        "jumplora convert peft '{parent}'",
    ),
    "adapter": (
        lambda folder, backbone: write_random_adapter(folder, backbone),
        "jumplora publish {path}",
    ),
    "adapters": (
        lambda folder, backbone: write_random_adapter(folder, backbone).parent,
        "jumplora publish {path}/",
    ),
    "backbone": (lambda folder, backbone: backbone.path, "jumplora serve --backbone {path}"),
    "backbone's file": (
        lambda folder, backbone: backbone.path / "model.safetensors",
        "jumplora serve --backbone {parent}",
    ),
    "pickled backbone": (
        lambda folder, backbone: _pickled_backbone(folder),
        "jumplora import-backbone {path}",
    ),
    "pickled weights": (
        lambda folder, backbone: _pickled(folder, "pytorch_model-00001-of-00002.bin"),
        "jumplora import-backbone {parent}",
    ),
    "pickled peft": (
        lambda folder, backbone: _pickled(folder, "adapter_model.bin"),
        "safe_serialization=True",
    ),
    "official": (
        lambda folder, backbone: save_official(folder / "c.pt", official_state(backbone)),
        "jumplora convert official {path}",
    ),
    "torch files": (
        lambda folder, backbone: save_official(folder / "c.pt", official_state(backbone)).parent,
        "jumplora convert official {path}/c.pt",
    ),
    "dense": (lambda folder, backbone: _dense(folder), "jumplora convert dense {path}"),
    "store": (_store, "jumplora list --store {path}"),
    "run": (lambda folder, backbone: _run(folder), "jumplora continual publish {path}"),
}
COMMANDS: dict[str, tuple[tuple[str, ...], tuple[Kind, ...]]] = {
    "peft": (("convert", "peft"), ("peft",)),
    "official": (("convert", "official", "--alpha", "8"), ("official",)),
    "dense": (("convert", "dense"), ("dense",)),
    "import-backbone": (("import-backbone",), ("backbone", "pickled backbone")),
}


@pytest.mark.parametrize("thing", THINGS)
def test_a_wrong_thing_names_the_command_that_takes_it(
    thing: str, backbone: Backbone, tmp_path: Path
) -> None:
    make, command = THINGS[thing]
    path = make(tmp_path, backbone)
    expected = command.format(path=path, parent=path.parent)
    found = recognise(path)
    assert found is not None
    assert expected in found.command
    wrong = [name for name, (_, kinds) in COMMANDS.items() if found.kind not in kinds]
    for name in wrong:
        with pytest.raises(ConvertError, match=re.escape(found.command)):
            check_is(path, *COMMANDS[name][1], error=ConvertError)
    # One command a thing, in turn: each of them was given several.
    words, _ = COMMANDS[wrong[list(THINGS).index(thing) % len(wrong)]]
    more = ["--out", str(tmp_path / "out.safetensors")]
    if words[0] == "convert":
        more += ["--task", "t", "--backbone", str(backbone.path)]
    result = CliRunner().invoke(command_line(), [*words, str(path), *more])
    assert result.exit_code == 1, result.output
    assert f"{path} is {found.what}; this takes it: {found.command}" in result.stderr
    assert not (tmp_path / "out.safetensors").exists()


def test_what_no_command_takes(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("no header, but more than eight characters")
    (tmp_path / "list.safetensors").write_bytes((2).to_bytes(8, "little") + b"[]")
    (tmp_path / "deep.safetensors").write_bytes((1 << 17).to_bytes(8, "little") + b"[" * (1 << 17))
    (tmp_path / "huge.safetensors").write_bytes(b"\x7f" * 16)
    (tmp_path / "empty").write_bytes(b"")
    os.mkfifo(tmp_path / "pipe")  # opening it would wait
    (tmp_path / "to the pipe").symlink_to(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "a.safetensors").mkdir()
    for path in tmp_path.iterdir():
        assert recognise(path) is None, path.name
    assert recognise(tmp_path / "nowhere") is None
