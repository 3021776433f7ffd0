"""`langchain-openai` and `langchain-huggingface`, with their own defaults."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

from langchain_huggingface import HuggingFaceEndpoint
from langchain_openai import ChatOpenAI, OpenAI

from integration.clients.calls import Call
from integration.clients.prompts import BUSINESS, SPORTS, VILLAGE, prompt


def calls(url: str) -> Mapping[str, Call]:
    """By name."""
    given: Any = {
        "base_url": f"{url}/v1", "api_key": "x", "model": "agnews", "max_retries": 0
    }  # fmt: skip
    text = OpenAI(temperature=0, **given)
    chat = ChatOpenAI(**given)
    both = [prompt(SPORTS), prompt(BUSINESS)]

    def endpoint(path: str = "", **more: Any) -> Any:
        return HuggingFaceEndpoint(
            endpoint_url=url + path, max_new_tokens=8, huggingfacehub_api_token="x", **more
        )

    def logprobs() -> bool:
        told = chat.bind(logprobs=True).invoke(SPORTS).response_metadata["logprobs"]["content"]
        return len(told) > 0 and all(each["logprob"] <= 0 for each in told)

    named: Any = {"model_kwargs": {"adapter_id": "agnews"}}
    return {
        "langchain: OpenAI": lambda: text.invoke(both[0]),
        "langchain: OpenAI, its own temperature": lambda: len(OpenAI(**given).invoke(both[0])) > 0,
        "langchain: OpenAI, batch": lambda: text.batch(both),
        "langchain: OpenAI, streamed": lambda: "".join(text.stream(both[0])),
        "langchain: ChatOpenAI": lambda: chat.invoke(SPORTS).content,
        "langchain: ChatOpenAI, batch": lambda: [
            each.content for each in chat.batch([SPORTS, BUSINESS])
        ],
        "langchain: ChatOpenAI, streamed": lambda: "".join(
            str(each.content) for each in chat.stream(SPORTS)
        ),
        "langchain: ChatOpenAI, async": lambda: asyncio.run(_async(chat)),
        "langchain: ChatOpenAI, logprobs": logprobs,
        "langchain: ChatOpenAI, usage": lambda: (
            (chat.invoke(SPORTS).usage_metadata or {"output_tokens": 0})["output_tokens"] > 0
        ),
        "langchain: ChatOpenAI, unknown model": lambda: ChatOpenAI(
            **{**given, "model": "agnew"}
        ).invoke(SPORTS),
        "langchain: ChatOpenAI, refused structured output": lambda: chat.with_structured_output(
            {"title": "Topic", "type": "object", "properties": {"topic": {"type": "string"}}},
            method="json_schema",
        ).invoke(SPORTS),
        "langchain: HuggingFaceEndpoint": lambda: endpoint(**named).invoke(both[0]),
        "langchain: HuggingFaceEndpoint, default task": lambda: endpoint().invoke(both[1]),
        "langchain: HuggingFaceEndpoint, batch": lambda: endpoint(**named).batch(both),
        "langchain: HuggingFaceEndpoint, streamed": lambda: "".join(
            endpoint(streaming=True, **named).stream(both[0])
        ),
        "langchain: HuggingFaceEndpoint, task in the path": lambda: endpoint(
            "/v1/tasks/dbpedia/generate"
        ).invoke(prompt(VILLAGE)),
        "langchain: HuggingFaceEndpoint, refused typical_p": lambda: endpoint(
            do_sample=True, typical_p=0.5, **named
        ).invoke(both[0]),
    }


async def _async(chat: Any) -> object:
    return (await chat.ainvoke(SPORTS)).content
