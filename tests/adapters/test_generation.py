"""What a folder says about generation, against what transformers makes of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from factories import tiny_t5
from jumplora_adapters.backbone import read_backbone
from jumplora_adapters.errors import BackboneError
from jumplora_adapters.generation import (
    FILE,
    LEFT_TO_REQUESTS,
    MODEL_FILE,
    OBEYED,
    REFUSED,
    WITHOUT_EFFECT,
    Generation,
    read_generation,
)

TOKENS = {"decoder_start_token_id": 0, "eos_token_id": 1, "pad_token_id": 0}
VOCABULARY = 300
PROMPT = [*range(2, 290, 2), 1]  # half of the tokens, for penalties on what the prompt has

# generation_config.json (None: there is none) and changes of config.json, where null removes.
Case = tuple[dict[str, Any] | None, dict[str, Any]]
READ: dict[str, Case] = {
    "as published": (TOKENS, {}),
    "another start": ({**TOKENS, "decoder_start_token_id": 5}, {}),
    "a list of one start": ({**TOKENS, "decoder_start_token_id": [5]}, {}),
    "bos as the start": ({"eos_token_id": 1, "bos_token_id": 7}, {}),
    "start before bos": ({**TOKENS, "bos_token_id": 7}, {}),
    "several ends": ({**TOKENS, "eos_token_id": [4, 1, 4, 9]}, {}),
    "a list of one end": ({**TOKENS, "eos_token_id": [9]}, {}),
    "another end": ({**TOKENS, "eos_token_id": 9}, {}),
    "no end": ({**TOKENS, "eos_token_id": []}, {}),
    "a null end": ({**TOKENS, "eos_token_id": None}, {}),
    "no end beside config.json's": ({"decoder_start_token_id": 0, "pad_token_id": 0}, {}),
    "config.json says otherwise": (TOKENS, {"eos_token_id": [3, 4], "decoder_start_token_id": 8}),
    "config.json alone": (None, {}),
    "config.json's several ends": (None, {"eos_token_id": [4, 1], "decoder_start_token_id": 6}),
    "config.json without an end": (None, {"eos_token_id": None}),
    "config.json's bos": (None, {"decoder_start_token_id": None, "bos_token_id": 9}),
    "config.json's penalty is not read": (TOKENS, {"repetition_penalty": 5.0, "num_beams": 4}),
    "of tasks": (TOKENS, {"task_specific_params": {"summarization": {"num_beams": 4}}}),
    "of tasks, alone": (None, {"task_specific_params": {"summarization": {"min_length": 30}}}),
    "what transformers does nothing with": (
        {**TOKENS, "bos_token_id": 7, "_from_model_config": False, "forced_decoder_ids": [[1, 5]]},
        {},
    ),
}


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_t5(tmp_path_factory.mktemp("plain"), style="v1.0", vocab=VOCABULARY, layers=1)


@pytest.fixture
def folder(tmp_path: Path, plain: Path) -> Path:
    for path in plain.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    return tmp_path


def write(folder: Path, generation: dict[str, Any] | None, changes: dict[str, Any]) -> None:
    config = json.loads((folder / MODEL_FILE).read_text()) | changes
    known = {key: value for key, value in config.items() if value is not None}
    (folder / MODEL_FILE).write_text(json.dumps(known))
    if generation is None:
        (folder / FILE).unlink()
    else:
        (folder / FILE).write_text(json.dumps(generation))


def transformers_model(folder: Path) -> Any:
    from transformers import AutoModelForSeq2SeqLM

    return AutoModelForSeq2SeqLM.from_pretrained(folder).eval()


def generated(model: Any, **options: Any) -> list[int]:
    with torch.inference_mode():
        ids = model.generate(
            torch.tensor([PROMPT]), attention_mask=torch.ones(1, len(PROMPT)), **options
        )
    tokens: list[int] = ids[0].tolist()
    return tokens


@pytest.mark.parametrize("case", READ.values(), ids=READ)
def test_start_and_ends_are_those_of_transformers(folder: Path, case: Case) -> None:
    write(folder, *case)
    read = read_generation(folder, VOCABULARY)
    model = transformers_model(folder)
    assert generated(model, max_new_tokens=2)[0] == read.start_token_id
    ends = model.generation_config.eos_token_id
    ends = [] if ends is None else ends if isinstance(ends, list) else [ends]
    assert read.end_token_ids == tuple(dict.fromkeys(ends))


@pytest.mark.parametrize("generation", [{}, {"eos_token_id": 1}, None], ids=str)
def test_without_a_start_token_neither_generates(
    folder: Path, generation: dict[str, Any] | None
) -> None:
    nothing = {"decoder_start_token_id": None} if generation is None else {"bos_token_id": 7}
    write(folder, generation, nothing)
    with pytest.raises(ValueError, match="`decoder_start_token_id` or `bos_token_id`"):
        generated(transformers_model(folder), max_new_tokens=2)
    with pytest.raises(BackboneError, match="has no decoder_start_token_id") as refused:
        read_generation(folder, VOCABULARY)
    assert (FILE if generation is not None else f"/{MODEL_FILE}") in str(refused.value)


CHANGES: dict[str, Any] = {
    "repetition_penalty": 30.0,
    "encoder_repetition_penalty": 30.0,
    "no_repeat_ngram_size": 1,
    "encoder_no_repeat_ngram_size": 1,
    "exponential_decay_length_penalty": [1, 9.0],
    "bad_words_ids": [[first] for first in range(2, 290)],
    "suppress_tokens": [*range(2, 290)],
    "begin_suppress_tokens": [*range(2, 290)],
    "sequence_bias": [[[295], 1e4]],
    "min_length": 12,
    "min_new_tokens": 12,
    "forced_bos_token_id": 295,
    "forced_eos_token_id": 295,
    "num_beams": 4,
    "watermarking_config": {"greenlist_ratio": 0.1, "bias": 90.0},
}


@pytest.mark.parametrize("name", CHANGES)
def test_what_changes_transformers_answer_is_refused(folder: Path, name: str) -> None:
    ends = [*range(20, 290)] if name in ("min_length", "min_new_tokens") else [1]
    known = {**TOKENS, "eos_token_id": ends, "max_length": 40}
    for generation, changes in (({**known, name: CHANGES[name]}, {}), (None, known)):
        write(folder, known, {})
        plain = generated(transformers_model(folder))
        write(folder, generation, changes | ({} if generation else {name: CHANGES[name]}))
        if name != "watermarking_config" or generation:  # config.json's stays a dict there
            assert generated(transformers_model(folder)) != plain
        with pytest.raises(BackboneError) as refused:
            read_generation(folder, VOCABULARY)
        file = FILE if generation else MODEL_FILE
        assert f"/{file}: {name} is " in str(refused.value)
        assert "remove the field" in str(refused.value)


# transformers raises, or needs what a folder cannot bring, or samples: no answer to compare.
OTHERS: dict[str, Any] = {
    "stop_strings": ["a"],
    "force_bos_token_to_be_generated": True,
    "constraints": [{}],
    "force_words_ids": [[5]],
    "penalty_alpha": 0.6,
    "dola_layers": "low",
    "num_return_sequences": 2,
    "min_p": 0.1,
    "top_h": 0.4,
    "typical_p": 0.5,
    "epsilon_cutoff": 0.001,
    "eta_cutoff": 0.001,
    "guidance_scale": 1.5,
    "is_assistant": True,
    "token_healing": True,
    "use_mtp": True,
    "assistant_early_exit": 1,
}


@pytest.mark.parametrize("name", OTHERS)
def test_what_cannot_be_compared_is_refused(folder: Path, name: str) -> None:
    write(folder, {**TOKENS, name: OTHERS[name]}, {})
    with pytest.raises(BackboneError, match=f"{name} is "):
        read_backbone(folder)


def test_every_refused_field_is_tried() -> None:
    assert {*CHANGES, *OTHERS} == {*REFUSED}


@pytest.mark.parametrize("name", REFUSED)
def test_values_without_effect_are_taken(folder: Path, name: str) -> None:
    write(folder, TOKENS, {})
    plain = generated(transformers_model(folder), max_new_tokens=6)
    for value in (*REFUSED[name], None):
        write(folder, {**TOKENS, name: value}, {})
        assert read_generation(folder, VOCABULARY) == Generation(0, (1,))
        # transformers takes no empty lists there, which say nothing all the same.
        if value or name not in ("bad_words_ids", "sequence_bias", "constraints", "force_words_ids",
                                 "stop_strings", "penalty_alpha"):  # fmt: skip
            assert generated(transformers_model(folder), max_new_tokens=6) == plain


SET: dict[str, Any] = {
    "early_stopping": True,
    "length_penalty": 2.0,
    "num_beam_groups": 2,
    "diversity_penalty": 0.5,
    "low_memory": True,
    "renormalize_logits": True,
    "remove_invalid_values": True,
    "prompt_lookup_num_tokens": 3,
    "max_matching_ngram_size": 2,
    "num_assistant_tokens": 3,
    "num_assistant_tokens_schedule": "heuristic",
    "assistant_confidence_threshold": 0.9,
    "assistant_lookbehind": 3,
    "target_lookbehind": 3,
    "assistant_ensemble_weight": 0.5,
    "use_cache": False,
    "cache_implementation": "static",
    "prefill_chunk_size": 2,
    "disable_compile": True,
    "temperature": 0.1,
    "top_k": 3,
    "top_p": 0.2,
    "max_time": 60.0,
    "pad_token_id": 9,
}


@pytest.mark.parametrize("name", SET)
def test_what_is_taken_changes_no_answer_of_transformers(folder: Path, name: str) -> None:
    write(folder, TOKENS, {})
    plain = generated(transformers_model(folder), max_new_tokens=6)
    write(folder, {**TOKENS, name: SET[name]}, {})
    assert read_generation(folder, VOCABULARY).end_token_ids == (1,)
    assert generated(transformers_model(folder), max_new_tokens=6) == plain


def test_the_tables_hold_every_field_of_transformers_once() -> None:
    from transformers import GenerationConfig

    tables = [*OBEYED, *LEFT_TO_REQUESTS, *REFUSED, *WITHOUT_EFFECT]
    assert len(set(tables)) == len(tables)
    known = {*GenerationConfig().to_dict()} - {"transformers_version", "_from_model_config"}
    assert known - {*tables} == set()


def test_what_requests_say_themselves_is_noted(folder: Path) -> None:
    write(folder, {**TOKENS, "do_sample": True, "top_k": None, "max_length": 84}, {})
    assert read_backbone(folder).generation.left_to_requests == ("max_length 84", "do_sample True")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("decoder_start_token_id", -1),
        ("decoder_start_token_id", VOCABULARY),
        ("decoder_start_token_id", True),
        ("decoder_start_token_id", 5.0),
        ("decoder_start_token_id", "5"),
        ("decoder_start_token_id", [5, 6]),
        ("decoder_start_token_id", []),
        ("eos_token_id", VOCABULARY),
        ("eos_token_id", -1),
        ("eos_token_id", True),
        ("eos_token_id", [1, 1.0]),
        ("eos_token_id", [[1]]),
        ("eos_token_id", {}),
    ],
    ids=str,
)
def test_what_is_no_token_is_refused(folder: Path, name: str, value: Any) -> None:
    write(folder, {**TOKENS, name: value}, {})
    with pytest.raises(BackboneError, match=f"{FILE}: {name} has .* tokens 0 to 299 is allowed"):
        read_generation(folder, VOCABULARY)


@pytest.mark.parametrize("text", ["{", "[]", '"', "\xff"])
def test_a_file_that_cannot_be_read_is_refused(folder: Path, text: str) -> None:
    (folder / FILE).write_text(text, encoding="latin-1")
    with pytest.raises(BackboneError, match=FILE):
        read_backbone(folder)


def test_start_and_ends_are_part_of_the_second_fingerprint(folder: Path) -> None:
    before = read_backbone(folder)
    write(folder, {**TOKENS, "eos_token_id": [3, 1], "decoder_start_token_id": 7}, {})
    changed = read_backbone(folder)
    assert changed.generation == Generation(7, (3, 1))
    assert changed.fingerprint != before.fingerprint
    assert changed.fingerprints[1] == before.fingerprints[1]
    write(folder, {**TOKENS, "eos_token_id": [1, 3, 1], "decoder_start_token_id": 7}, {})
    assert read_backbone(folder).fingerprint == changed.fingerprint


def test_how_beams_are_scored_is_left_to_requests(folder: Path) -> None:
    """A request can ask for beams, and then these fields of the folder would have an effect."""
    write(folder, {**TOKENS, "length_penalty": 2.0, "early_stopping": True}, {})
    assert read_backbone(folder).generation.left_to_requests == (
        "early_stopping True",
        "length_penalty 2.0",
    )
