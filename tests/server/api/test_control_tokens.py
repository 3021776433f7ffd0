"""Control tokens in what clients send, and tokens that the backbone does not know, over HTTP.

The fake engine answers with the ids of the prompt as characters: the control token is U+0250.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from jumplora_adapters.manifest import Canary, PromptSpec
from serving import Site, character_tokenizer, connected, make_site

CONTROL = "\u0250"
TEMPLATE = PromptSpec(template="<ctl>{text}>")
ROWS = 0x251  # <ctl> is the last token that the backbone knows, newtok the next
Started = tuple[Site, httpx.Client]


@pytest.fixture(scope="module", params=["plain", "read"])
def started(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) \
        -> Iterator[Started]:  # fmt: skip
    site = make_site(
        tmp_path_factory.mktemp("site"),
        control_tokens_in_text=request.param,
        tokenizer=character_tokenizer(special=["<ctl>"], added=["newtok"], rows=ROWS),
    )
    with connected(site) as http:
        site.publish("alpha", prompt=TEMPLATE)
        yield site, http


def answer(http: httpx.Client, **body: Any) -> str:
    response = http.post("/generate", json={"task_id": "alpha", **body})
    assert response.status_code == 200, response.text
    text: str = response.json()["generated_text"]
    return text.partition(":")[2]


@pytest.mark.parametrize("size", [1, 5000], ids=["small", "large"])
def test_a_control_token_in_a_text_is_plain_unless_set_otherwise(
    started: Started, size: int
) -> None:
    site, http = started
    read = site.parts.services.settings.control_tokens_in_text == "read"
    got = answer(http, text="a<ctl>b" + " " * size, parameters={"truncate": 16})
    assert got.startswith(f"{CONTROL}a{CONTROL if read else '<ctl>'}b ")


def test_whole_prompts_are_read_as_ever(started: Started) -> None:
    assert answer(started[1], inputs="a<ctl>b") == f"a{CONTROL}b"


def test_without_control_tokens_nothing_differs(started: Started) -> None:
    assert answer(started[1], text="a < b") == f"{CONTROL}a < b>"


@pytest.mark.parametrize(
    ("body", "name"),
    [
        pytest.param({"inputs": "a newtok"}, "inputs", id="whole prompt"),
        pytest.param({"text": "a newtok"}, "text", id="text"),
        pytest.param({"text": ["a", "b newtok", "c"]}, "text[1]", id="one of several"),
        pytest.param({"inputs": "newtok", "parameters": {"truncate": 8}}, "inputs", id="cut"),
        pytest.param({"text": "newtok", "parameters": {"truncate": 8}}, "text", id="text, cut"),
    ],
)
def test_a_token_without_an_embedding_is_refused_by_name(
    started: Started, body: dict[str, Any], name: str
) -> None:
    response = started[1].post("/generate", json={"task_id": "alpha", **body})
    assert response.status_code == 422
    assert response.json()["error_type"] == "validation"
    assert response.json()["error"].startswith(
        f"{name}: the prompt needs the token 'newtok' (id {ROWS}), which the backbone does not know"
    )


def test_one_that_is_cut_off_is_not_needed(started: Started) -> None:
    cut = answer(started[1], inputs="abcdefgh newtok", parameters={"truncate": 6})
    assert cut == "abcde"


def test_a_canary_that_needs_one_counts_as_wrong(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    tokenizer = character_tokenizer(special=["<ctl>"], added=["newtok"], rows=ROWS)
    site = make_site(tmp_path, tokenizer=tokenizer)
    with connected(site):
        site.publish("beta", canaries=[Canary(prompt="newtok", expected="x")])
    assert "0 of its 1 canaries were right" in caplog.text
    assert f"not asked: token {ROWS} has no row" in caplog.text
