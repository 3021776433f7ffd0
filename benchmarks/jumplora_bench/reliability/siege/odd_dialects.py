"""Odd bodies for each dialect's routes: sound ones of all fields, and some values changed."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from jumplora_bench.reliability.siege.judge import form_at
from jumplora_bench.reliability.siege.shot import TASKS, Kind, Shot, post

# As JSON text: not all of it is JSON.
RAW = (
    "null", "true", "false", "0", "-1", "1", "0.5", "-0.0", "1e400", "1e-300", "9" * 400, "NaN",
    "-Infinity", "1" + "0" * 18, '""', '" "', '"a"', '"\\ud800"', '"\\u0000\\u202e"', '"user"',
    '"system"', f'"{"a" * 5000}"', "[]", "{}", "[null]", '["a"]', '[["a"]]', "[1, 2]", '{"a": 1}',
    '{"a": 1, "a": 2}', "[" * 200 + "]" * 200, '{"a":' * 200 + "1" + "}" * 200,
    f"[{','.join('0' * 3000)}]", f"[{','.join(['null'] * 9000)}]", '["a", "a"]', "01", "'a'",
)  # fmt: skip
_KEYS = ("stream", "n", "model", "text", "choices", "tools", "\u202e", "__proto__", "a" * 5000, "")
_MARK = "@odd-{}@"


def _some(rng: random.Random, fields: Mapping[str, Any]) -> dict[str, Any]:
    """About half of the fields."""
    return {name: value for name, value in fields.items() if rng.random() < 0.5}


def _generation(rng: random.Random) -> dict[str, Any]:
    """Fields of both of OpenAI's routes that generate."""
    more = {
        "n": 2, "temperature": 0.5, "top_p": 0.9, "seed": 3, "stop": ["x"], "stream": True,
        "stream_options": {"include_usage": True}, "presence_penalty": 0, "logit_bias": {},
        "user": "someone", "structured_outputs": {"choice": ["World", "Sports"]},
    }  # fmt: skip
    return {"model": rng.choice(TASKS), "max_tokens": 4, **_some(rng, more)}


def completion(rng: random.Random) -> dict[str, Any]:
    """A body for /v1/completions."""
    more = {"logprobs": 1, "echo": False, "best_of": 2, "suffix": None}
    prompt = rng.choice(("Oil prices ease", ["Oil prices ease", "a"]))
    return {**_generation(rng), "prompt": prompt, **_some(rng, more)}


def chat(rng: random.Random) -> dict[str, Any]:
    """A body for /v1/chat/completions."""
    content: Any = rng.choice(("Oil prices ease", [{"type": "text", "text": "Oil prices ease"}]))
    more = {"logprobs": True, "top_logprobs": 1, "response_format": {"type": "text"}}
    messages = [{"role": "user", "content": content}]
    return {**_generation(rng), "messages": messages, **_some(rng, more)}


def tgi(rng: random.Random) -> dict[str, Any]:
    """A body for `/`, with TGI's and LoRAX's parameters."""
    more = {
        "do_sample": True, "temperature": 0.5, "top_k": 5, "top_p": 0.9, "typical_p": None,
        "best_of": 2, "seed": 3, "stop": ["x"], "truncate": 50, "details": True,
        "decoder_input_details": False, "return_full_text": False, "watermark": False,
        "grammar": None, "top_n_tokens": 0, "repetition_penalty": 1.0, "frequency_penalty": 0.0,
    }  # fmt: skip
    named = {"adapter_id": rng.choice(TASKS), "max_new_tokens": 4}
    body = {"inputs": "Oil prices ease", "parameters": {**named, **_some(rng, more)}}
    return {**body, **_some(rng, {"stream": True})}


def choices(rng: random.Random) -> dict[str, Any]:
    """A body for /generate that ranks options."""
    more = {"min_probability": 0.5, "min_mass": 0.1}
    options = rng.choice((True, ["World", "Sports", "Business"]))
    parameters = {"choices": options, **_some(rng, more)}
    return {"task_id": rng.choice(TASKS), "text": "Oil prices ease", "parameters": parameters}


def inference(rng: random.Random) -> dict[str, Any]:
    """A body for KServe's infer."""
    tensor = {
        "name": rng.choice(("text", "prompt")), "shape": [1], "datatype": "BYTES",
        "data": ["Oil prices ease"], **_some(rng, {"parameters": {"content_type": "str"}}),
    }  # fmt: skip
    more = {"id": "7", "outputs": [{"name": "text"}], "parameters": {"max_new_tokens": 4}}
    return {"inputs": [tensor], **_some(rng, more)}


def tokenize(rng: random.Random) -> dict[str, Any]:
    """A body for vLLM's tokenize."""
    more = {"add_special_tokens": True, "return_token_strs": True}
    return {"model": rng.choice(TASKS), "prompt": "Oil prices ease", **_some(rng, more)}


def detokenize(rng: random.Random) -> dict[str, Any]:
    """A body for vLLM's detokenize."""
    return {"model": rng.choice(TASKS), "tokens": [3, 4, 1]}


def changed(rng: random.Random, body: dict[str, Any]) -> bytes:
    """The body as JSON, or nearly, after one to three changes anywhere in it."""
    odd: list[str] = []
    for _ in range(rng.choice((1, 1, 2, 3))):
        place = rng.choice([*_places(body)])
        key = rng.choice([*place]) if isinstance(place, dict) else rng.randrange(len(place))
        match rng.randrange(8):
            case 0:
                del place[key]
            case 1 if isinstance(place, dict):
                place[rng.choice(_KEYS)] = rng.choice((None, 1, "a"))
            case 2:
                place[key] = [place[key]]
            case _:
                place[key] = _MARK.format(len(odd))
                odd.append(rng.choice(RAW))
        if not body:
            break
    text = json.dumps(body)
    for number, raw in enumerate(odd):
        text = text.replace(f'"{_MARK.format(number)}"', raw)
    if rng.random() < 0.1:  # a key twice
        text = f"{text[:-1]}, {text[1:]}" if len(text) > 2 else text
    return text.encode()


def _places(value: Any) -> list[Any]:
    """All lists and objects that have something in them."""
    if not isinstance(value, dict | list) or not value:
        return []
    inner = value.values() if isinstance(value, dict) else value
    return [value, *(place for each in inner for place in _places(each))]


BODIES_OF: Mapping[str, Callable[[random.Random], dict[str, Any]]] = {
    "/": tgi,
    "/generate": choices,
    "/v1/completions": completion,
    "/v1/chat/completions": chat,
    "/v2/models/agnews/infer": inference,
    "/tokenize": tokenize,
    "/detokenize": detokenize,
}


def _odd(path: str, rng: random.Random) -> Shot:
    return Shot(post(changed(rng, BODIES_OF[path](rng)), path), form=form_at(path))


DIALECTS: dict[str, Kind] = {f"odd body of {path}": partial(_odd, path) for path in BODIES_OF}
