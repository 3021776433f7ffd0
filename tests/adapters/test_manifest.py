"""The manifest: what is accepted, what is refused, and that writing it is canonical."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from factories import random_adapter, toy_backbone
from jumplora_adapters.errors import FormatError, TaskIdInvalid
from jumplora_adapters.json_text import MAX_DEPTH
from jumplora_adapters.manifest import (
    MAX_MANIFEST_BYTES,
    Canary,
    Manifest,
    PromptSpec,
    canonical_json,
    check_task_id,
    parse_manifest,
)

MANIFEST = random_adapter(toy_backbone(), task="agnews")[0]
DOCUMENT: dict[str, Any] = MANIFEST.model_dump(mode="json")


@pytest.mark.parametrize("task", ["a", "agnews", "AG-news_2.1", "0", "a" * 64, "a..b"])
def test_good_task_ids(task: str) -> None:
    assert check_task_id(task) == task


@pytest.mark.parametrize(
    "task",
    [
        "",
        ".",
        "..",
        "../up",
        "/etc/passwd",
        "a/b",
        "a\\b",
        "a b",
        "-a",
        "_base",
        ".hidden",
        "a" * 65,
        "task\n",
        "tâche",
        "٣",
        "a\x00",
        "a@b",
        "C:",
    ],
)
def test_bad_task_ids(task: str) -> None:
    with pytest.raises(TaskIdInvalid, match="letters, digits"):
        check_task_id(task)
    with pytest.raises(FormatError) as caught:
        parse_manifest(json.dumps({**DOCUMENT, "task": task}))
    assert caught.value.code == "manifest"


def test_canonical_json_is_sorted_and_compact_and_survives() -> None:
    manifest = MANIFEST.model_copy(
        update={
            "prompt": PromptSpec(template="{text} ünï", options=("a", "b")),
            "canaries": (Canary(prompt="p\n", expected="é"),),
            "scores": {"accuracy": 0.1 + 0.2, "b": 1e-7},
            "generation": {"max_new_tokens": 8, "stop": ("\n",)},
            "training": {"nested": [1, {"x": None}], "seed": 2**53 + 1},
        }
    )
    text = canonical_json(manifest)
    assert parse_manifest(text) == manifest
    assert canonical_json(parse_manifest(text)) == text
    assert text == json.dumps(
        json.loads(text), sort_keys=True, separators=(",", ":"), ensure_ascii=False
    )
    assert "ünï" in text


@given(
    scores=st.dictionaries(
        st.text(max_size=8), st.floats(allow_nan=False, allow_infinity=False), max_size=4
    ),
    instruction=st.text(max_size=30),
)
def test_any_text_and_number_survives(scores: dict[str, float], instruction: str) -> None:
    prompt = PromptSpec(template="{text}", instruction=instruction)
    manifest = MANIFEST.model_copy(update={"scores": scores, "prompt": prompt})
    assert parse_manifest(canonical_json(manifest)) == manifest


@pytest.mark.parametrize(
    ("change", "named"),
    [
        pytest.param({"format_version": 3}, "format_version", id="newer version"),
        pytest.param({"format_version": "1"}, "format_version", id="version as text"),
        pytest.param({"format_version": 1.0}, "format_version", id="version as a float"),
        pytest.param({"format_version": True}, "format_version", id="version true"),
        pytest.param({"format_version": None}, "format_version", id="version null"),
        pytest.param({"format_version": [1]}, "format_version", id="version in a list"),
        pytest.param({"format_version": 0}, "format_version", id="version zero"),
        pytest.param({"rank": 8.0}, "rank", id="rank as a float"),
        pytest.param({"alpha": True}, "alpha", id="alpha true"),
        pytest.param(
            {"generation": {"max_new_tokens": 8.0}}, "max_new_tokens", id="tokens as a float"
        ),
        pytest.param({"generation": {"top_k": True}}, "top_k", id="top_k true"),
        pytest.param({"generation": {"temperature": True}}, "temperature", id="temperature true"),
        pytest.param({"scores": {"a": True}}, "scores", id="a score true"),
        pytest.param({"surprise": 1}, "surprise", id="unknown field"),
        pytest.param({"kind": "dense"}, "kind", id="unknown kind"),
        pytest.param({"rank": 0}, "rank", id="rank zero"),
        pytest.param({"rank": True}, "rank", id="rank true"),
        pytest.param({"rank": "8"}, "rank", id="rank as text"),
        pytest.param({"targets": []}, "targets", id="no targets"),
        pytest.param({"targets": ["a.q", "a.q"]}, "targets", id="a target twice"),
        pytest.param({"targets": ["../q"]}, "targets", id="path as target"),
        pytest.param({"lineage": ["ab"]}, "lineage", id="short digest"),
        pytest.param({"lineage": ["a" * 64, "a" * 64]}, "lineage", id="an ancestor twice"),
        pytest.param({"mask_digest": "A" * 64}, "mask_digest", id="upper-case digest"),
        pytest.param({"mask_digest": "a" * 64 + "\n"}, "mask_digest", id="digest and newline"),
        pytest.param({"density": {"other": 0.5}}, "density", id="density of another module"),
        pytest.param(
            {"density": dict.fromkeys(MANIFEST.targets, 1.5)}, "density", id="density above 1"
        ),
        pytest.param({"thresholds": {"global": -1.0}}, "thresholds", id="negative threshold"),
        pytest.param({"generation": {"beams": 4}}, "generation", id="unknown parameter"),
        pytest.param({"generation": {"max_new_tokens": 0}}, "generation", id="no new tokens"),
        pytest.param({"generation": {"top_p": 1.5}}, "generation", id="top_p above 1"),
        pytest.param(
            {"canaries": [{"prompt": "a", "expected": "b"}] * 33}, "canaries", id="33 canaries"
        ),
        pytest.param(
            {"kind": "lowrank", "mask_digest": None, "rank": None},
            "rank",
            id="lowrank without rank",
        ),
        pytest.param({"kind": "lowrank", "rank": 4}, "mask_digest", id="lowrank with a mask"),
        pytest.param({"backbone": {"fingerprint": "x", "name": "y"}}, "fingerprint", id="ref"),
        pytest.param({"backbone": None}, "backbone", id="no backbone"),
        pytest.param({"density": {}}, "density required with kind masked", id="no density"),
        pytest.param({"mask_digest": None}, "mask_digest required", id="no mask digest"),
        pytest.param(
            {"kind": "lowrank", "mask_digest": None, "rank": 1, "density": {}},
            "density required with kind lowrank",
            id="no density of a low-rank one",
        ),
    ],
)
def test_faults_are_refused_by_name(change: dict[str, object], named: str) -> None:
    with pytest.raises(FormatError, match=named) as caught:
        parse_manifest(json.dumps({**DOCUMENT, **change}))
    assert caught.value.code == "manifest"


@pytest.mark.parametrize(
    ("text", "code"),
    [
        pytest.param("", "manifest", id="empty"),
        pytest.param("[]", "manifest", id="an array"),
        pytest.param("null", "manifest", id="null"),
        pytest.param("{", "manifest", id="unfinished"),
        pytest.param(json.dumps(DOCUMENT) + "x", "manifest", id="trailing text"),
        pytest.param("[" * 100_000, "manifest", id="deep nesting"),
        pytest.param('{"task":"a","task":"b"}', "duplicate_key", id="key twice"),
        pytest.param('{"a":{"b":1,"b":1}}', "duplicate_key", id="inner key twice"),
        pytest.param('{"scores":{"a":NaN}}', "manifest", id="NaN"),
        pytest.param('{"scores":{"a":1e999}}', "manifest", id="infinite number"),
        pytest.param(
            json.dumps({**DOCUMENT, "training": {"x": 0.125}}).replace("0.125", "-1e999"),
            "manifest",
            id="infinite number in free JSON",
        ),
        pytest.param(
            json.dumps(DOCUMENT).replace('"format_version": 2', '"format_version": 2e0'),
            "manifest",
            id="version with an exponent",
        ),
        pytest.param('{"rank":' + "9" * 5000 + "}", "manifest", id="endless number"),
        pytest.param('{"task":"\\ud800"}', "manifest", id="half a character"),
        pytest.param(" " * (MAX_MANIFEST_BYTES + 1), "manifest", id="too large"),
    ],
)
def test_other_documents_are_refused(text: str, code: str) -> None:
    with pytest.raises(FormatError) as caught:
        parse_manifest(text)
    assert caught.value.code == code


def test_numbers_that_json_lacks_cannot_be_written() -> None:
    manifest = MANIFEST.model_copy(update={"training": {"loss": float("nan")}})
    with pytest.raises(FormatError) as caught:
        canonical_json(manifest)
    assert caught.value.code == "manifest"


def test_size_limit_is_in_bytes() -> None:
    manifest = MANIFEST.model_copy(update={"training": {"note": "é" * (MAX_MANIFEST_BYTES // 2)}})
    with pytest.raises(FormatError, match="at most") as caught:
        canonical_json(manifest)
    assert caught.value.code == "manifest"


def test_manifest_cannot_be_changed() -> None:
    with pytest.raises(ValueError, match="frozen"):
        Manifest.model_validate(DOCUMENT).task = "other"  # type: ignore[misc]


@pytest.mark.parametrize("depth", [64, 65])
def test_nesting_has_an_end(depth: int) -> None:
    inner: object = 1
    for _ in range(depth - 2):  # the manifest and `training` are the first two
        inner = [inner]
    text = json.dumps({**DOCUMENT, "training": {"x": inner}})
    if depth <= MAX_DEPTH:
        assert parse_manifest(text).model_dump(mode="json")["training"] == {"x": inner}
    else:
        with pytest.raises(FormatError, match="nested deeper than 64"):
            parse_manifest(text)


def test_a_refusal_shows_little_of_the_file_and_nothing_that_acts() -> None:
    key = "a\x1b[2J\u202e\n" * 3000
    with pytest.raises(FormatError, match="a newer version may") as caught:
        parse_manifest(json.dumps({**DOCUMENT, key: 1}))
    message = str(caught.value)
    assert len(message) < 1000
    assert message.isprintable()
