from __future__ import annotations

from pathlib import Path

import pytest

from jumplora_adapters.errors import BackboneError, ConvertError
from jumplora_adapters.hub import name_of, resolve_folder
from small_hub import COMMIT, small_hub

FILES = ("config.json", "*.safetensors")


def test_only_the_files_that_are_asked_for_are_fetched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = tmp_path / "source"
    source.mkdir()
    for name in ("config.json", "model.safetensors", "model.bin", "run.py"):
        (source / name).write_text(name)
    with small_hub("owner/name", source, tmp_path / "cache", monkeypatch) as hub:
        found = resolve_folder("owner/name", FILES, error=ConvertError)
        assert sorted(hub.asked) == ["config.json", "model.safetensors"]
        with pytest.raises(ConvertError, match="not a folder here and could not be fetched: "):
            resolve_folder("owner/other", FILES, error=ConvertError)
    assert {file.name: file.read_text() for file in found.iterdir()} == {
        name: name for name in ("config.json", "model.safetensors")
    }
    assert found.name == COMMIT
    assert name_of(found) == "owner/name"


def test_a_file_is_no_folder_and_no_hub_id(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("notes").write_text("would be a hub id")
    with pytest.raises(BackboneError, match="'notes' is not a folder"):
        resolve_folder("notes", FILES, error=BackboneError, fetch=lambda i, r: pytest.fail("asked"))


def test_a_folder_has_its_own_name(tmp_path: Path) -> None:
    assert name_of(tmp_path / "my-t5") == "my-t5"
    assert name_of(tmp_path / "snapshots" / "x") == "x"
