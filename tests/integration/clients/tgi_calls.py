"""LoRAX's client and TGI's: `lorax-client` and `text-generation`."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import lorax
import text_generation

from integration.clients.calls import Call
from integration.clients.prompts import BUSINESS, SPORTS, VERSIONED, VILLAGE, prompt

PATIENCE = 30
SAMPLED: Mapping[str, Any] = {"do_sample": True, "temperature": 2.0, "seed": 3}
NEARLY_GREEDY: Mapping[str, Any] = {
    "do_sample": True, "temperature": 0.01, "top_k": 5, "top_p": 0.9, "seed": 3, "truncate": 200
}  # fmt: skip


def calls(url: str) -> Mapping[str, Call]:
    """By name."""
    return {**_lorax(url), **_text_generation(url)}


def _lorax(url: str) -> Mapping[str, Call]:
    client: Any = lorax.Client(url, timeout=PATIENCE)

    def generate(text: str = SPORTS, **more: Any) -> Any:
        given = {"adapter_id": "agnews", "max_new_tokens": 8, **more}
        return client.generate(prompt(text), **given)

    return {
        "lorax: generate": lambda: generate().generated_text,
        "lorax: details": lambda: _detailed(generate()),
        "lorax: without details": lambda: generate(details=False).generated_text,
        "lorax: default task": lambda: generate(BUSINESS, adapter_id=None).generated_text,
        "lorax: another task": lambda: generate(VILLAGE, adapter_id="dbpedia").generated_text,
        "lorax: a version": lambda: generate(adapter_id=VERSIONED).generated_text,
        "lorax: streamed": lambda: _streamed(
            client.generate_stream(prompt(SPORTS), adapter_id="agnews", max_new_tokens=8)
        ),
        "lorax: at /generate, streamed": lambda: _streamed(
            lorax.Client(f"{url}/generate", timeout=PATIENCE).generate_stream(
                prompt(SPORTS), adapter_id="agnews"
            )
        ),
        "lorax: task in a header": lambda: (
            lorax.Client(url, headers={"x-task-id": "dbpedia"}, timeout=PATIENCE)
            .generate(prompt(VILLAGE))
            .generated_text
        ),
        "lorax: nearly greedy": lambda: generate(**NEARLY_GREEDY).generated_text,
        "lorax: seed in the details": lambda: generate(**SAMPLED).details.seed,
        "lorax: best_of": lambda: len(
            generate(do_sample=True, temperature=2.0, best_of=3).details.best_of_sequences
        ),
        "lorax: stop": lambda: generate(stop_sequences=["ort"]).generated_text,
        "lorax: async": lambda: asyncio.run(_async_lorax(url)),
        "lorax: refused adapter_id": lambda: generate(adapter_id="agnew"),
        "lorax: refused typical_p": lambda: generate(do_sample=True, typical_p=0.5),
        "lorax: refused ignore_eos_token": lambda: generate(ignore_eos_token=True),
        "lorax: refused return_k_alternatives": lambda: generate(return_k_alternatives=2),
        "lorax: refused response_format": lambda: generate(
            response_format={"type": "json_object", "schema": {"type": "object"}}
        ),
        "lorax: refused merged_adapters": lambda: generate(
            adapter_id=None,
            merged_adapters=lorax.MergedAdapters(
                ids=["agnews", "dbpedia"], weights=[0.5, 0.5], merge_strategy="linear", density=1.0
            ),
        ),
        "lorax: refused adapter_id, streamed": lambda: _streamed(
            client.generate_stream(prompt(SPORTS), adapter_id="agnew")
        ),
    }  # fmt: skip


def _text_generation(url: str) -> Mapping[str, Call]:
    """It cannot name an adapter: a default task, the path or a header does."""
    client: Any = text_generation.Client(url, timeout=PATIENCE)

    def generate(text: str = SPORTS, at: Any = client, **more: Any) -> Any:
        return at.generate(prompt(text), **{"max_new_tokens": 8, **more})

    def at(path: str, **more: Any) -> Any:
        return text_generation.Client(url + path, timeout=PATIENCE, **more)

    return {
        "tgi: generate": lambda: generate().generated_text,
        "tgi: details": lambda: _detailed(generate()),
        "tgi: streamed": lambda: _streamed(
            client.generate_stream(prompt(BUSINESS), max_new_tokens=8)
        ),
        "tgi: task in the path, streamed": lambda: _streamed(
            at("/v1/tasks/dbpedia/generate").generate_stream(prompt(VILLAGE))
        ),
        "tgi: task in a header": lambda: (
            generate(VILLAGE, at=at("", headers={"x-task-id": "dbpedia"})).generated_text
        ),
        "tgi: nearly greedy": lambda: generate(**NEARLY_GREEDY).generated_text,
        "tgi: best_of": lambda: len(
            generate(do_sample=True, temperature=2.0, best_of=3).details.best_of_sequences
        ),
        "tgi: stop": lambda: generate(stop_sequences=["ort"]).generated_text,
        "tgi: refused typical_p": lambda: generate(do_sample=True, typical_p=0.5),
        "tgi: refused watermark": lambda: generate(watermark=True),
        "tgi: refused frequency_penalty": lambda: generate(frequency_penalty=0.5),
        "tgi: refused decoder_input_details": lambda: generate(decoder_input_details=True),
        "tgi: refused grammar": lambda: generate(grammar={"type": "regex", "value": "a|b"}),
    }


async def _async_lorax(url: str) -> object:
    client: Any = lorax.AsyncClient(url, timeout=PATIENCE)
    return (await client.generate(prompt(SPORTS), adapter_id="agnews")).generated_text


def _detailed(answer: Any) -> list[object]:
    details = answer.details
    return [
        answer.generated_text,
        details.finish_reason.value,
        len(details.tokens) == details.generated_tokens > 0,
        all(token.logprob <= 0 for token in details.tokens),
    ]


def _streamed(events: Any) -> list[object]:
    """The text that the tokens make, and the whole one of the last event."""
    seen = [*events]
    tokens = "".join(event.token.text for event in seen if not event.token.special)
    return [tokens, seen[-1].generated_text, seen[-1].details.finish_reason.value]
