"""Where a folder's answers start and end, token for token as transformers generates them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from decoding import make_sequence, oracle, run
from factories import tiny_t5
from jumplora_adapters.errors import BackboneError
from jumplora_server.core import Kernels, Sampling
from jumplora_server.engine.engine import Engine
from jumplora_server.engine.native.library import why_unavailable

KERNELS: list[Kernels] = ["torch"] if why_unavailable() else ["native", "torch"]
PROMPTS = ([30, 41, 52, 63, 1], [99, 7, 1], [*range(100, 140), 1])
TOKENS = {"decoder_start_token_id": 0, "eos_token_id": 1, "pad_token_id": 0}

# generation_config.json (None: there is none) and changes of config.json, where null removes. A
# negative end stands for a token that the folder's plain answers have at that place.
Case = tuple[dict[str, Any] | None, dict[str, Any]]
CASES: dict[str, Case] = {
    "another start": ({**TOKENS, "decoder_start_token_id": 5}, {}),
    "bos as the start": ({"eos_token_id": 1, "bos_token_id": 7, "pad_token_id": 0}, {}),
    "another end": ({**TOKENS, "eos_token_id": -3}, {}),
    "a list of one end": ({**TOKENS, "eos_token_id": [-4]}, {}),
    "several ends": ({**TOKENS, "eos_token_id": [1, -5, -2]}, {}),
    "a null end": ({**TOKENS, "eos_token_id": None}, {"eos_token_id": -2}),
    "both": ({**TOKENS, "eos_token_id": [1, -3], "decoder_start_token_id": 8}, {}),
    "config.json alone": (None, {"eos_token_id": [-4, 1], "decoder_start_token_id": 6}),
    "config.json does not count": (TOKENS, {"eos_token_id": -2, "decoder_start_token_id": 6}),
    "nothing ends it": (None, {"eos_token_id": None}),
}


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_t5(tmp_path_factory.mktemp("plain"), seed=3)


def make_folder(plain: Path, folder: Path, case: Case) -> Path:
    """A copy of the plain folder with these fields, and with ends that its answers have."""
    generation, changes = case
    counts: dict[str, Any] = {**TOKENS, **changes} if generation is None else generation
    without_ends = shutil.copytree(plain, folder / "without_ends")
    write(without_ends, {key: value for key, value in counts.items() if key != "eos_token_id"}, {})
    answers = [oracle(without_ends, prompt, []) for prompt in PROMPTS]
    made = shutil.copytree(plain, folder / "made")
    write(made, generation and with_ends(generation, answers), with_ends(changes, answers))
    return made


def with_ends(fields: dict[str, Any], answers: list[list[int]]) -> dict[str, Any]:
    def token(end: int, prompt: int) -> int:
        return end if end > 0 else answers[prompt][-end]

    match fields.get("eos_token_id"):
        case list() as ends:
            return {**fields, "eos_token_id": [token(end, i) for i, end in enumerate(ends)]}
        case int() as end:
            return {**fields, "eos_token_id": token(end, 0)}
    return fields


def write(folder: Path, generation: dict[str, Any] | None, changes: dict[str, Any]) -> None:
    config = json.loads((folder / "config.json").read_text()) | changes
    known = {key: value for key, value in config.items() if value is not None}
    (folder / "config.json").write_text(json.dumps(known))
    if generation is None:
        (folder / "generation_config.json").unlink()
    else:
        (folder / "generation_config.json").write_text(json.dumps(generation))


@pytest.mark.parametrize("kernels", KERNELS)
@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_answers_are_those_of_transformers(
    plain: Path, tmp_path: Path, case: Case, kernels: Kernels
) -> None:
    folder = make_folder(plain, tmp_path, case)
    engine = Engine(folder, max_rows=4, max_source_tokens=64, max_target_tokens=16, kernels=kernels)
    got = run(engine, [make_sequence(prompt, row=i) for i, prompt in enumerate(PROMPTS)])
    assert got == [oracle(folder, prompt, []) for prompt in PROMPTS]
    assert (min(map(len, got)) <= 6) == ("-" in str(case[1] if case[0] is None else case[0]))


@pytest.mark.parametrize("kernels", KERNELS)
@pytest.mark.parametrize(
    "options",
    [
        {"min_new_tokens": 6},
        {"min_new_tokens": 6, "repetition_penalty": 1.5},
        {"min_new_tokens": 4, "repetition_penalty": 0.6},
    ],
    ids=str,
)
def test_parameters_know_the_start_and_all_ends(
    plain: Path, tmp_path: Path, kernels: Kernels, options: dict[str, Any]
) -> None:
    ends = {**TOKENS, "eos_token_id": [-1, -2, -3], "decoder_start_token_id": 8}
    folder = make_folder(plain, tmp_path, (ends, {}))
    engine = Engine(folder, max_rows=4, max_source_tokens=64, max_target_tokens=16, kernels=kernels)
    assert len(engine.limits.end_token_ids) == 3
    asked = Sampling(max_new_tokens=12, **options)
    got = run(
        engine, [make_sequence(prompt, row=i, sampling=asked) for i, prompt in enumerate(PROMPTS)]
    )
    assert got == [oracle(folder, prompt, [], **options) for prompt in PROMPTS]
    free = run(engine, [make_sequence(prompt, row=i) for i, prompt in enumerate(PROMPTS)])
    assert min(map(len, free)) < options["min_new_tokens"] <= min(map(len, got))


def test_a_penalty_of_the_folder_is_refused(plain: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(plain, tmp_path / "copy")
    write(folder, {**TOKENS, "repetition_penalty": 1.2}, {})
    with pytest.raises(BackboneError, match=r"generation_config\.json: repetition_penalty is 1\.2"):
        Engine(folder)
