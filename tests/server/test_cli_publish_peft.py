"""`jumplora publish` of a PEFT folder, an archive of one or a hub id, to a server or a store."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from factories import tiny_t5
from jumplora_adapters.backbone import Backbone, read_backbone
from jumplora_adapters.format import read_adapter
from jumplora_adapters.store import Store
from jumplora_server.app import assemble, build, traffic
from jumplora_server.cli.main import command_line
from jumplora_server.cli.publish import find_source
from jumplora_server.client import Client
from jumplora_server.settings import Settings
from packed import (
    CONFIG,
    PACKERS,
    WEIGHTS,
    in_folder,
    lora_files,
    tar_gz,
    torch_file,
    write_folder,
    zipped,
)
from serving import ADMIN_KEY, BACKBONE, Site, listening, make_site, serving_app, wait_for
from small_hub import small_hub

GOLDEN = Path(__file__).parents[1] / "golden" / "v1" / "backbone"


pytestmark = pytest.mark.usefixtures("plain_shell")


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Site, str]]:
    site = make_site(tmp_path_factory.mktemp("site"))
    with listening(site) as address:
        yield site, address


@pytest.fixture(scope="module")
def golden() -> Backbone:
    return read_backbone(GOLDEN)


def run(*arguments: object, code: int = 0) -> Result:
    result = CliRunner().invoke(command_line(), [str(argument) for argument in arguments])
    assert result.exit_code == code, result.output + repr(result.exception)
    return result


def run_json(*arguments: object) -> Any:
    return json.loads(run(*arguments, "--json").stdout)


def test_a_folder_and_its_archive_are_one_version_on_a_server(
    served: tuple[Site, str], tmp_path: Path
) -> None:
    site, address = served
    sent = lora_files(BACKBONE)
    folder = write_folder(tmp_path / "my-lora", {**sent, "optimizer.pt": b"x" * 100})
    admin = ("--server", address, "--key", ADMIN_KEY, "--task", "lora")
    made = run_json("publish", folder, *admin)
    assert (made["outcome"], made["made_from"]["peft_type"]) == ("created", "LORA")
    version = site.parts.services.residency.status("lora").version
    assert version is not None
    assert made["version"] == version
    packed = tmp_path / "sent.tar.gz"
    packed.write_bytes(tar_gz(in_folder(sent)))
    text = run("publish", packed, *admin).stdout
    assert text == f"lora: unchanged {version[:12]} (made from a PEFT folder, LORA)\n"
    with Client(address, key=ADMIN_KEY) as client:
        put = client.publish("lora", folder)
        assert (put.version, put.outcome) == (version, "unchanged")
        assert put.made_from is not None
        assert client.publish("lora", site.parts.services.store.path_of(version)).made_from is None


def test_warnings_are_shown_logged_and_kept(
    served: tuple[Site, str], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    files = lora_files(BACKBONE, base_model_name_or_path="their/t5")
    folder = write_folder(tmp_path / "lora", files)
    done = run("publish", folder, "--server", served[1], "--key", ADMIN_KEY, "--task", "warned")
    said = "base_model_name_or_path is 'their/t5'"
    assert done.stderr.startswith(f"warning: warned: {said}")
    version = served[0].parts.services.residency.status("warned").version
    assert version is not None
    logged = [record.message for record in caplog.records if record.levelname == "WARNING"]
    assert any(text.startswith(f"task warned version {version[:12]}: {said}") for text in logged)
    with Client(served[1], key=ADMIN_KEY) as client:
        manifest = client.adapter("warned").manifest
    assert manifest is not None
    kept = manifest.training["warnings"]
    assert isinstance(kept, list)
    assert [str(text).startswith(said) for text in kept] == [True]
    inspected = run("inspect", "warned", "--server", served[1], "--key", ADMIN_KEY).stdout
    (line,) = (line for line in inspected.splitlines() if line.startswith("warning "))
    assert said in line


def test_a_backbone_of_another_training_is_refused_before_it_is_sent(tmp_path: Path) -> None:
    """Both have one shape, so the server could warn alone."""
    ours, theirs = (
        read_backbone(tiny_t5(tmp_path / f"t5-{seed}", seed=seed, layers=1)) for seed in (1, 2)
    )
    files = lora_files(ours, base_model_name_or_path=str(theirs.path))
    folder = write_folder(tmp_path / "lora", files)
    site = make_site(tmp_path, backbone=ours)
    with listening(site) as address:
        to = ("--server", address, "--key", ADMIN_KEY, "--task", "lora", "--backbone")
        refused = run("publish", folder, *to, ours.path, code=1)
        assert "the weights there are not those of the backbone" in refused.stderr
        assert not site.parts.services.residency.knows("lora")
        # A backbone that is not the server's says nothing of it.
        assert "created" in run("publish", folder, *to, theirs.path).stdout


@pytest.mark.parametrize("name", ["folder", *PACKERS])
def test_a_store_gets_what_a_server_would_make(name: str, golden: Backbone, tmp_path: Path) -> None:
    files = in_folder(lora_files(golden, alpha_pattern={}))
    folder = write_folder(tmp_path / "my-lora", lora_files(golden, alpha_pattern={}))
    source = folder
    if name != "folder":
        source = tmp_path / "packed"
        source.write_bytes(PACKERS[name](files))
    place = ("--store", tmp_path / "store", "--backbone", GOLDEN)
    made = run_json("publish", source, *place, "--task", "lora")
    assert (made["task_id"], made["outcome"]) == ("lora", "created")
    out = tmp_path / "a.safetensors"
    run(
        "convert", "peft", folder, "--backbone", GOLDEN, "--task", "lora", "--out", out,
        "--created", "",
    )  # fmt: skip
    store = Store(tmp_path / "store")
    assert store.path_of(made["version"]).read_bytes() == out.read_bytes()
    assert {path.name for path in store.root.iterdir()} == {".lock", "lora"}
    refused = run("publish", source, *place, "--task", "lora", "--if-match", "0" * 64)
    assert "unchanged" in refused.stdout, "what is current may always be published"


def test_a_hub_id_is_fetched(
    golden: Backbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_folder(tmp_path / "hub", {**lora_files(golden), "README.md": b"# A LoRA"})
    place = ("--store", tmp_path / "store", "--backbone", GOLDEN)
    with small_hub("someone/their-lora", folder, tmp_path / "cache", monkeypatch) as hub:
        made = run_json("publish", "someone/their-lora", *place, "--task", "lora")
        assert set(hub.asked) == {CONFIG, WEIGHTS}
    adapter = read_adapter(Store(tmp_path / "store").path_of(made["version"]), golden)
    assert adapter.manifest.training["converted_from"] == "someone/their-lora"


def test_what_is_there_is_not_fetched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_folder(tmp_path / "someone" / "lora", {})
    monkeypatch.chdir(tmp_path)
    for name in ("someone/lora", "someone/lora.safetensors", "someone/lora.zip", "lora"):
        assert find_source(name, fetch=lambda *asked: pytest.fail("fetched")) == Path(name)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda place: place / "nothing.safetensors", "No such file"),
        (lambda place: place / "nothing.tar.gz", "No such file"),
        (lambda place: "nothing", "No such file"),
        (lambda place: "someone/bad name", "neither a folder nor a hub id"),
        (lambda place: write_folder(place / "empty", {}), "no adapter_config.json in"),
        (
            lambda place: write_folder(place / "bin", {CONFIG: b"{}", "adapter_model.bin": b""}),
            "safe_serialization=True",
        ),
        (lambda place: GOLDEN, f"jumplora serve --backbone {GOLDEN}"),
        (lambda place: written(place / "w.pt", torch_file({})), "jumplora convert official"),
        (
            lambda place: write_folder(place / "lora", lora_files(BACKBONE)) / WEIGHTS,
            "jumplora convert peft",
        ),
        (lambda place: written(place / "w.zip", zipped({})), "no adapter_config.json"),
    ],
    ids=[
        "no file", "no archive", "no name", "no hub id", "empty folder", "pickled", "backbone",
        "torch file", "one of the files", "empty zip",
    ],
)  # fmt: skip
def test_what_cannot_be_published(
    served: tuple[Site, str], make: Callable[[Path], Path | str], words: str, tmp_path: Path
) -> None:
    place = ("--server", served[1], "--key", ADMIN_KEY, "--task", "wrong")
    assert words in run("publish", make(tmp_path), *place, code=1).stderr
    assert "wrong" not in served[0].parts.services.store.tasks()


def written(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def test_a_folder_needs_a_task(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "lora", lora_files(BACKBONE))
    for place in (("--server", "http://127.0.0.1:1"), ("--store", tmp_path / "store")):
        assert "give --task TASK" in run("publish", folder, *place, code=1).stderr


def test_a_sent_folder_answers_as_the_file_that_was_converted(
    golden: Backbone, tmp_path: Path
) -> None:
    """On a real engine: the bare backbone answers otherwise."""
    files = lora_files(golden, seed=1, rank=4, lora_alpha=16)
    folder, out = write_folder(tmp_path / "lora", files), tmp_path / "a.safetensors"
    run("convert", "peft", folder, "--backbone", GOLDEN, "--task", "file", "--out", out)
    settings = Settings(
        backbone=str(GOLDEN), store=tmp_path / "store", kernels="torch", allow_base="yes",
        max_source_tokens=32, max_target_tokens=16, admin_keys=ADMIN_KEY,
    )  # fmt: skip
    parts = assemble(settings)
    with (
        serving_app(build(settings, parts), settings, traffic(parts.services)) as listener,
        Client(f"http://127.0.0.1:{listener.port}", key=ADMIN_KEY) as client,
    ):
        wait_for(client.is_ready, 20)
        client.publish("file", out)
        texts = []
        for task in ("file", *PACKERS):
            name = task.replace(" ", "-")
            if task != "file":
                path = written(tmp_path / name, PACKERS[task](files))
                assert client.publish(name, path).outcome == "created"
            answers = client.generate_all(name, inputs=["the river", "a good book"])
            texts.append([found.generated_text for found in answers])
        assert all(each == texts[0] for each in texts)
        bare = client.generate_all("base", inputs=["the river", "a good book"])
        assert [found.generated_text for found in bare] != texts[0]
