"""What an adapter may multiply: what publishing refuses, what reading does, and what neither."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crafted import Parts
from factories import random_adapter, toy_backbone, write_random_adapter
from jumplora_adapters import bounds
from jumplora_adapters.errors import FormatError
from jumplora_adapters.format import read_adapter, write_adapter
from jumplora_adapters.manifest import MAX_READ_FRAME_BYTES, Manifest, PromptSpec, parse_manifest
from jumplora_adapters.prompt import measure, render, rendered_bytes
from jumplora_adapters.sampling_bounds import RANGES, find_out_of_bounds
from jumplora_adapters.store import Store

BACKBONE = toy_backbone()
MANIFEST, DELTAS = random_adapter(BACKBONE)
DOCUMENT: dict[str, Any] = MANIFEST.model_dump(mode="json")

# A change of a manifest, and what the refusal has to name. All of these can be read.
READ_ONLY: dict[str, tuple[dict[str, Any], str]] = {
    "text 17 times": ({"prompt": {"template": "{text}" * 17}}, "17 times; at most 16"),
    "text 10,000 times": ({"prompt": {"template": "{text}" * 10_000}}, "10000 times"),
    "a frame over 64 KiB": (
        {"prompt": {"template": "{options}{text}", "options": ["é" * 1000] * 40}},
        "at most 65536",
    ),
    "instruction in rows": (
        {"prompt": {"template": "{instruction}" * 200, "instruction": "i" * 1000}},
        "prompt: the template makes 200000 bytes",
    ),
    "five stops": ({"generation": {"stop": list("abcde")}}, "generation.stop: 5 texts"),
    "a long stop": ({"generation": {"stop": ["s" * 65]}}, "generation.stop: a text of 65"),
    "an empty stop": ({"generation": {"stop": [""]}}, "generation.stop: an empty text"),
    "cold": ({"generation": {"temperature": 1e-300}}, "generation.temperature: 1e-300 given"),
    "penalty": ({"generation": {"repetition_penalty": 99.0}}, "repetition_penalty: 99 given"),
    "rank": ({"rank": 65_536}, "rank: 65536 given; at most 64"),
    "257 scores": ({"scores": {f"s{n}": 1.0 for n in range(257)}}, "scores: 257 given"),
    "a long score": ({"scores": {"s" * 129: 1.0}}, "scores: a text of 129"),
    "a long method": ({"method": "m" * 129}, "method: a text of 129"),
    "a long date": ({"created": "1" * 129}, "created: a text of 129"),
    "a long group": ({"thresholds": {"t" * 129: 0.1}}, "thresholds: a text of 129"),
}
# What cannot be read either, since it would cost the process too much.
REFUSED: dict[str, dict[str, Any]] = {
    "options 7,000 times": {
        "prompt": {"template": "{options}" * 7000, "options": ["o" * 1000] * 180}
    },
    "instruction 5,000 times": {
        "prompt": {"template": "{instruction}" * 5000, "instruction": "i" * 65_536}
    },
    "nested": {"training": json.loads('{"a":' * 70 + "1" + "}" * 70)},
    "a whole number of 400 digits": {"training": {"seed": 10**400}},
}


@pytest.mark.parametrize("name", READ_ONLY)
def test_over_a_bound_is_read_and_neither_written_nor_published(name: str, tmp_path: Path) -> None:
    change, named = READ_ONLY[name]
    manifest = parse_manifest(json.dumps({**DOCUMENT, **change}))
    with pytest.raises(FormatError) as caught:
        write_adapter(tmp_path / "file", manifest, DELTAS)
    assert caught.value.code == "manifest"
    assert named in str(caught.value)
    assert list(tmp_path.iterdir()) == []

    parts = Parts.of(write_random_adapter(tmp_path, BACKBONE).read_bytes())
    parts.manifest = {**parts.manifest, **change}
    file = tmp_path / "crafted"
    file.write_bytes(parts.join())
    assert read_adapter(file, BACKBONE).manifest.task == "task"
    store = Store(tmp_path / "store")
    with pytest.raises(FormatError) as caught:
        store.publish(file, BACKBONE)
    assert caught.value.code == "manifest"
    assert named in str(caught.value)
    assert [path.name for path in store.root.iterdir()] in ([], [".lock"])


@pytest.mark.parametrize("name", REFUSED)
def test_what_would_cost_the_process_is_not_read(name: str) -> None:
    with pytest.raises(FormatError) as caught:
        parse_manifest(json.dumps({**DOCUMENT, **REFUSED[name]}))
    assert caught.value.code == "manifest"
    assert len(str(caught.value)) < 2000


def test_a_template_that_names_each_field_once_is_always_read() -> None:
    spec = {
        "template": "t" * 60_000 + "{instruction}{options}{text}",
        "instruction": "i" * 60_000,
        "options": ["o" * 1000] * 120,
    }
    prompt = parse_manifest(json.dumps({**DOCUMENT, "prompt": spec})).prompt
    assert prompt is not None
    assert bounds.MAX_FRAME_BYTES < measure(prompt).frame_bytes <= MAX_READ_FRAME_BYTES


def test_on_a_bound_is_published(tmp_path: Path) -> None:
    template = "{text}" * 16 + "{instruction}" + "f" * 60_000
    frame = PromptSpec(template=template, instruction="i" * (bounds.MAX_FRAME_BYTES - 60_000))
    assert measure(frame).frame_bytes == bounds.MAX_FRAME_BYTES
    manifest = MANIFEST.model_copy(
        update={
            "prompt": frame,
            "generation": {"stop": ("s" * 64,) * 4, "temperature": 0.01, "max_new_tokens": 8192},
            "rank": 64,
            "scores": {f"{n:0128}": 1e308 for n in range(256)},
            "method": "m" * 128,
        }
    )
    write_adapter(tmp_path / "file", manifest, DELTAS)
    assert Store(tmp_path / "store").publish(tmp_path / "file", BACKBONE).outcome == "created"


def test_several_faults_are_counted() -> None:
    manifest = MANIFEST.model_copy(
        update={
            "method": "m" * 200,
            "created": "c" * 200,
            "rank": 70,
            "generation": {"temperature": 0.001, "stop": ("",)},
        }
    )
    with pytest.raises(FormatError, match=r"and 2 more$"):
        bounds.check_publishable(manifest, BACKBONE.targets)


@given(
    fields=st.lists(
        st.sampled_from(["{text}", "{options}", "{instruction}", "{", "}", "é", "{tex"]),
        max_size=30,
    ),
    instruction=st.text(max_size=5),
    options=st.lists(st.text(max_size=5), max_size=4),
    text=st.text(max_size=8),
)
def test_a_prompt_is_measured_without_being_made(
    fields: list[str], instruction: str, options: list[str], text: str
) -> None:
    spec = PromptSpec(template="".join(fields), instruction=instruction, options=tuple(options))
    assert rendered_bytes(spec, text) == len(render(spec, text).encode())


def test_measuring_makes_nothing() -> None:
    spec = PromptSpec.model_construct(
        template="{options}" * 7000, instruction="", options=("o" * 1000,) * 180
    )
    assert rendered_bytes(spec, "") == 7000 * (180 * 1000 + 179 * 3)  # 1.26 GB, were it made


@given(name=st.sampled_from(sorted(RANGES)), value=st.floats(-1e9, 1e9))
def test_a_range_allows_what_it_says(name: str, value: float) -> None:
    least, most = RANGES[name].least, RANGES[name].most
    inside = (least < value if RANGES[name].is_open else least <= value) and value <= most
    assert (find_out_of_bounds({name: value}) == ()) is inside


def test_the_demo_adapters_may_be_published() -> None:
    store = Path(__file__).parents[2] / "adapters" / "demo" / "store"
    for file in store.glob("*/*.safetensors"):
        parts = Parts.of(file.read_bytes())
        manifest = Manifest.model_validate_json(json.dumps(parts.manifest), strict=True)
        bounds.check_publishable(manifest, dict.fromkeys(manifest.targets, (64, 64)))
