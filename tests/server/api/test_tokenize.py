"""The tokens of a prompt, in vLLM's form and in TGI's, and the way back."""

from __future__ import annotations

import json
from collections.abc import Iterator

import httpx
import pytest

from fakes import EOS
from jumplora_server.version import VERSION
from serving import Site, connected, make_site


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Site:
    return make_site(tmp_path_factory.mktemp("site"), served_name="org/small")


@pytest.fixture(scope="module")
def http(site: Site) -> Iterator[httpx.Client]:
    with connected(site) as http:
        site.publish("alpha")
        yield http


def test_version(http: httpx.Client) -> None:
    assert http.get("/version").json() == {"version": VERSION}


@pytest.mark.parametrize("text", ["", "héllo </s>", "x" * 5000], ids=len)
@pytest.mark.parametrize("model", [None, "alpha", "base", "org/small"])
def test_tokens_are_those_of_generation(
    site: Site, http: httpx.Client, text: str, model: str | None
) -> None:
    told = http.post("/tokenize", json={"model": model, "prompt": text}).json()
    ids = site.parts.services.tokenizer.encode(text)
    assert told == {
        "count": len(ids), "max_model_len": 64, "tokens": list(ids), "token_strs": None
    }  # fmt: skip


def test_without_the_end_and_with_strings(http: httpx.Client) -> None:
    body = {"prompt": "ab", "add_special_tokens": False, "return_token_strs": True}
    told = http.post("/tokenize", json=body).json()
    assert (told["tokens"], told["token_strs"]) == ([ord("a"), ord("b")], ["a", "b"])


def test_tgis_form(http: httpx.Client) -> None:
    told = http.post("/tokenize", json={"inputs": "aé"}).json()
    assert told[:2] == [
        {"id": ord("a"), "text": "a", "start": 0, "stop": 1},
        {"id": ord("é"), "text": "é", "start": 1, "stop": 2},
    ]
    assert [each["id"] for each in told[2:]] == [EOS]
    plain = http.post("/tokenize", json={"inputs": "aé", "add_special_tokens": False}).json()
    assert plain == told[:2]


def test_detokenize_is_the_way_back(http: httpx.Client) -> None:
    tokens = http.post("/tokenize", json={"prompt": "héllo"}).json()["tokens"]
    told = http.post("/detokenize", json={"model": "alpha", "tokens": tokens}).json()
    assert told["prompt"].replace(" ", "") == "héllo"
    assert http.post("/detokenize", json={"tokens": []}).json() == {"prompt": ""}


@pytest.mark.parametrize(
    ("path", "body", "status", "named"),
    [
        ("/tokenize", {}, 400, "exactly one of prompt"),
        ("/tokenize", {"prompt": "a", "inputs": "a"}, 400, "exactly one of prompt"),
        ("/tokenize", {"inputs": "a", "return_token_strs": True}, 400, "return_token_strs"),
        ("/tokenize", {"messages": []}, 400, "'messages'"),
        ("/tokenize", {"prompt": "\ud800"}, 400, "half a surrogate pair"),
        ("/tokenize", {"prompt": "a" * 70000}, 400, "70000 bytes given"),
        ("/tokenize", {"model": "alphb", "prompt": "a"}, 404, "closest: alpha"),
        ("/detokenize", {"model": "alphb", "tokens": [3]}, 404, "closest: alpha"),
        ("/detokenize", {"tokens": [3, 10**6]}, 400, "tokens.1: 1000000 is not a token"),
        ("/detokenize", {"tokens": [-1]}, 400, "tokens.0"),
        ("/detokenize", {"tokens": ["a"]}, 400, "tokens.0"),
    ],
)
def test_what_is_wrong_is_named(
    http: httpx.Client, path: str, body: dict[str, object], status: int, named: str
) -> None:
    # httpx itself would not send half a surrogate pair.
    content, headers = json.dumps(body), {"content-type": "application/json"}
    refused = http.post(path, content=content, headers=headers)
    assert refused.status_code == status
    assert named in refused.json()["error"]["message"]
