"""Adapters that multiply what a request sends: refused when published, and measured when asked.

A file that lies in the store by hand was never refused, so each request counts what it makes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from adapter_requests import ADMIN, Started, put
from crafted import Parts
from jumplora_adapters.bounds import MAX_FRAME_BYTES
from jumplora_adapters.prompt import Frame
from serving import Site, connected, make_site

MAX_TEXT_BYTES = 4096
BOMBS: dict[str, dict[str, Any]] = {
    "options": {"prompt": {"template": "{options}" * 7000, "options": ["o" * 1000] * 180}},
    "text": {"prompt": {"template": "{text}" * 10_000}},
    "instruction": {"prompt": {"template": "{instruction}" * 90, "instruction": "i" * 1000}},
    "stops": {"generation": {"stop": ["s" * 1024] * 16}},
    "rank": {"rank": 65_536},
    "scores": {"scores": {f"score {n}": 1e308 for n in range(3000)}},
    "names": {"method": "m" * 1024},
}


@pytest.fixture(scope="module")
def started(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Started]:
    site = make_site(tmp_path_factory.mktemp("site"), max_text_bytes=MAX_TEXT_BYTES)
    with connected(site, headers=ADMIN) as http:
        site.publish("sound")
        yield site, http


def changed(file: Path, change: dict[str, Any]) -> bytes:
    parts = Parts.of(file.read_bytes())
    parts.manifest = {**parts.manifest, **change}
    return parts.join()


def drop(site: Site, task: str, change: dict[str, Any]) -> None:
    """Put a version into the store by hand, and wait until it answers."""
    content = changed(site.adapter(task), change)
    digest = hashlib.sha256(content).hexdigest()
    folder = site.parts.services.store.root / task
    folder.mkdir()
    (folder / f"{digest}.safetensors").write_bytes(content)
    (folder / "current").write_text(f"{digest}\n")
    status = site.parts.services.residency.sync(task).result(timeout=10)
    assert status.version == digest


def ask(http: httpx.Client, task: str, **body: Any) -> httpx.Response:
    return http.post("/generate", json={"task_id": task, **body})


@pytest.mark.parametrize("name", BOMBS)
def test_a_bomb_is_refused_when_it_is_published(started: Started, name: str) -> None:
    site, http = started
    response = put(http, f"bomb-{name}", changed(site.adapter(f"bomb-{name}"), BOMBS[name]))
    assert response.status_code == 422
    assert (response.json()["error_type"], response.json()["reason"]) == (
        "adapter_refused",
        "manifest",
    )
    assert not (site.parts.services.store.root / f"bomb-{name}").exists()


def test_a_prompt_is_counted_before_it_is_made(
    started: Started, monkeypatch: pytest.MonkeyPatch
) -> None:
    site, http = started
    drop(site, "dropped", BOMBS["text"])
    made = 0

    def counting(frame: Frame, text: str) -> str:
        nonlocal made
        made += 1
        return text.join(frame.parts)

    monkeypatch.setattr(Frame, "around", counting)
    for body in ({}, {"parameters": {"truncate": 16}}):
        response = ask(http, "dropped", text="word " * 100, **body)
        assert response.status_code == 413
        assert response.json()["error_type"] == "input_too_long"
        assert "10000 times" in response.json()["error"]
        assert str(10_000 * 500) in response.json()["error"]
        assert str(MAX_TEXT_BYTES + MAX_FRAME_BYTES) in response.json()["error"]
    assert made == 0
    assert ask(http, "sound", text="a").status_code == 200
    assert made == 1


def test_one_prompt_of_a_list_is_named(started: Started) -> None:
    site, http = started
    drop(site, "listed", {"prompt": {"template": "{text}" * 100}})
    response = ask(http, "listed", text=["a", "b" * 1000, "c"])
    assert response.status_code == 413
    assert response.json()["error"].startswith("text[1]: ")


def test_a_default_outside_of_the_table_asks_for_ones_own(started: Started) -> None:
    site, http = started
    drop(site, "wide", {"generation": {"stop": ["s" * 1024] * 16}})
    refused = ask(http, "wide", inputs="a")
    assert refused.status_code == 422
    assert refused.json()["error"].startswith("parameters.stop: the adapter's own default")
    assert ask(http, "wide", inputs="a", parameters={"stop": ["."]}).status_code == 200


def test_an_answer_shows_little_of_a_name_and_nothing_that_acts(started: Started) -> None:
    site, http = started
    name = "\x1b[2J\u202e\n" * 20_000
    response = put(http, "acting", changed(site.adapter("acting"), {name: 1}))
    assert response.status_code == 422
    assert len(response.json()["error"]) < 1000
    assert response.json()["error"].isprintable()
