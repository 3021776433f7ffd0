"""What each call comes to: its answer, or the client's own error with the server's sentence."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Refused:
    """The type of the exception, and what its message has to name."""

    error: str
    names: str


_BAD, _MISSING = "openai.BadRequestError", "openai.NotFoundError"
_HUB_INVALID = "huggingface_hub.errors.ValidationError"
_HUB_UNKNOWN = "huggingface_hub.errors.UnknownError"
_LORAX_INVALID = "lorax.errors.ValidationError"
_TGI_INVALID = "text_generation.errors.ValidationError"
_DETAILED = ["Sports", "eos_token", True, True]
_USAGE = [[], False, True]
_BOTH = ["Sports", "Business"]

_OPENAI: Mapping[str, object] = {
    "openai: models": {
        "agnews": "backbone",
        "dbpedia": "backbone",
        "register": "backbone",
        "subject": "backbone",
        "backbone": None,
    },
    "openai: a model": "agnews",
    "openai: a model that is not there": Refused(_MISSING, "agnew"),
    "openai: completion": ["text_completion", "agnews", "Sports", "stop"],
    "openai: completion, of a version": ["Sports", "stop"],
    "openai: completion, list": _BOTH,
    "openai: completion, usage": True,
    "openai: completion, request id": True,
    "openai: completion, streamed": ["Sports"],
    "openai: completion, list, streamed": _BOTH,
    "openai: completion, streamed with usage": _USAGE,
    "openai: completion, n": 3,
    "openai: completion, n, streamed": ["Sports", "Sports"],
    "openai: completion, best_of": 1,
    "openai: completion, same seed": True,
    "openai: completion, temperature 0": ["Sports"],
    "openai: completion, nearly greedy": ["Sports"],
    "openai: completion, stop": ["Sp", "stop"],
    "openai: completion, stops": ["Sp", "stop"],
    "openai: completion, one token": "length",
    "openai: completion, more tokens than the server has": ["Sports", "stop"],
    "openai: completion, logprobs": ["Sports", True, True],
    "openai: completion, neutral parameters": ["Sports"],
    "openai: chat": ["chat.completion", "agnews", "assistant", "Sports", "stop"],
    "openai: chat, content in parts": "Sports",
    "openai: chat, usage": True,
    "openai: chat, streamed": ["assistant", "Sports", "stop"],
    "openai: chat, streamed with usage": _USAGE,
    "openai: chat, n": 3,
    "openai: chat, max_completion_tokens": ["Sports", "stop"],
    "openai: chat, logprobs": ["Sports", True, True],
    "openai: chat, stop and seed": ["Sp", "stop"],
    "openai: chat, choices": ["Sports", "stop"],
    "openai: chat, choices that leave the best out": True,
    "openai: chat, plain text asked for": "Sports",
    "openai: async chat, streamed": "Sports",
    "openai: unknown model": Refused(_MISSING, "agnew"),
    "openai: echo": Refused(_BAD, "echo"),
    "openai: suffix": Refused(_BAD, "suffix"),
    "openai: logit_bias": Refused(_BAD, "logit_bias"),
    "openai: presence_penalty": Refused(_BAD, "presence_penalty"),
    "openai: temperature out of range": Refused(_BAD, "temperature"),
    "openai: max_tokens of no tokens": Refused(_BAD, "max_tokens"),
    "openai: empty prompt": Refused(_BAD, "prompt"),
    "openai: best_of below n": Refused(_BAD, "best_of"),
    "openai: best_of, streamed": Refused(_BAD, "best_of"),
    "openai: unknown parameter": Refused(_BAD, "no_such_thing"),
    "openai: chat, unknown model": Refused(_MISSING, "agnew"),
    "openai: chat, no messages": Refused(_BAD, "messages"),
    "openai: chat, a picture": Refused(_BAD, "image_url"),
    "openai: chat, tools": Refused(_BAD, "tools"),
    "openai: chat, JSON asked for": Refused(_BAD, "response_format"),
    "openai: chat, choices, streamed": Refused(_BAD, "stream"),
    "openai: responses": Refused(_MISSING, "/v1/responses"),
    "openai: embeddings": Refused(_MISSING, "/v1/embeddings"),
}
_HUB: Mapping[str, object] = {
    "hub: text_generation": "Sports",
    "hub: details": _DETAILED,
    "hub: streamed": "Sports",
    "hub: streamed with details": ["Sports", "eos_token", False],
    "hub: default task": "Business",
    "hub: another task": "Village",
    "hub: a version": "Sports",
    "hub: at /generate": "Sports",
    "hub: at /generate, streamed": "Sports",
    "hub: at /generate_stream": "Sports",
    "hub: task in the path": "Sports",
    "hub: task in the path, streamed": "Sports",
    "hub: task in a header": "Village",
    "hub: neutral parameters": "Sports",
    "hub: nearly greedy": "Sports",
    "hub: sampled, same seed": True,
    "hub: seed in the details": 3,
    "hub: best_of": [2, True],
    "hub: stop": ["Sp", "stop_sequence"],
    "hub: chat": "Sports",
    "hub: chat, streamed": "Sports",
    "hub: chat at the address of the API": "Sports",
    "hub: async, streamed": "Sports",
    "hub: refused typical_p": Refused(_HUB_INVALID, "typical_p"),
    "hub: refused frequency_penalty": Refused(_HUB_INVALID, "frequency_penalty"),
    "hub: refused watermark": Refused(_HUB_INVALID, "watermark"),
    "hub: refused top_n_tokens": Refused(_HUB_INVALID, "top_n_tokens"),
    "hub: refused grammar": Refused(_HUB_INVALID, "grammar"),
    "hub: refused decoder_input_details": Refused(_HUB_INVALID, "decoder_input_details"),
    "hub: refused temperature": Refused(_HUB_INVALID, "temperature"),
    "hub: refused adapter_id": Refused(_HUB_UNKNOWN, "agnew"),
    "hub: refused adapter_id, streamed": Refused(_HUB_UNKNOWN, "agnew"),
    "hub: chat, unknown model": Refused("huggingface_hub.errors.HfHubHTTPError", "agnew"),
}
_TGI: Mapping[str, object] = {
    "lorax: generate": "Sports",
    "lorax: details": _DETAILED,
    "lorax: without details": "Sports",
    "lorax: default task": "Business",
    "lorax: another task": "Village",
    "lorax: a version": "Sports",
    "lorax: streamed": ["Sports", "Sports", "eos_token"],
    "lorax: at /generate, streamed": ["Sports", "Sports", "eos_token"],
    "lorax: task in a header": "Village",
    "lorax: nearly greedy": "Sports",
    "lorax: seed in the details": 3,
    "lorax: best_of": 2,
    "lorax: stop": "Sp",
    "lorax: async": "Sports",
    "lorax: refused adapter_id": Refused("lorax.errors.NotFoundError", "agnew"),
    "lorax: refused typical_p": Refused(_LORAX_INVALID, "typical_p"),
    "lorax: refused ignore_eos_token": Refused(_LORAX_INVALID, "ignore_eos_token"),
    "lorax: refused return_k_alternatives": Refused(_LORAX_INVALID, "return_k_alternatives"),
    "lorax: refused response_format": Refused(_LORAX_INVALID, "response_format"),
    "lorax: refused merged_adapters": Refused(_LORAX_INVALID, "merged_adapters"),
    "lorax: refused adapter_id, streamed": Refused("lorax.errors.NotFoundError", "agnew"),
    "tgi: generate": "Sports",
    "tgi: details": _DETAILED,
    "tgi: streamed": ["Business", "Business", "eos_token"],
    "tgi: task in the path, streamed": ["Village", "Village", "eos_token"],
    "tgi: task in a header": "Village",
    "tgi: nearly greedy": "Sports",
    "tgi: best_of": 2,
    "tgi: stop": "Sp",
    "tgi: refused typical_p": Refused(_TGI_INVALID, "typical_p"),
    "tgi: refused watermark": Refused(_TGI_INVALID, "watermark"),
    "tgi: refused frequency_penalty": Refused(_TGI_INVALID, "frequency_penalty"),
    "tgi: refused decoder_input_details": Refused(_TGI_INVALID, "decoder_input_details"),
    "tgi: refused grammar": Refused(_TGI_INVALID, "grammar"),
}
_FRAMEWORKS: Mapping[str, object] = {
    "litellm: text completion": "Sports",
    "litellm: text completion, list": _BOTH,
    "litellm: text completion, streamed": "Sports",
    "litellm: hosted_vllm": "Sports",
    "litellm: hosted_vllm, streamed": "Sports",
    "litellm: openai": "Sports",
    "litellm: openai, streamed with usage": ["Sports", True],
    "litellm: huggingface": "Sports",
    "litellm: async": "Sports",
    "litellm: unknown model": Refused("litellm.exceptions.NotFoundError", "agnew"),
    "litellm: refused parameter": Refused("litellm.exceptions.BadRequestError", "presence_penalty"),
    "langchain: OpenAI": "Sports",
    "langchain: OpenAI, its own temperature": True,
    "langchain: OpenAI, batch": _BOTH,
    "langchain: OpenAI, streamed": "Sports",
    "langchain: ChatOpenAI": "Sports",
    "langchain: ChatOpenAI, batch": _BOTH,
    "langchain: ChatOpenAI, streamed": "Sports",
    "langchain: ChatOpenAI, async": "Sports",
    "langchain: ChatOpenAI, logprobs": True,
    "langchain: ChatOpenAI, usage": True,
    "langchain: ChatOpenAI, unknown model": Refused(
        "langchain_openai.chat_models.base.OpenAIModelNotFoundError", "agnew"
    ),
    "langchain: ChatOpenAI, refused structured output": Refused(
        "langchain_openai.chat_models.base.OpenAIInvalidRequestError", "response_format"
    ),
    "langchain: HuggingFaceEndpoint": "Sports",
    "langchain: HuggingFaceEndpoint, default task": "Business",
    "langchain: HuggingFaceEndpoint, batch": _BOTH,
    "langchain: HuggingFaceEndpoint, streamed": "Sports",
    "langchain: HuggingFaceEndpoint, task in the path": "Village",
    "langchain: HuggingFaceEndpoint, refused typical_p": Refused(_HUB_INVALID, "typical_p"),
}
EXPECTED: Mapping[str, object] = {**_OPENAI, **_HUB, **_TGI, **_FRAMEWORKS}
