"""What never gets into the log: prompts, canaries, and characters that act on who reads it."""

from __future__ import annotations

import hashlib
import io
import logging
import unicodedata
from pathlib import Path
from typing import Any, Literal

import httpx
import pytest

from adapter_requests import ADMIN, put
from crafted import Parts
from jumplora_adapters.errors import FormatError
from jumplora_adapters.manifest import Canary, PromptSpec, parse_manifest
from jumplora_server import logs
from jumplora_server.core import Batch
from serving import Site, connected, make_site, wait_for

SECRET = "Zq7private"
# One of every kind: C0 and C1 controls, DEL, bidirectional, separators, unseen, beyond 16 bits.
ACTING = "\x1b[31m\x07\x7f\x85\u202e\u2066\u2028\u2029\u200b\u00ad\ufeff\u061c\U000e0041\r\n\t"
HOSTILE = f"ev{ACTING}il"
CANARIES = [{"prompt": f"{SECRET} prompt {number}", "expected": SECRET} for number in range(3)]

MANIFESTS: dict[str, dict[str, Any]] = {
    "wrong canaries": {},
    "hostile texts": {
        "method": HOSTILE,
        "created": HOSTILE,
        "scores": {HOSTILE: 0.5},
        "training": {HOSTILE: [HOSTILE]},
        "prompt": {"template": HOSTILE, "instruction": HOSTILE, "options": [HOSTILE]},
        "generation": {"stop": [HOSTILE]},
    },
    "a field too many": {HOSTILE: SECRET},
    "a canary's field too many": {"canaries": [{**CANARIES[0], HOSTILE: SECRET}]},
    "a canary without an answer": {"canaries": [{"prompt": SECRET}]},
    "a canary of a wrong type": {"canaries": [SECRET]},
    "canaries of a wrong type": {"canaries": SECRET},
    "a canary that is a list": {
        "canaries": [{"prompt": [SECRET], "expected": {SECRET[:1]: SECRET}}]
    },
    "a canary too long": {"canaries": [{"prompt": SECRET * 10_000, "expected": SECRET}]},
    "too many canaries": {"canaries": CANARIES * 1000},
    "half a surrogate pair": {"canaries": [{"prompt": SECRET + "\ud800", "expected": SECRET}]},
    "another task": {"task": HOSTILE},
    "a hostile target": {"targets": [HOSTILE]},
    "a hostile kind": {"kind": HOSTILE},
    "hostile lineage": {"lineage": [HOSTILE]},
}


@pytest.fixture
def stream(form: Literal["text", "json"]) -> io.StringIO:
    stream = io.StringIO()
    logs.configure(form, "debug", stream)
    return stream


@pytest.fixture
def form(request: pytest.FixtureRequest) -> Literal["text", "json"]:
    form: Literal["text", "json"] = request.param
    return form


def crafted(site: Site, change: dict[str, Any]) -> bytes:
    """An adapter file whose manifest, canaries included, was changed without any check."""
    parts = Parts.of(site.adapter("news").read_bytes())
    parts.manifest = {**parts.manifest, "canaries": CANARIES, **change}
    return parts.join()


def drop(site: Site, task: str, content: bytes) -> None:
    """Put a version into the store by hand."""
    digest = hashlib.sha256(content).hexdigest()
    folder = site.parts.services.store.root / task
    folder.mkdir(exist_ok=True)
    (folder / f"{digest}.safetensors").write_bytes(content)
    (folder / "current").write_text(f"{digest}\n")


def check(text: str) -> None:
    assert SECRET not in text
    found = {
        f"{ord(character):04x}"
        for character in text
        if character != "\n" and unicodedata.category(character) in ("Cc", "Cf", "Zl", "Zp", "Cs")
    }
    assert not found


@pytest.mark.parametrize("form", ["text", "json"], indirect=True)
def test_all_that_may_be_wrong_with_an_adapter(tmp_path: Path, stream: io.StringIO) -> None:
    site = make_site(tmp_path)
    with connected(site, headers=ADMIN) as http:
        for name, change in MANIFESTS.items():
            content = crafted(site, change)
            answer = put(http, "news", content)
            assert answer.status_code == 422, (name, answer.text)
            check(answer.text)
            drop(site, name.replace(" ", "-").replace("'", ""), content)
        drop(site, "garbled", SECRET.encode())
        folder = site.parts.services.store.root / "pointed"
        folder.mkdir()
        (folder / "current").write_bytes(HOSTILE.encode() + SECRET.encode()[:4])
        (site.parts.services.store.root / "odd\x1b\u202ename").mkdir()
        wait_for(lambda: len(http.get("/v1/adapters").json()["adapters"]) >= len(MANIFESTS) + 2)
        site.parts.services.residency.sync("pointed").exception(timeout=10)
        for status in http.get("/v1/adapters").json()["adapters"]:
            asked = http.post("/generate", json={"task_id": status["task_id"], "inputs": "x"})
            check(asked.text)
            check(http.post(f"/v1/adapters/{status['task_id']}/load").text)
    text = stream.getvalue()
    assert "wrong-canaries" in text
    assert "pointed" in text
    check(text)


@pytest.mark.parametrize("form", ["text", "json"], indirect=True)
def test_failures_of_our_own(
    tmp_path: Path, stream: io.StringIO, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(batch: Batch) -> Exception:
        del batch
        return RuntimeError(HOSTILE)

    site = make_site(tmp_path)
    with connected(site, headers=ADMIN) as http:
        canaries = [Canary(prompt=SECRET, expected=SECRET)]
        site.engine.say = lambda prompt, versions: SECRET
        site.publish("news", canaries=canaries, prompt=PromptSpec(template=SECRET + "{text}"))
        site.engine.fail_step = broken
        for field in ("inputs", "text"):
            answer = http.post("/generate", json={"task_id": "news", field: SECRET})
            assert answer.status_code == 500
        assert put(http, "other", crafted(site, {"task": "other"})).status_code == 503
        with monkeypatch.context() as patch:
            patch.setattr(site.parts.services.residency.table, "acquire", _not_a_manifest)
            answer = http.post("/generate", json={"task_id": "news", "inputs": SECRET})
            assert (answer.status_code, answer.json()["error_type"]) == (500, "internal")
    text = stream.getvalue()
    assert "a step of 1 rows failed" in text
    assert "Traceback" in text
    check(text)


def _not_a_manifest(spec: str) -> None:
    del spec
    Canary.model_validate({"prompt": [SECRET], "expected": SECRET})


@pytest.mark.parametrize("form", ["text", "json"], indirect=True)
def test_requests(tmp_path: Path, stream: io.StringIO) -> None:
    site = make_site(tmp_path, max_text_bytes=1000)
    bodies: list[dict[str, Any]] = [
        {"task_id": "news", "inputs": SECRET},
        {"task_id": "news", "inputs": SECRET * 200},
        {"task_id": "news", "inputs": [SECRET, 1]},
        {"task_id": "news", "inputs": SECRET, "text": SECRET},
        {"task_id": "news", "inputs": SECRET, HOSTILE: SECRET},
        {"task_id": "news", "inputs": SECRET, "parameters": {"top_k": SECRET}},
        {"task_id": "news", "inputs": SECRET, "parameters": SECRET},
        {"task_id": HOSTILE, "inputs": SECRET},
        {"task_id": "unknown", "inputs": SECRET},
        {"task_id": "news@00000000", "inputs": SECRET},
    ]
    with connected(site) as http:
        site.publish("news")
        for body in bodies:
            http.post("/generate", json=body)
            http.post("/generate_stream", json=body)
        headers = [(b"x-request-id", f"{SECRET}\u00ad".encode()), (b"x-task-id", "\u202e".encode())]
        http.post("/generate", json=bodies[0], headers=httpx.Headers(headers))
        http.get(f"/{SECRET}%1b%E2%80%AE")
        http.request(SECRET, "/generate")
    text = stream.getvalue()
    assert text.count("request_id") >= 2 * len(bodies)
    check(text.replace(f"method={SECRET}", "").replace(f'"method": "{SECRET}"', ""))


def test_a_manifests_fault_shows_nothing_of_its_canaries_in_a_traceback() -> None:
    with pytest.raises(FormatError) as caught:
        parse_manifest(
            f'{{"canaries": [{{"prompt": 1, "expected": "{SECRET}"}}], "a": "{SECRET}"}}'
        )
    assert SECRET not in logging.Formatter().formatException(
        (type(caught.value), caught.value, caught.value.__traceback__)
    )
