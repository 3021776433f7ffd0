"""vLLM's load and unload: adapters of the operator's folder, and nothing outside of it."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from adapter_requests import ADMIN, answer, digest, files, received
from held_lock import lock_held
from jumplora_adapters.manifest import Canary
from jumplora_server.api.load_folder import LoadFolder
from jumplora_server.errors import InvalidInput, PathNotFound
from packed import CONFIG, WEIGHTS, in_folder, lora_files, tarred, write_folder
from serving import BACKBONE, Site, connected, make_site, wait_for

LIMIT = 200_000


@dataclass(frozen=True)
class Started:
    site: Site
    http: httpx.Client
    folder: Path

    def load(self, name: str, path: object, **body: object) -> httpx.Response:
        asked = json.dumps({"lora_name": name, "lora_path": str(path), **body})
        headers = {"content-type": "application/json"}
        return self.http.post("/v1/load_lora_adapter", content=asked, headers=headers)

    def file(self, task: str, name: str = "") -> Path:
        path = self.folder / (name or f"{task}.safetensors")
        path.write_bytes(self.site.adapter(task).read_bytes())
        return path


@pytest.fixture(scope="module")
def started(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Started]:
    folder = tmp_path_factory.mktemp("adapters")
    site = make_site(tmp_path_factory.mktemp("site"), load_folder=folder, max_adapter_bytes=LIMIT)
    with connected(site, headers=ADMIN) as http:
        yield Started(site, http, folder)


def error_of(answer: httpx.Response) -> str:
    return str(fault_of(answer)["message"])


def fault_of(answer: httpx.Response) -> dict[str, object]:
    told: dict[str, object] = answer.json()["error"]
    assert set(told) == {"message", "type", "param", "code"}
    return told


def test_a_file_is_published_and_removed(started: Started) -> None:
    path = started.file("news")
    loaded = started.load("news", path)
    assert (loaded.status_code, loaded.text) == (
        200,
        "Success: LoRA adapter 'news' added successfully.",
    )
    assert loaded.headers["content-type"].startswith("text/plain")
    version = digest(path.read_bytes())
    assert loaded.headers["x-adapter-version"] == version
    assert answer(started.http, "news") == version
    gone = started.http.post("/v1/unload_lora_adapter", json={"lora_name": "news"})
    assert gone.text == "Success: LoRA adapter 'news' removed successfully."
    assert started.http.get("/v1/adapters/news").status_code == 404
    assert not [name for name in files(started.site) if name.startswith("news/")]
    assert path.exists()
    again = started.http.post(
        "/v1/unload_lora_adapter", json={"lora_name": "news", "lora_int_id": 3}
    )
    assert again.status_code == 404
    assert "'news'" in error_of(again)
    assert (fault_of(again)["param"], fault_of(again)["code"]) == ("lora_name", "model_not_found")


def test_a_name_that_is_taken(started: Started) -> None:
    first = digest(started.file("taken").read_bytes())
    assert started.load("taken", "taken.safetensors").status_code == 200
    second = digest(started.file("taken").read_bytes())
    refused = started.load("taken", "taken.safetensors")
    assert refused.status_code == 400
    assert "load_inplace" in error_of(refused)
    for path in ("../secret", "nothing"):  # what is wrong with load_inplace, too
        assert "lora_path" in error_of(started.load("taken", path))
    other = started.load("taken", started.file("others"), load_inplace=True)
    assert (other.status_code, fault_of(other)["param"]) == (400, "lora_name")
    assert answer(started.http, "taken") == first
    assert started.load("taken", "taken.safetensors", load_inplace=True).status_code == 200
    assert answer(started.http, "taken") == second
    assert started.http.get("/v1/adapters/taken").json()["history"] == [first, second]


def test_of_two_loads_of_a_new_name_at_once_one_succeeds(started: Started) -> None:
    paths = [started.file("race", f"race-{number}.safetensors") for number in range(2)]
    sizes = sorted(path.stat().st_size for path in paths)
    root = started.site.parts.services.store.root
    with ThreadPoolExecutor(len(paths)) as threads:
        with lock_held(root):
            asked = [threads.submit(started.load, "race", path) for path in paths]
            wait_for(lambda: received(root) == sizes)
        answers = sorted((each.result() for each in asked), key=lambda each: each.status_code)
    assert [each.status_code for each in answers] == [200, 400]
    assert "set load_inplace to true" in error_of(answers[1])
    assert answers[0].headers["x-adapter-version"] == answer(started.http, "race")
    assert len(started.http.get("/v1/adapters/race").json()["history"]) == 1


def test_a_peft_folder_is_the_version_that_its_upload_is(started: Started) -> None:
    sent = lora_files(BACKBONE, seed=4)
    write_folder(started.folder / "lora" / "my-lora", sent)
    uploaded = started.http.put("/v1/adapters/lora", content=tarred(in_folder(sent)))
    asked = [
        started.load("lora", path, load_inplace=True)
        for path in ("lora/my-lora", "lora/my-lora/", started.folder / "lora" / "my-lora")
    ]
    assert [each.status_code for each in asked] == [200] * 3
    assert {each.headers["x-adapter-version"] for each in asked} == {uploaded.json()["version"]}


def test_links_inside_of_the_folder_are_followed(started: Started) -> None:
    """As in a hub's cache, where a snapshot's files are links to blobs."""
    sent = lora_files(BACKBONE, seed=5)
    write_folder(started.folder / "blobs", sent)
    snapshot = started.folder / "snapshot"
    snapshot.mkdir()
    for name in (CONFIG, WEIGHTS):
        (snapshot / name).symlink_to(f"../blobs/{name}")
    (started.folder / "newest").symlink_to(snapshot)
    assert started.load("linked", "newest").status_code == 200
    assert answer(started.http, "linked")


SECRET = b"not for clients"


def outside(started: Started) -> Path:
    """A sound adapter that no client may have loaded."""
    folder = started.folder.parent / "outside"
    folder.mkdir(exist_ok=True)
    path = folder / "stolen.safetensors"
    path.write_bytes(started.site.adapter("stolen").read_bytes())
    return path


@pytest.mark.parametrize(
    "path",
    [
        "../outside/stolen.safetensors",
        "a/../../outside/stolen.safetensors",
        "/etc/passwd",
        "/",
        "..",
        "a\0b",
        "\udc80",
        "link-out",
        "folder-out/stolen.safetensors",
        "missing-out",
        "loop",
        "peft-out",
    ],
    ids=ascii,
)
def test_nothing_outside_is_loaded(started: Started, path: str) -> None:
    folder = started.folder
    stolen = outside(started)
    if not (folder / "link-out").is_symlink():
        (folder / "link-out").symlink_to(stolen)
        (folder / "folder-out").symlink_to(stolen.parent)
        (folder / "missing-out").symlink_to("/nowhere/at/all")
        (folder / "loop").symlink_to("loop")
        write_folder(folder / "peft-out", {CONFIG: lora_files(BACKBONE)[CONFIG]})
        (folder / "peft-out" / WEIGHTS).symlink_to(stolen)
    before = files(started.site)
    refused = started.load("stolen", path)
    assert refused.status_code in ((400, 404) if path == "loop" else (400,)), refused.text
    message = error_of(refused)
    assert "lora_path" in message
    for secret in (str(folder), str(stolen.parent), str(started.site.folder)):
        assert secret not in message
    assert files(started.site) == before


def test_an_absolute_path_outside_is_not_looked_at(started: Started, tmp_path: Path) -> None:
    """What is there and what is not get the same answer."""
    there = tmp_path / "there"
    there.write_bytes(SECRET)
    messages = {
        error_of(started.load("x", path)).replace(str(path), "PATH")
        for path in (there, tmp_path / "nowhere")
    }
    assert len(messages) == 1


@pytest.mark.parametrize(
    ("path", "status", "named"),
    [
        ("nothing.safetensors", 404, "nothing is there"),
        ("blob/inside", 404, "nothing is there"),
        ("n" * 300, 404, "nothing is there"),
        ("blob", 400, "this is not a safetensors file"),
        ("pipe", 400, "a pipe"),
        ("empty", 400, "a folder without adapter_config.json and adapter_model.safetensors"),
        ("pickled", 400, "adapter_model.bin is a pickle"),
        (".", 400, "is a folder without"),
        ("broken", 400, "adapter_config.json"),
        ("large", 413, f"at most {LIMIT} are allowed"),
        (
            "other.safetensors",
            400,
            "lora_name: this adapter's manifest names the task 'other', not 'refused'; "
            'give "lora_name": "other"',
        ),
    ],
)
def test_what_is_wrong_with_a_path(started: Started, path: str, status: int, named: str) -> None:
    folder = started.folder
    if not (folder / "pipe").exists():
        (folder / "blob").write_bytes(SECRET * 100)
        os.mkfifo(folder / "pipe")
        (folder / "empty").mkdir()
        sent = lora_files(BACKBONE)
        write_folder(folder / "pickled", {CONFIG: sent[CONFIG], "adapter_model.bin": b"\x80\x02"})
        write_folder(folder / "broken", {CONFIG: b"{", WEIGHTS: sent[WEIGHTS]})
        (folder / "large").write_bytes(bytes(LIMIT + 1))
        started.file("other")
    before = files(started.site)
    refused = started.load("refused", path)
    assert refused.status_code == status, refused.text
    assert named in error_of(refused)
    assert str(folder) not in refused.text
    assert str(started.site.folder) not in refused.text
    assert SECRET.decode() not in refused.text
    assert files(started.site) == before


def test_a_folder_that_became_a_link_is_not_entered(tmp_path: Path) -> None:
    """The names are resolved, then each is entered without following a link."""
    inside, elsewhere = tmp_path / "inside", tmp_path / "elsewhere"
    for folder in (inside / "a", elsewhere):
        folder.mkdir(parents=True)
        (folder / "file").write_bytes(SECRET)

    class Overtaken(LoadFolder):
        def _resolved(self, given: str, path: str) -> list[str]:
            names = super()._resolved(given, path)
            if not (inside / "a").is_symlink():
                (inside / "a").rename(inside / "b")
                (inside / "a").symlink_to(elsewhere)
            return names

    with pytest.raises((PathNotFound, InvalidInput)):
        list(Overtaken(inside, LIMIT).pieces("a/file"))
    assert b"".join(LoadFolder(inside, LIMIT).pieces("b/file")) == SECRET


@pytest.mark.parametrize(
    ("body", "named"),
    [
        ({"lora_path": "x"}, "lora_name"),
        ({"lora_name": "x"}, "lora_path"),
        ({"lora_name": "x", "lora_path": ""}, "lora_path"),
        ({"lora_name": "no/task", "lora_path": "x"}, "task id 'no/task'"),
        ({"lora_name": "base", "lora_path": "x"}, "bare backbone"),
        ({"lora_name": "x", "lora_path": "x", "lora_int_id": 3}, "'lora_int_id'"),
        ({"lora_name": "x", "lora_path": "x", "is_3d_lora_weight": True}, "is_3d_lora_weight"),
    ],
)
def test_what_is_wrong_with_a_body(started: Started, body: dict[str, object], named: str) -> None:
    refused = started.http.post("/v1/load_lora_adapter", json=body)
    assert refused.status_code == 400
    assert named in error_of(refused)


def test_without_a_folder_nothing_is_loaded(tmp_path: Path) -> None:
    site = make_site(tmp_path)
    with connected(site, headers=ADMIN) as http:
        body = {"lora_name": "x", "lora_path": "/etc/passwd"}
        refused = http.post("/v1/load_lora_adapter", json=body)
        assert refused.status_code == 403
        assert "JUMPLORA_LOAD_FOLDER" in error_of(refused)


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    site = make_site(tmp_path, load_folder=tmp_path / "secret-name")
    with connected(site, headers=ADMIN) as http:
        body = {"lora_name": "x", "lora_path": "y"}
        refused = http.post("/v1/load_lora_adapter", json=body)
        assert refused.status_code == 404
        assert "secret-name" not in refused.text


def test_canaries_are_asked(started: Started) -> None:
    path = started.folder / "wrong.safetensors"
    canary = Canary(prompt="x", expected="never")
    path.write_bytes(started.site.adapter("wrong", canaries=[canary]).read_bytes())
    refused = started.load("wrong", path.name)
    assert refused.status_code == 400
    assert "canar" in error_of(refused)
    assert started.http.get("/v1/adapters/wrong").status_code == 404
