"""The folder in which an adapter is made: a sweep leaves it alone, until its process is gone."""

from __future__ import annotations

import io
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save

from factories import toy_backbone
from jumplora_adapters.errors import ConvertError, FormatError, StoreFull
from jumplora_adapters.peft_upload import make_from_archive, make_from_folder
from jumplora_adapters.staging import LOCK
from jumplora_adapters.store import Step, Store
from packed import CONFIG, WEIGHTS, lora_files, tar_gz, write_folder

BACKBONE = toy_backbone()
SOUND = lora_files(BACKBONE)


def names(root: Path) -> set[str]:
    return {path.name for path in root.iterdir()} - {LOCK}


@pytest.fixture
def store(tmp_path: Path) -> Store:
    store = Store(tmp_path / "store")
    store.prepare()
    return store


def test_a_sweep_leaves_it_alone_and_its_end_removes_it(store: Store) -> None:
    with store.staging() as folder:
        (folder / "unpacked").mkdir()
        (folder / "unpacked" / "file").write_bytes(b"x")
        Store(store.root).sweep()
        assert (folder / "unpacked" / "file").exists()
        assert store.tasks() == []
    assert names(store.root) == set()
    store.sweep()


def test_a_process_that_is_killed_leaves_what_the_next_sweep_removes(store: Store) -> None:
    program = (
        "import sys, pathlib\n"
        "from jumplora_adapters.staging import staging_folder\n"
        "with staging_folder(pathlib.Path(sys.argv[1])) as folder:\n"
        "    (folder / 'unpacked').mkdir()\n"
        "    (folder / 'unpacked' / 'file').write_bytes(b'x')\n"
        "    print('made', flush=True)\n"
        "    sys.stdin.read()\n"
    )
    child = subprocess.Popen(
        [sys.executable, "-c", program, str(store.root)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    )  # fmt: skip
    with child:
        assert child.stdout is not None
        assert child.stdout.readline() == b"made\n"
        (left,) = names(store.root)
        store.sweep()
        assert (store.root / left / "unpacked" / "file").exists(), "its process works in it"
        child.send_signal(signal.SIGKILL)
        child.wait(20)
    assert names(store.root) == {left}
    store.sweep()
    assert names(store.root) == set()


def dead_link(folder: Path) -> None:
    (folder / LOCK).symlink_to("/nowhere/at/all")


def fifo(folder: Path) -> None:
    os.mkfifo(folder / LOCK)


@pytest.mark.parametrize(
    "spoil",
    [dead_link, fifo, lambda folder: (folder / LOCK).mkdir(), lambda folder: None],
    ids=["dead link", "pipe", "folder", "nothing"],
)
def test_a_folder_with_something_else_in_the_locks_place_is_swept(
    spoil: Callable[[Path], object], store: Store
) -> None:
    folder = store.root / ".tmp-0123456789abcdef"
    folder.mkdir()
    (folder / "file").write_bytes(b"x")
    spoil(folder)
    store.sweep()
    assert names(store.root) == set()


def test_a_sweep_between_the_folder_and_its_lock_takes_it(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    mkdir = Path.mkdir
    swept: list[str] = []

    def sweep_behind(path: Path) -> None:
        mkdir(path)
        if path.parent == store.root and not swept:
            swept.append(path.name)
            Store(store.root).sweep()

    monkeypatch.setattr(Path, "mkdir", sweep_behind)
    with store.staging() as folder:
        assert folder.name not in swept
        assert names(store.root) == {folder.name}
    assert len(swept) == 1


def test_nothing_is_left_when_conversion_fails(store: Store, tmp_path: Path) -> None:
    files = lora_files(BACKBONE, peft_type="IA3")
    sent = io.BytesIO(tar_gz(files))
    with pytest.raises(ConvertError):
        make_from_archive(store, sent, "gzip", "t", BACKBONE)
    with pytest.raises(ConvertError):
        make_from_folder(store, write_folder(tmp_path / "lora", files), "t", BACKBONE)
    assert names(store.root) == set()


def test_a_small_folder_that_makes_a_large_file_is_refused(tmp_path: Path) -> None:
    name = "encoder.block.0.layer.0.SelfAttention.q"
    backbone = toy_backbone({name: (2048, 2048)})
    tensors = {
        f"base_model.model.{name}.shira_indices": torch.zeros(2, 1, dtype=torch.int32),
        f"base_model.model.{name}.shira_weight": torch.ones(1),
    }
    config = {"peft_type": "SHIRA", "r": 1, "target_modules": ["q"]}
    sent = tar_gz({CONFIG: json.dumps(config).encode(), WEIGHTS: save(tensors)})
    store = Store(tmp_path / "store", max_file_bytes=500_000)  # the mask takes 524,288
    store.prepare()
    with pytest.raises(FormatError, match="more than 500000 bytes") as caught:
        make_from_archive(store, io.BytesIO(sent), "gzip", "t", backbone)
    assert caught.value.code == "file_size"
    assert names(store.root) == set()


def test_a_full_disk_is_the_stores_fault(store: Store, tmp_path: Path) -> None:
    def fill(step: Step) -> None:
        if step == "staged":
            raise OSError(28, "No space left on device")

    full = Store(store.root, on_step=fill)
    with pytest.raises(StoreFull):
        make_from_folder(full, write_folder(tmp_path / "lora", SOUND), "t", BACKBONE)
    assert names(store.root) == set()


def test_a_folder_that_was_removed_by_hand_is_no_error(store: Store) -> None:
    with store.staging() as folder:
        shutil.rmtree(folder)
    assert names(store.root) == set()
