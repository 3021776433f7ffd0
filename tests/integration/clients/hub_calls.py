"""The `huggingface_hub` package's InferenceClient."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from huggingface_hub import AsyncInferenceClient, InferenceClient

from integration.clients.calls import Call
from integration.clients.prompts import BUSINESS, SPORTS, VERSIONED, VILLAGE, prompt

NEUTRAL: Mapping[str, Any] = {
    "do_sample": False, "best_of": 1, "return_full_text": False, "watermark": False,
    "decoder_input_details": False, "typical_p": 1.0, "frequency_penalty": 0.0,
    "top_n_tokens": 0, "repetition_penalty": 1.0, "stop": [],
}  # fmt: skip
REFUSED: Mapping[str, Any] = {
    "typical_p": {"do_sample": True, "typical_p": 0.5},
    "frequency_penalty": {"frequency_penalty": 0.5},
    "watermark": {"watermark": True},
    "top_n_tokens": {"top_n_tokens": 3},
    "grammar": {"grammar": {"type": "regex", "value": "a|b"}},
    "decoder_input_details": {"details": True, "decoder_input_details": True},
    "temperature": {"do_sample": True, "temperature": -1.0},
    "adapter_id": {"adapter_id": "agnew"},
    "adapter_id, streamed": {"adapter_id": "agnew", "stream": True},
}


def calls(url: str) -> Mapping[str, Call]:
    """By name."""
    client: Any = InferenceClient(base_url=url)

    def generate(text: str = SPORTS, at: Any = client, **more: Any) -> Any:
        given = {"adapter_id": "agnews", "max_new_tokens": 8, **more}
        return at.text_generation(prompt(text), **given)

    route = InferenceClient(model=f"{url}/generate")
    stream_route = InferenceClient(model=f"{url}/generate_stream")
    task_route = InferenceClient(model=f"{url}/v1/tasks/agnews/generate")
    header = InferenceClient(model=f"{url}/generate", headers={"x-task-id": "dbpedia"})

    def best(answer: Any) -> list[object]:
        others = answer.details.best_of_sequences
        return [len(others), all(other.generated_tokens > 0 for other in others)]

    return {
        "hub: text_generation": lambda: generate(),
        "hub: details": lambda: _detailed(generate(details=True)),
        "hub: streamed": lambda: "".join(generate(stream=True)),
        "hub: streamed with details": lambda: _ended(generate(stream=True, details=True)),
        "hub: default task": lambda: generate(BUSINESS, adapter_id=None),
        "hub: another task": lambda: generate(VILLAGE, adapter_id="dbpedia"),
        "hub: a version": lambda: generate(adapter_id=VERSIONED),
        "hub: at /generate": lambda: generate(at=route),
        "hub: at /generate, streamed": lambda: "".join(generate(at=route, stream=True)),
        "hub: at /generate_stream": lambda: "".join(generate(at=stream_route, stream=True)),
        "hub: task in the path": lambda: generate(at=task_route, adapter_id=None),
        "hub: task in the path, streamed": lambda: "".join(
            generate(at=task_route, adapter_id=None, stream=True)
        ),
        "hub: task in a header": lambda: generate(VILLAGE, at=header, adapter_id=None),
        "hub: neutral parameters": lambda: generate(**NEUTRAL),
        "hub: nearly greedy": lambda: generate(
            do_sample=True, temperature=0.01, top_k=5, top_p=0.9, seed=3, truncate=200
        ),
        "hub: sampled, same seed": lambda: (
            generate(do_sample=True, temperature=2.0, seed=3)
            == generate(do_sample=True, temperature=2.0, seed=3)
        ),
        "hub: seed in the details": lambda: (
            generate(do_sample=True, temperature=2.0, seed=3, details=True).details.seed
        ),
        "hub: best_of": lambda: best(
            generate(do_sample=True, temperature=2.0, best_of=3, seed=3, details=True)
        ),
        "hub: stop": lambda: _detailed(generate(stop=["ort"], details=True))[:2],
        "hub: chat": lambda: _chat(client),
        "hub: chat, streamed": lambda: "".join(
            chunk.choices[0].delta.content or ""
            for chunk in client.chat_completion(_messages(), model="agnews", stream=True)
            if chunk.choices
        ),
        "hub: chat at the address of the API": lambda: _chat(InferenceClient(base_url=f"{url}/v1")),
        "hub: async, streamed": lambda: asyncio.run(_async(url)),
        **{f"hub: refused {name}": partial(_all, generate, more) for name, more in REFUSED.items()},
        "hub: chat, unknown model": lambda: client.chat_completion(_messages(), model="agnew"),
    }


def _messages() -> list[dict[str, str]]:
    return [{"role": "user", "content": SPORTS}]


def _chat(client: Any) -> object:
    return (
        client.chat_completion(_messages(), model="agnews", max_tokens=8).choices[0].message.content
    )


async def _async(url: str) -> object:
    async with AsyncInferenceClient(base_url=url) as client:
        stream: Any = await client.text_generation(
            prompt(SPORTS), adapter_id="agnews", max_new_tokens=8, stream=True
        )
        return "".join([each async for each in stream])


def _detailed(answer: Any) -> list[object]:
    details = answer.details
    return [
        answer.generated_text,
        str(details.finish_reason),
        len(details.tokens) == details.generated_tokens > 0,
        all(token.logprob <= 0 for token in details.tokens),
    ]


def _ended(events: Any) -> list[object]:
    """What the last event of a stream says, and whether it is the only one that says it."""
    *others, last = events
    early = any(event.generated_text or event.details for event in others)
    return [last.generated_text, str(last.details.finish_reason), early]


def _all(generate: Callable[..., Any], more: Mapping[str, Any]) -> object:
    """A stream has to be read before it fails."""
    answer = generate(**more)
    return answer if isinstance(answer, str) else [str(each) for each in answer]
