"""`litellm`, which speaks to a server as each of several providers."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping
from typing import Any

# Read as it is imported: prices come with the package, and are not fetched.
os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"

import litellm

from integration.clients.calls import Call
from integration.clients.prompts import BUSINESS, SPORTS, prompt


def calls(url: str) -> Mapping[str, Call]:
    """By name."""
    litellm.suppress_debug_info = True
    hub: Mapping[str, Any] = {"api_base": url, "api_key": "x", "max_tokens": 8}
    api: Mapping[str, Any] = {**hub, "api_base": f"{url}/v1", "num_retries": 0}
    messages = [{"role": "user", "content": SPORTS}]

    def text(**more: Any) -> Any:
        given = {"model": "text-completion-openai/agnews", "prompt": prompt(SPORTS), **api, **more}
        return litellm.text_completion(**given)

    def chat(model: str, given: Mapping[str, Any] = api, **more: Any) -> Any:
        return litellm.completion(model=model, messages=messages, **given, **more)

    return {
        "litellm: text completion": lambda: text().choices[0].text,
        "litellm: text completion, list": lambda: [
            choice.text for choice in text(prompt=[prompt(SPORTS), prompt(BUSINESS)]).choices
        ],
        "litellm: text completion, streamed": lambda: "".join(
            chunk.choices[0].text or "" for chunk in text(stream=True)
        ),
        "litellm: hosted_vllm": lambda: _content(chat("hosted_vllm/agnews")),
        "litellm: hosted_vllm, streamed": lambda: _joined(chat("hosted_vllm/agnews", stream=True)),
        "litellm: openai": lambda: _content(chat("openai/agnews", temperature=0, seed=1)),
        "litellm: openai, streamed with usage": lambda: _with_usage(
            chat("openai/agnews", stream=True, stream_options={"include_usage": True})
        ),
        "litellm: huggingface": lambda: _content(chat("huggingface/agnews", hub)),
        "litellm: async": lambda: asyncio.run(_async(messages, api)),
        "litellm: unknown model": lambda: chat("openai/agnew"),
        "litellm: refused parameter": lambda: chat("openai/agnews", presence_penalty=0.5),
    }


async def _async(messages: list[dict[str, str]], given: Mapping[str, Any]) -> object:
    return _content(
        await litellm.acompletion(model="hosted_vllm/agnews", messages=messages, **given)
    )


def _content(answer: Any) -> object:
    return answer.choices[0].message.content


def _joined(chunks: Any) -> str:
    return "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)


def _with_usage(chunks: Any) -> list[object]:
    seen = [*chunks]
    usage = getattr(seen[-1], "usage", None)
    return [_joined(seen), usage is not None and usage.completion_tokens > 0]
