"""PUT of a PEFT folder in an archive: the same version whichever way it comes, or a refusal."""

from __future__ import annotations

import json
import random
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save

from adapter_requests import ADMIN, Started, answer, files, put
from jumplora_adapters.convert.draft import Draft
from jumplora_adapters.convert.form import Form
from jumplora_adapters.convert.peft import convert_peft
from jumplora_adapters.errors import ConvertError
from jumplora_adapters.format import read_adapter
from jumplora_adapters.store import Step, Store
from jumplora_server.publishing import Publishing
from packed import (
    CONFIG,
    HOSTILE,
    PACKERS,
    WEIGHTS,
    Files,
    in_folder,
    lora_files,
    tar_gz,
    tarred,
    torch_file,
    write_folder,
    zipped,
)
from serving import BACKBONE, connected, make_site, wait_for

ONES = torch.ones(3, 5)
LIMIT = 1_000_000


@pytest.fixture(scope="module")
def started(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Started]:
    site = make_site(tmp_path_factory.mktemp("site"), max_adapter_bytes=LIMIT)
    with connected(site, headers=ADMIN) as http:
        yield site, http


def staged(site: Any) -> list[str]:
    """What is left of uploads and conversions in the store."""
    return sorted(path.name for path in site.parts.services.store.root.glob(".[!l]*"))


def test_every_archive_of_a_folder_is_one_version(started: Started, tmp_path: Path) -> None:
    site, http = started
    sent = lora_files(BACKBONE, seed=1)
    folder = write_folder(tmp_path / "my-lora", sent)
    made = convert_peft(
        folder, tmp_path / "a.safetensors", Draft("lora", created=""), BACKBONE, Form()
    )
    statuses = []
    for pack in PACKERS.values():
        response = put(http, "lora", pack(in_folder({**sent, "README.md": b"# A LoRA"})))
        statuses.append(response.status_code)
        told = response.json()
        assert told["version"] == made.digest, told
        assert told["made_from"] == {"format": "peft", "peft_type": "LORA", "warnings": []}
        assert response.headers["etag"] == f'"{made.digest}"'
    assert statuses == [201] + [200] * (len(PACKERS) - 1)
    assert answer(http, "lora") == made.digest
    stored = site.parts.services.store.path_of(made.digest).read_bytes()
    assert stored == made.path.read_bytes()
    assert put(http, "lora", stored).json()["made_from"] is None
    assert staged(site) == []


def test_a_version_that_was_made_can_be_replaced_and_conditioned(started: Started) -> None:
    _, http = started
    first, second = (zipped(lora_files(BACKBONE, seed=seed)) for seed in (2, 3))
    old = put(http, "replaced", first).json()["version"]
    refused = put(http, "replaced", second, if_match='"' + "0" * 64 + '"')
    assert (refused.status_code, refused.json()["error_type"]) == (412, "version_conflict")
    new = put(http, "replaced", second, if_match=f'"{old}"')
    assert (new.status_code, new.json()["history"]) == (201, [old, new.json()["version"]])
    assert answer(http, "replaced") == new.json()["version"] != old


def test_warnings_of_the_conversion_are_in_the_answer(started: Started) -> None:
    sent = lora_files(BACKBONE, base_model_name_or_path="someone/other")
    warnings = put(started[1], "warned", tarred(sent)).json()["made_from"]["warnings"]
    assert any("'someone/other'" in text for text in warnings)


def test_a_sparse_adapter_of_peft(started: Started) -> None:
    site, http = started
    (name, shape), *_ = BACKBONE.sites.items()
    tensors = {
        f"base_model.model.{name}.shira_indices": torch.tensor([[0, 2], [1, 4]], dtype=torch.int32),
        f"base_model.model.{name}.shira_weight": torch.tensor([0.5, -2.0]),
    }
    config = {"peft_type": "SHIRA", "r": 1, "target_modules": ["q"]}
    sent = {CONFIG: json.dumps(config).encode(), WEIGHTS: save(tensors)}
    response = put(http, "sparse", tar_gz(in_folder(sent)))
    told = response.json()
    assert (response.status_code, told["made_from"]["peft_type"]) == (201, "SHIRA"), told
    stored = site.parts.services.store.path_of(told["version"])
    expected = torch.zeros(shape.shape)
    expected[0, 1], expected[2, 4] = 0.5, -2.0
    (delta,) = read_adapter(stored, BACKBONE).deltas.values()
    assert torch.equal(delta.to_dense(), expected)
    assert answer(http, "sparse") == told["version"]


def test_a_clients_config_does_not_choose_what_the_server_reads(
    started: Started, tmp_path: Path
) -> None:
    other = Path(__file__).parents[3] / "adapters" / "demo" / "backbone"
    sent = lora_files(BACKBONE, base_model_name_or_path=str(other))
    folder = write_folder(tmp_path / "lora", sent)
    draft = Draft("curious", created="")
    with pytest.raises(ConvertError, match="not those of the backbone"):
        convert_peft(folder, tmp_path / "a.safetensors", draft, BACKBONE, Form())
    response = put(started[1], "curious", zipped(sent))
    assert response.status_code == 201
    assert "the same weights" in response.json()["made_from"]["warnings"][0]


@pytest.mark.parametrize("case", HOSTILE.values(), ids=HOSTILE.keys())
def test_a_hostile_archive_leaves_nothing(
    started: Started, case: tuple[Callable[[Files], bytes], str]
) -> None:
    site, http = started
    make, words = case
    before = files(site)
    response = put(http, "hostile", make(lora_files(BACKBONE)))
    told = response.json()
    assert response.status_code in (413, 422), told
    large = "archive_size" if words.startswith(("more than 1000000", "adapter_config.json")) else ""
    assert response.status_code == (413 if large else 422)
    assert told["error_type"] == ("adapter_too_large" if large else "adapter_refused")
    assert told["reason"] in ({large} if large else {"archive", "wrong_file"})
    assert words in told["error"]
    assert str(site.folder) not in told["error"]
    assert (files(site), staged(site)) == (before, [])


def config(**fields: Any) -> Callable[[Files], Files]:
    return lambda sound: {**sound, **{CONFIG: lora_files(BACKBONE, **fields)[CONFIG]}}


def weights(change: Callable[[bytes], bytes]) -> Callable[[Files], Files]:
    return lambda sound: {**sound, WEIGHTS: change(sound[WEIGHTS])}


def claims(shape: str, dtype: str = "F32") -> bytes:
    """A safetensors file of one tensor that says it is huge."""
    head = f'{{"x.lora_A.weight":{{"dtype":"{dtype}","shape":{shape},"data_offsets":[0,0]}}}}'
    return len(head).to_bytes(8, "little") + head.encode()


UNFIT: dict[str, tuple[Callable[[Files], Files], int, str, str]] = {
    "another type": (config(peft_type="IA3"), 422, "convert", "peft_type"),
    "DoRA": (config(use_dora=True), 422, "convert", "use_dora"),
    "another rank": (config(r=3), 422, "convert", "rank"),
    "no JSON": (lambda sound: {**sound, CONFIG: b"{"}, 422, "convert", "not valid JSON"),
    "a list": (lambda sound: {**sound, CONFIG: b"[]"}, 422, "convert", "a list"),
    "not UTF-8": (lambda sound: {**sound, CONFIG: b"\xff"}, 422, "convert", "not valid JSON"),
    "deep JSON": (lambda sound: {**sound, CONFIG: b"[" * 9999}, 422, "convert", "not valid JSON"),
    "no safetensors": (weights(lambda raw: b"nonsense"), 422, "convert", "header"),
    "empty weights": (weights(lambda raw: b""), 422, "convert", "header"),
    "cut off": (weights(lambda raw: raw[:-4]), 422, "convert", "adapter_model.safetensors"),
    "a header bomb": (
        weights(lambda raw: (1 << 40).to_bytes(8, "little") + raw[8:]), 422, "convert", "claims",
    ),
    "a huge tensor": (
        weights(lambda raw: claims("[1000000,1000000]")), 413, "archive_size", "take",
    ),
    "an impossible tensor": (
        weights(lambda raw: claims("[-5,1e999]")), 422, "convert", "adapter_model.safetensors",
    ),
    "a file that is twice as large in float32": (
        weights(lambda raw: claims(f"[1,{LIMIT // 4 + 1}]", "BF16")), 413, "archive_size", "take",
    ),
    "an endless expression": (
        config(target_modules="(a|aa)+$" + "(" * 500), 422, "convert", "target_modules",
    ),
    "another backbone": (
        lambda sound: {**sound, WEIGHTS: lora_files(BACKBONE, rank=3)[WEIGHTS]}, 422, "convert", "",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", UNFIT.values(), ids=UNFIT.keys())
def test_a_folder_that_does_not_convert_leaves_nothing(
    started: Started, case: tuple[Callable[[Files], Files], int, str, str]
) -> None:
    site, http = started
    change, status, reason, words = case
    before = files(site)
    response = put(http, "unfit", tar_gz(change(lora_files(BACKBONE))))
    told = response.json()
    assert (response.status_code, told["reason"]) == (status, reason), told
    assert words in told["error"]
    assert str(site.folder) not in told["error"]
    assert (files(site), staged(site)) == (before, [])


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (zipped(lora_files(BACKBONE, peft_type="IA3")), "convert"),
        (zipped({}), "wrong_file"),
        (zipped(lora_files(BACKBONE))[:-30], "archive"),
    ],
    ids=["convert", "wrong file", "archive"],
)
def test_a_refusal_is_counted(started: Started, content: bytes, reason: str) -> None:
    site, http = started
    site.publish("counted")
    assert put(http, "counted", content).json()["reason"] == reason
    counted = site.metric("jumplora_adapter_load_failures_total", task_id="counted", code=reason)
    assert counted == 1


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (torch_file({"a": 1}), "jumplora convert official"),
        (b"\x80\x02}q\x00.", "jumplora convert official"),
        (b"BZh91AY&SY", "tar.gz"),
        (lora_files(BACKBONE)[CONFIG], "jumplora publish FOLDER"),
        (lora_files(BACKBONE)[WEIGHTS], "jumplora publish FOLDER"),
        (save({"encoder.block.0.layer.0.layer_norm.weight": ONES}), "jumplora import-backbone"),
        (save({"encoder.block.0.layer.0.SelfAttention.q.weight": ONES}), "jumplora convert dense"),
    ],
    ids=["torch file", "pickle", "bzip2", "the configuration", "the weights", "a model", "dense"],
)
def test_a_file_of_another_kind_names_the_command(
    started: Started, content: bytes, words: str
) -> None:
    site, http = started
    before = files(site)
    response = put(http, "wrong", content)
    assert (response.status_code, response.json()["error_type"]) == (422, "adapter_refused")
    assert words in response.json()["error"]
    assert (files(site), staged(site)) == (before, [])


@pytest.mark.parametrize(
    ("content_type", "pack", "status"),
    [
        ("application/zip", "zip", 201),
        ("application/x-zip-compressed", "zip", 201),
        ("application/x-tar; charset=utf-8", "GNU tar", 201),
        ("Application/GZIP", "tar.gz", 201),
        ("application/octet-stream", "tar.gz", 201),
        ("application/x-www-form-urlencoded", "zip", 201),  # curl says so of any data
        ("application/zip", "tar.gz", 422),
        ("application/gzip", "zip", 422),
        ("application/x-tar", "tar.gz", 422),
        ("multipart/form-data; boundary=x", "zip", 422),
    ],
)
def test_the_bytes_decide_and_the_type_may_not_contradict(
    started: Started, content_type: str, pack: str, status: int
) -> None:
    site, http = started
    content = PACKERS[pack](lora_files(BACKBONE, seed=9))
    response = put(http, "typed", content, content_type=content_type)
    assert response.status_code in ({201, 200} if status == 201 else {status}), response.text
    if status == 422:
        assert response.json()["error_type"] == "validation"
        assert "content-type" in response.json()["error"]
    assert staged(site) == []


def test_an_adapter_file_is_no_zip(started: Started) -> None:
    site, http = started
    content = site.adapter("plain").read_bytes()
    response = put(http, "plain", content, content_type="application/zip")
    assert (response.status_code, response.json()["error_type"]) == (422, "validation")
    assert put(http, "plain", content).status_code == 201


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(packer=st.sampled_from([*PACKERS]), seed=st.integers(0, 2**32))
def test_any_crafted_archive_is_right_or_refused(started: Started, packer: str, seed: int) -> None:
    """Bytes of the files, or of the archive, are changed: an accepted one answers as it says."""
    site, http = started
    rng = random.Random(seed)
    sent = {name: bytearray(content) for name, content in lora_files(BACKBONE).items()}
    packed = bytearray()
    for target in (sent[rng.choice([CONFIG, WEIGHTS])], packed):
        if target is packed:
            packed += PACKERS[packer]({name: bytes(content) for name, content in sent.items()})
        for _ in range(rng.choice([0, 1, 2])):
            at = rng.randrange(len(target))
            target[at : at + rng.choice([1, 1, 1, 40])] = rng.randbytes(rng.choice([1, 1, 3]))
    before = files(site)
    response = put(http, "crafted", bytes(packed))
    told = response.json()
    if response.status_code in (200, 201):
        version = told["version"]
        path = site.parts.services.store.path_of(version)
        assert read_adapter(path, BACKBONE, expect_digest=version).manifest.task == "crafted"
        assert answer(http, "crafted") == version
        assert http.delete("/v1/adapters/crafted").status_code == 200
    else:
        assert response.status_code in (413, 422), told
        assert told["error_type"] in ("adapter_refused", "adapter_too_large"), told
    assert files(site) == before
    assert staged(site) == []


def waiting_site(tmp_path: Path, on_step: Callable[[Step], None], **seconds: float) -> Any:
    site = make_site(tmp_path)
    services = site.parts.services
    publishing = Publishing(
        Store(services.store.root, on_step=on_step),
        services.backbone,
        services.residency,
        load_seconds=20,
        **seconds,
    )
    object.__setattr__(services, "publishing", publishing)
    return site


def test_one_conversion_at_a_time_and_others_wait_a_while(tmp_path: Path) -> None:
    began, may_end = threading.Event(), threading.Event()

    def hold(step: Step) -> None:
        if step == "staged":
            began.set()
            assert may_end.wait(20)

    site = waiting_site(tmp_path, hold, wait_seconds=0.2)
    with connected(site, headers=ADMIN) as http, ThreadPoolExecutor(1) as pool:
        site.publish("other")
        first = pool.submit(put, http, "first", zipped(lora_files(BACKBONE)))
        assert began.wait(20)
        with httpx.Client(base_url=http.base_url, headers=ADMIN, timeout=20) as second:
            late = put(second, "second", tar_gz(lora_files(BACKBONE)))
            assert (late.status_code, late.json()["error_type"]) == (503, "store_busy")
            assert "another folder" in late.json()["error"]
            assert late.headers["retry-after"]
            # Adapter files are not held up, nor is a sweep a danger to what is being made.
            assert put(second, "file", site.adapter("file").read_bytes()).status_code == 201
            assert second.delete("/v1/adapters/other").status_code == 200
            assert answer(second, "file")
            assert any(path.is_dir() for path in site.parts.services.store.root.glob(".tmp*"))
            may_end.set()
            assert first.result(20).status_code == 201
            assert put(second, "second", tar_gz(lora_files(BACKBONE))).status_code == 201
    assert staged(site) == []


def test_a_conversion_that_takes_too_long_leaves_nothing(tmp_path: Path) -> None:
    may_end = threading.Event()
    site = waiting_site(tmp_path, lambda step: holding(may_end, step), disk_seconds=0.3)
    with connected(site, headers=ADMIN) as http:
        before = files(site)
        late = put(http, "late", zipped(lora_files(BACKBONE)))
        assert (late.status_code, late.json()["error_type"]) == (503, "store_busy")
        assert "this folder" in late.json()["error"]
        may_end.set()
        wait_for(lambda: staged(site) == [])
        assert files(site) == before
        assert http.get("/v1/adapters/late").status_code == 404


def holding(may_end: threading.Event, step: Step) -> None:
    if step == "staged":
        assert may_end.wait(20)


def test_a_client_that_goes_away_leaves_nothing_in_staging(tmp_path: Path) -> None:
    began, may_end = threading.Event(), threading.Event()

    def hold(step: Step) -> None:
        if step == "staged":
            began.set()
            assert may_end.wait(20)

    site = waiting_site(tmp_path, hold)
    with connected(site, headers=ADMIN) as http:
        with (
            pytest.raises(httpx.ReadTimeout),
            httpx.Client(base_url=http.base_url, headers=ADMIN, timeout=1) as hasty,
        ):
            put(hasty, "left", zipped(lora_files(BACKBONE)))
        assert began.is_set()
        may_end.set()
        # A change that began is finished.
        wait_for(lambda: http.get("/v1/adapters/left").status_code == 200)
        wait_for(lambda: staged(site) == [])


def test_the_description_names_the_archives(started: Started) -> None:
    document = started[1].get("/openapi.json").json()
    body = document["paths"]["/v1/adapters/{task_id}"]["put"]["requestBody"]
    assert {"application/zip", "application/x-tar", "application/gzip"} < set(body["content"])
    assert "PEFT folder" in body["description"]
    assert "made_from" in document["components"]["schemas"]["PutResult"]["properties"]
