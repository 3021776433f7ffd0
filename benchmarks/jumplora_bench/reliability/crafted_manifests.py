"""Uploads whose manifest was spoilt: types, sizes, names, and what grows when it is used."""

from __future__ import annotations

import json
import random
from typing import Any

from jumplora_bench.reliability.crafted_bytes import Change
from jumplora_bench.reliability.parts import Parts

_ODD: list[Any] = [
    None, True, -1, 0, 1.5, 10**30, "", "x", [], {}, [[]], {"a": 1}, "\x00", "\x1b[31m",
    "x" * 70_000, [1] * 5000,
]  # fmt: skip


def odd_field(content: bytes, rng: random.Random) -> bytes:
    """One field is of another type or size."""
    manifest = Parts.of(content).manifest
    return _changed(content, **{rng.choice([*manifest]): rng.choice(_ODD)})


def missing_field(content: bytes, rng: random.Random) -> bytes:
    """One field is not there."""
    parts = Parts.of(content)
    manifest = parts.manifest
    del manifest[rng.choice([*manifest])]
    parts.manifest = manifest
    return parts.join()


def unknown_field(content: bytes, rng: random.Random) -> bytes:
    """A field that no version of the format has, of any length."""
    return _changed(content, **{rng.choice(["extra", "x" * 50_000, "\n", "\u202e"]): 1})


def wrong_task(content: bytes, rng: random.Random) -> bytes:
    """The manifest is of another task."""
    names = ["other", "../other", "/etc/passwd", "a/b", "a" * 65, "", ".", "-x", "a\n", "base", "ä"]
    return _changed(content, task=rng.choice(names))


def foreign_backbone(content: bytes, rng: random.Random) -> bytes:
    """Trained for another backbone."""
    fingerprint = rng.choice(["cd" * 32, "", "x" * 64, "CD" * 32])
    return _changed(
        content, backbone={"fingerprint": fingerprint, "name": "x" * rng.choice([1, 1000])}
    )


def odd_lineage(content: bytes, rng: random.Random) -> bytes:
    """Ancestors that are not there, too many, or not digests."""
    known = f"{rng.getrandbits(256):064x}"
    return _changed(
        content, lineage=rng.choice([[known], [known] * 2, [f"{n:064x}" for n in range(65)], ["x"]])
    )


def odd_version(content: bytes, rng: random.Random) -> bytes:
    """A format version that is neither 1 nor 2."""
    return _changed(
        content, format_version=rng.choice([0, 3, -1, True, 1.0, "1", 2.0, 10**30, None])
    )


def odd_profile(content: bytes, rng: random.Random) -> bytes:
    """A profile whose tensors are not there, as small as can be or as large as may be said."""
    profile: dict[str, Any] = {
        "features": "f", "width": 1, "texts": 1, "tokens": 1, "dev_texts": 0, "dev_length": 0,
        "embedding": "00" * 32, "group": None,
    }  # fmt: skip
    odd: list[dict[str, Any]] = [
        {}, {"width": 8192, "tokens": 1 << 24}, {"width": 2**63}, {"width": -1}, {"tokens": True},
        {"group": "../x"}, {"features": "\n"}, {"extra": 1}, {"embedding": "x"},
    ]  # fmt: skip
    return _changed(content, profile=profile | rng.choice(odd))


def odd_generation(content: bytes, rng: random.Random) -> bytes:
    """Defaults for requests at and over their bounds."""
    return _changed(
        content,
        generation=rng.choice(
            [
                {"max_new_tokens": 4096}, {"min_new_tokens": 4096}, {"temperature": 1e-300},
                {"temperature": 100}, {"top_k": 2**70}, {"top_k": 2**31}, {"top_p": 1e-300},
                {"repetition_penalty": 1e-300}, {"repetition_penalty": 100}, {"top_k": True},
                {"stop": ["x" * 1024] * 16}, {"stop": [""]}, {"stop": ["a"] * 17}, {"beams": 4},
                {"stop": ["aaaaaaaa" * 128] * 16, "max_new_tokens": 4096},
            ]
        ),
    )  # fmt: skip


def bomb(content: bytes, rng: random.Random) -> bytes:
    """Small in the file, large when a text is put into it."""
    option = "y" * 1024
    prompt = rng.choice(
        [
            {"template": "{options}" * 7000, "options": [option] * 1024},
            {"template": "{instruction}" * 5000 + "{text}", "instruction": "x" * 65_536},
            {"template": "{text}" * 10_000},
            {"template": "{options}{text}", "options": [option] * 1024},
            {"template": "", "options": []},
            {"template": "{" * 65_536},
            {"template": "{text}{options}" * 4000, "options": [option] * 100, "instruction": "x"},
        ]
    )
    return _changed(content, prompt=prompt)


def many_canaries(content: bytes, rng: random.Random) -> bytes:
    """Canaries that are many, long, or empty."""
    long = rng.choice([10, 5_000, 65_536])
    canary = {"prompt": "p " * (long // 2), "expected": "e" * long}
    return _changed(content, canaries=[canary] * rng.choice([1, 32, 33]))


def large_record(content: bytes, rng: random.Random) -> bytes:
    """Fields for the record alone that are large."""
    records: list[dict[str, Any]] = [
        {"scores": {f"s{n}": 0.5 for n in range(20_000)}},
        {"training": {"log": "x" * 500_000}},
        {"training": {f"k{n}": [n] for n in range(20_000)}},
        {"thresholds": {"t" * 1000 + str(n): 0.1 for n in range(500)}},
        {"method": "m" * 1024},
        {"created": "c" * 1024},
        {"scores": {"test_exact_match": 1e308}},
        {"training": {"continual": {"position": 10**400, "run": "x" * 1000}}},
    ]
    return _changed(content, **rng.choice(records))


def deep_record(content: bytes, rng: random.Random) -> bytes:
    """A deeply nested record."""
    parts = Parts.of(content)
    depth = rng.choice([50, 500, 100_000])
    text = json.dumps(parts.manifest | {"training": "HERE"})
    nested = '{"a":' * depth + "1" + "}" * depth
    parts.header["__metadata__"]["jumplora"] = text.replace('"HERE"', nested)
    return parts.join()


def twice_in_manifest(content: bytes, rng: random.Random) -> bytes:
    """One key of the manifest stands there twice."""
    parts = Parts.of(content)
    name = rng.choice([*parts.manifest])
    text = json.dumps(parts.manifest)
    again = json.dumps({name: parts.manifest[name]})[1:-1]
    parts.header["__metadata__"]["jumplora"] = f"{text[:-1]}, {again}}}"
    return parts.join()


def garbage_manifest(content: bytes, rng: random.Random) -> bytes:
    """No JSON object."""
    parts = Parts.of(content)
    texts = ["", "null", "[]", "{", '"x"', "\x00", "\ud800", '{"a": "\\ud800"}', "1" * 10_000]
    parts.header["__metadata__"]["jumplora"] = rng.choice(texts)
    return parts.join()


def odd_rank(content: bytes, rng: random.Random) -> bytes:
    """A rank, an alpha or a kind that does not go with the tensors."""
    records: list[dict[str, Any]] = [
        {"rank": 65_535},
        {"rank": 2**40},
        {"rank": 0},
        {"alpha": 1e308},
        {"alpha": "1"},
        {"kind": "lowrank"},
        {"kind": "combined", "mask_digest": None},
        {"kind": "x"},
        {"density": {}},
        {"targets": []},
        {"targets": ["x"] * 2049},
        {"mask_digest": None},
        {"mask_digest": "00" * 32},
    ]
    return _changed(content, **rng.choice(records))  # fmt: skip


def _changed(content: bytes, **fields: Any) -> bytes:
    parts = Parts.of(content)
    parts.manifest = {**parts.manifest, **fields}
    return parts.join()


MANIFESTS: dict[str, Change] = {
    change.__name__.replace("_", " "): change
    for change in (
        odd_field, missing_field, unknown_field, wrong_task, foreign_backbone, odd_lineage,
        odd_version, odd_generation, bomb, many_canaries, large_record, deep_record,
        twice_in_manifest, garbage_manifest, odd_rank, odd_profile,
    )
}  # fmt: skip
