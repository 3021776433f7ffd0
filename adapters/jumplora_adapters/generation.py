"""What a backbone's folder says about generation: read once, as transformers 5 reads it.

generation_config.json counts alone where there is one, and config.json where there is none. Neither
completes the other, and T5's usual tokens stand in for nothing.
"""

from __future__ import annotations

import reprlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from jumplora_adapters.checkpoint import read_json_object
from jumplora_adapters.errors import BackboneError

FILE = "generation_config.json"
MODEL_FILE = "config.json"

# Every field of transformers' GenerationConfig is in one of four tables, which a test holds against
# the installed one. transformers keeps fields that it does not know and does nothing with them.

OBEYED = ("decoder_start_token_id", "bos_token_id", "eos_token_id")

# How long an answer gets, whether it is sampled, and how beams that a request asks for are scored:
# a request says so, or its adapter's manifest.
LEFT_TO_REQUESTS = (
    "max_length", "max_new_tokens", "max_time", "do_sample", "temperature", "top_k", "top_p",
    "early_stopping", "length_penalty",
)  # fmt: skip

# Fields that would change an answer, with the values that change nothing; null never does.
REFUSED: Mapping[str, tuple[object, ...]] = {
    # Penalties and bans.
    "repetition_penalty": (1.0,),
    "encoder_repetition_penalty": (1.0,),
    "no_repeat_ngram_size": (0,),
    "encoder_no_repeat_ngram_size": (0,),
    "exponential_decay_length_penalty": (),
    "bad_words_ids": ([],),
    "suppress_tokens": ([],),
    "begin_suppress_tokens": ([],),
    "sequence_bias": ([], {}),
    "min_length": (0, 1),  # the start token is the first
    "min_new_tokens": (0,),
    "stop_strings": ([],),
    # Tokens that are forced. The last one is config.json's old name for the first.
    "forced_bos_token_id": (),
    "forced_eos_token_id": (),
    "force_bos_token_to_be_generated": (False,),
    # Other searches than the highest token or a draw.
    "num_beams": (1,),
    "constraints": ([],),
    "force_words_ids": ([],),
    "penalty_alpha": (0,),
    "dola_layers": (),
    "num_return_sequences": (1,),
    # Sampling that no request can ask for.
    "min_p": (0,),
    "top_h": (),
    "typical_p": (1.0,),
    "epsilon_cutoff": (0,),
    "eta_cutoff": (0,),
    # Other logits.
    "guidance_scale": (1,),
    "watermarking_config": (),
    # Ends an answer where the model is not sure.
    "is_assistant": (False,),
    # transformers itself runs no T5 with these.
    "token_healing": (False,),
    "use_mtp": (False,),
    "assistant_early_exit": (),
}

WITHOUT_EFFECT: Mapping[str, str] = {
    "pad_token_id": "only fills up what is over in a batch",
    "num_beam_groups": "of groups of beams only, which no request can ask for",
    "diversity_penalty": "of such groups only",
    "low_memory": "of searches that are refused",
    "renormalize_logits": "keeps the order and the distribution",
    "remove_invalid_values": "of logits that are not finite, whose sequence fails here",
    "prompt_lookup_num_tokens": "guesses that are checked: the same tokens",
    "max_matching_ngram_size": "of such guesses",
    "num_assistant_tokens": "of a second model, which a folder cannot bring",
    "num_assistant_tokens_schedule": "of a second model",
    "assistant_confidence_threshold": "of a second model",
    "assistant_lookbehind": "of a second model",
    "target_lookbehind": "of a second model",
    "assistant_ensemble_weight": "of a second model",
    "speculation_type": "of a second model",
    "use_cache": "where keys and values are kept: the same tokens",
    "cache_implementation": "the same, and T5 runs with no cache that rounds",
    "cache_config": "the same",
    "max_cache_len": "the same",
    "prefill_chunk_size": "how it is computed",
    "compile_config": "how it is computed",
    "disable_compile": "how it is computed",
    "continuous_batching_config": "how it is computed",
    "output_attentions": "what else is returned",
    "output_hidden_states": "what else is returned",
    "output_scores": "what else is returned",
    "output_logits": "what else is returned",
    "return_dict_in_generate": "what else is returned",
}

# What a request may ask for itself.
_REQUESTED = {
    "repetition_penalty": "repetition_penalty",
    "min_length": "min_new_tokens",
    "min_new_tokens": "min_new_tokens",
    "stop_strings": "stop",
    "no_repeat_ngram_size": "no_repeat_ngram_size",
    "num_beams": "num_beams",
    "num_return_sequences": "num_return_sequences",
}


@dataclass(frozen=True, slots=True)
class Generation:
    """Where a decoder starts and where an answer ends.

    Without an end token every answer has as many tokens as it may have. `left_to_requests` are the
    fields that the folder sets and that count for nothing, as they would be logged.
    """

    start_token_id: int
    end_token_ids: tuple[int, ...]
    left_to_requests: tuple[str, ...] = ()


def read_generation(folder: Path, vocabulary: int) -> Generation:
    """What transformers' `generate` would take from the folder, of a model of so many tokens.

    Raises:
        BackboneError: a file cannot be read, tokens are missing or outside of the vocabulary, or a
            field would change answers in a way that is not supported.
    """
    path = folder / FILE
    if not path.is_file():
        path = folder / MODEL_FILE
    fields = {key: value for key, value in read_json_object(path).items() if value is not None}
    for name, harmless in REFUSED.items():
        if name in fields and fields[name] not in harmless:
            raise BackboneError(_refusal(path, name, fields[name], harmless))
    noted = (name for name in LEFT_TO_REQUESTS if name in fields)
    return Generation(
        start_token_id=_start(path, fields, vocabulary),
        end_token_ids=_ends(path, fields, vocabulary),
        left_to_requests=tuple(f"{name} {fields[name]!r}" for name in noted),
    )


def _refusal(path: Path, name: str, value: object, harmless: tuple[object, ...]) -> str:
    allowed = " or ".join([*map(repr, harmless), "null"])
    own = f"; a request can ask for {_REQUESTED[name]}" if name in _REQUESTED else ""
    return (
        f"{path}: {name} is {reprlib.repr(value)}, which is not supported: answers would differ "
        f"from transformers'. {allowed} is allowed: remove the field if it is not wanted{own}"
    )


def _start(path: Path, fields: Mapping[str, object], vocabulary: int) -> int:
    name = "decoder_start_token_id" if "decoder_start_token_id" in fields else "bos_token_id"
    if name not in fields:
        raise BackboneError(
            f"{path} has no decoder_start_token_id, which the first token is computed from (nor "
            "bos_token_id, which stands in for it): add it, T5's is 0"
        )
    value = fields[name]
    if isinstance(value, list) and len(value) == 1:  # transformers takes one a row of the batch
        (value,) = value
    return _token(path, name, value, vocabulary)


def _ends(path: Path, fields: Mapping[str, object], vocabulary: int) -> tuple[int, ...]:
    value = fields.get("eos_token_id", [])
    values = value if isinstance(value, list) else [value]
    tokens = (_token(path, "eos_token_id", each, vocabulary) for each in values)
    return tuple(dict.fromkeys(tokens))


def _token(path: Path, name: str, value: object, vocabulary: int) -> int:
    # type(): JSON's true is an int to Python
    if type(value) is not int or not 0 <= value < vocabulary:
        several = "one or several" if name == "eos_token_id" else "one"
        raise BackboneError(
            f"{path}: {name} has {reprlib.repr(value)}; {several} of the tokens 0 to "
            f"{vocabulary - 1} is allowed"
        )
    return value
