"""The `openai` package."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from typing import Any

import openai

from integration.clients.calls import Call
from integration.clients.prompts import BUSINESS, OPTIONS, SPORTS, VERSIONED, VILLAGE, prompt

SAMPLED: Mapping[str, Any] = {"temperature": 1.0, "max_tokens": 8, "seed": 7}


def calls(url: str) -> Mapping[str, Call]:
    """By name."""
    client = openai.OpenAI(base_url=f"{url}/v1", api_key="x", max_retries=0)
    return {**_models(client), **_completions(client), **_chat(client), **_refused(client)} | {
        "openai: async chat, streamed": lambda: asyncio.run(_async_chat(url)),
    }


def _models(client: openai.OpenAI) -> Mapping[str, Call]:
    models: Any = client.models
    return {
        "openai: models": lambda: {
            model.id: getattr(model, "parent", None) for model in models.list()
        },
        "openai: a model": lambda: models.retrieve("agnews").id,
        "openai: a model that is not there": lambda: models.retrieve("agnew"),
    }


def _completions(client: openai.OpenAI) -> Mapping[str, Call]:
    def create(text: object = SPORTS, **more: Any) -> Any:
        asked = [prompt(each) for each in text] if isinstance(text, list) else prompt(str(text))
        given: Any = {"model": "agnews", "prompt": asked, "max_tokens": 8, **more}
        return client.completions.create(**given)

    def whole(answer: Any) -> list[object]:
        only = answer.choices[0]
        return [answer.object, answer.model, only.text, only.finish_reason]

    return {
        "openai: completion": lambda: whole(create()),
        "openai: completion, of a version": lambda: whole(create(model=VERSIONED))[2:],
        "openai: completion, list": lambda: _texts(create([SPORTS, BUSINESS])),
        "openai: completion, usage": lambda: _adds_up(create().usage),
        "openai: completion, request id": lambda: bool(create()._request_id),
        "openai: completion, streamed": lambda: _joined(create(stream=True)),
        "openai: completion, list, streamed": lambda: _joined(
            create([SPORTS, BUSINESS], stream=True)
        ),
        "openai: completion, streamed with usage": lambda: _last_usage(
            create(stream=True, stream_options={"include_usage": True})
        ),
        "openai: completion, n": lambda: len(_texts(create(n=3, **SAMPLED))),
        "openai: completion, n, streamed": lambda: sorted(
            _joined(create(n=2, stream=True, temperature=0.01, seed=1))
        ),
        "openai: completion, best_of": lambda: len(_texts(create(n=1, best_of=3, **SAMPLED))),
        "openai: completion, same seed": lambda: (
            _texts(create(n=3, **SAMPLED)) == _texts(create(n=3, **SAMPLED))
        ),
        "openai: completion, temperature 0": lambda: _texts(create(temperature=0, top_p=1)),
        "openai: completion, nearly greedy": lambda: _texts(
            create(temperature=0.01, top_p=0.5, seed=3)
        ),
        "openai: completion, stop": lambda: whole(create(stop="ort"))[2:],
        "openai: completion, stops": lambda: whole(create(stop=["xyz", "ort"]))[2:],
        "openai: completion, one token": lambda: whole(
            create(VILLAGE, model="dbpedia", max_tokens=1)
        )[3],
        "openai: completion, more tokens than the server has": lambda: whole(
            create(max_tokens=4096)
        )[2:],
        "openai: completion, logprobs": lambda: _completion_logprobs(create(logprobs=1)),
        "openai: completion, neutral parameters": lambda: _texts(
            create(
                n=1, best_of=1, echo=False, suffix=None, presence_penalty=0, frequency_penalty=0,
                logit_bias={}, logprobs=None, stop=[], user="someone", stream=False,
            )
        ),
    }  # fmt: skip


def _chat(client: openai.OpenAI) -> Mapping[str, Call]:
    def create(*texts: Any, **more: Any) -> Any:
        messages = [{"role": "user", "content": each} for each in texts or (SPORTS,)]
        given: Any = {"model": "agnews", "messages": messages, "max_tokens": 8, **more}
        return client.chat.completions.create(**given)

    def whole(answer: Any) -> list[object]:
        only = answer.choices[0]
        message = only.message
        return [answer.object, answer.model, message.role, message.content, only.finish_reason]

    choice = {"structured_outputs": {"choice": OPTIONS[:3]}}
    return {
        "openai: chat": lambda: whole(create()),
        "openai: chat, content in parts": lambda: whole(
            create([{"type": "text", "text": SPORTS}])
        )[3],
        "openai: chat, usage": lambda: _adds_up(create().usage),
        "openai: chat, streamed": lambda: _said(create(stream=True)),
        "openai: chat, streamed with usage": lambda: _last_usage(
            create(stream=True, stream_options={"include_usage": True})
        ),
        "openai: chat, n": lambda: len(create(n=3, **SAMPLED).choices),
        "openai: chat, max_completion_tokens": lambda: whole(
            create(max_tokens=openai.omit, max_completion_tokens=8)
        )[3:],
        "openai: chat, logprobs": lambda: _chat_logprobs(create(logprobs=True)),
        "openai: chat, stop and seed": lambda: whole(create(stop=["ort"], seed=5))[3:],
        "openai: chat, choices": lambda: whole(create(extra_body=choice))[3:],
        "openai: chat, choices that leave the best out": lambda: (
            whole(create(extra_body={"structured_outputs": {"choice": ["Business", "World"]}}))[3]
            in ("Business", "World")
        ),
        "openai: chat, plain text asked for": lambda: whole(
            create(response_format={"type": "text"}, tools=openai.omit)
        )[3],
    }  # fmt: skip


def _refused(client: openai.OpenAI) -> Mapping[str, Call]:
    """What would change an answer and is not built, and what is wrong."""

    def complete(**more: Any) -> object:
        given: Any = {"model": "agnews", "prompt": prompt(SPORTS), **more}
        return client.completions.create(**given)

    def chat(**more: Any) -> object:
        messages = [{"role": "user", "content": SPORTS}]
        given: Any = {"model": "agnews", "messages": messages, **more}
        return client.chat.completions.create(**given)

    picture = {"type": "image_url", "image_url": {"url": "data:image/png;base64,"}}
    answers: Any = client.responses
    return {
        "openai: unknown model": lambda: complete(model="agnew"),
        "openai: echo": lambda: complete(echo=True),
        "openai: suffix": lambda: complete(suffix="."),
        "openai: logit_bias": lambda: complete(logit_bias={"50256": -100}),
        "openai: presence_penalty": lambda: complete(presence_penalty=0.5),
        "openai: temperature out of range": lambda: complete(temperature=-1),
        "openai: max_tokens of no tokens": lambda: complete(max_tokens=-1),
        "openai: empty prompt": lambda: complete(prompt=""),
        "openai: best_of below n": lambda: complete(n=3, best_of=2, temperature=1),
        "openai: best_of, streamed": lambda: list(
            complete(best_of=2, temperature=1, stream=True)  # type: ignore[call-overload]
        ),
        "openai: unknown parameter": lambda: complete(extra_body={"no_such_thing": 1}),
        "openai: chat, unknown model": lambda: chat(model="agnew"),
        "openai: chat, no messages": lambda: chat(messages=[]),
        "openai: chat, a picture": lambda: chat(messages=[{"role": "user", "content": [picture]}]),
        "openai: chat, tools": lambda: chat(
            tools=[{"type": "function", "function": {"name": "f", "parameters": {}}}]
        ),
        "openai: chat, JSON asked for": lambda: chat(response_format={"type": "json_object"}),
        "openai: chat, choices, streamed": lambda: list(
            chat(stream=True, extra_body={"structured_outputs": {"choice": OPTIONS}})  # type: ignore[call-overload]
        ),
        "openai: responses": lambda: answers.create(model="agnews", input=SPORTS),
        "openai: embeddings": lambda: client.embeddings.create(model="agnews", input=SPORTS),
    }


async def _async_chat(url: str) -> object:
    async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="x", max_retries=0) as client:
        stream = await client.chat.completions.create(
            model="agnews", messages=[{"role": "user", "content": SPORTS}], stream=True
        )
        return "".join([c.choices[0].delta.content or "" async for c in stream if c.choices])


def _texts(answer: Any) -> list[str]:
    assert [choice.index for choice in answer.choices] == [*range(len(answer.choices))]
    return [choice.text for choice in answer.choices]


def _joined(chunks: Iterable[Any]) -> list[str]:
    """The texts of a stream by their index; each ends once, with a reason."""
    texts: dict[int, str] = {}
    ended: list[int] = []
    for chunk in chunks:
        for choice in chunk.choices:
            texts[choice.index] = texts.get(choice.index, "") + choice.text
            ended += [choice.index] * (choice.finish_reason is not None)
    assert sorted(ended) == sorted(texts), "each sequence ends once"
    return [texts[index] for index in sorted(texts)]


def _said(chunks: Iterable[Any]) -> list[object]:
    """Role, text and reason of a chat's stream."""
    deltas = [chunk.choices[0] for chunk in chunks if chunk.choices]
    content = "".join(each.delta.content or "" for each in deltas)
    return [deltas[0].delta.role, content, deltas[-1].finish_reason]


def _last_usage(chunks: Iterable[Any]) -> list[object]:
    """Whether the last chunk alone has usage and no choice, and whether it adds up."""
    *others, last = chunks
    return [last.choices, any(chunk.usage for chunk in others), _adds_up(last.usage)]


def _adds_up(usage: Any) -> bool:
    both = (usage.prompt_tokens, usage.completion_tokens)
    return min(both) > 0 and bool(sum(both) == usage.total_tokens)


def _completion_logprobs(answer: Any) -> list[object]:
    """The text that its tokens make, and whether each has a log-probability."""
    told = answer.choices[0].logprobs
    are_there = all(value <= 0 for value in told.token_logprobs)
    same = len(told.tokens) == len(told.token_logprobs) == len(told.text_offset)
    return [answer.choices[0].text, are_there, same]


def _chat_logprobs(answer: Any) -> list[object]:
    told = answer.choices[0].logprobs.content
    return [answer.choices[0].message.content, len(told) > 0, all(t.logprob <= 0 for t in told)]
