"""The one text that a chat asks about: a server of classifiers answers one text at a time.

The rule: one user message, whose content is the text for the adapter's template. Nothing is joined
with it and nothing is left out, so a system message and earlier turns are refused.
"""

from __future__ import annotations

from typing import Any

from jumplora_server.api.fields import check_unicode

MESSAGES: dict[str, Any] = {
    "type": "array",
    "minItems": 1,
    "maxItems": 1,
    "description": "one user message: the text for the adapter's prompt template",
    "items": {
        "type": "object",
        "properties": {
            "role": {"const": "user"},
            "content": {
                "anyOf": [
                    {"type": "string", "minLength": 1},
                    {
                        "type": "array",
                        "minItems": 1,
                        "items": {
                            "type": "object",
                            "properties": {
                                "type": {"const": "text"},
                                "text": {"type": "string", "minLength": 1},
                            },
                            "required": ["type", "text"],
                        },
                    },
                ]
            },
            "name": {"type": "string"},
        },
        "required": ["role", "content"],
        "additionalProperties": False,
    },
}
_INSTEAD = "Send the text alone, as one user message, or the whole prompt to /v1/completions"
_FIELDS = ("role", "content", "name")


def user_text(messages: object) -> str:
    """The text of the one user message. Raises ValueError, which says the rule and what to do."""
    if not isinstance(messages, list) or not messages:
        raise ValueError('must be a list, as [{"role": "user", "content": "..."}]')
    roles = [message.get("role") if isinstance(message, dict) else None for message in messages]
    for index, role in enumerate(roles):
        if not isinstance(role, str):
            raise ValueError(f"item {index} must be an object with a role and a content")
    for index, role in enumerate(roles):
        if role in ("system", "developer"):
            raise ValueError(
                f"item {index} is a {role} message, which an adapter cannot follow: its template "
                f"has the instruction. {_INSTEAD}"
            )
    if len(roles) > 1:
        raise ValueError(
            f"{len(roles)} messages were given, but an answer is to one text, without the turns "
            f"before it. {_INSTEAD}"
        )
    if roles != ["user"]:
        given = str(roles[0])[:40]
        raise ValueError(f"the role {given!a} was given; only user is allowed. {_INSTEAD}")
    (message,) = messages
    for name in message:
        if name not in _FIELDS:
            allowed = ", ".join(_FIELDS)
            raise ValueError(f"item 0 has the unknown field {name[:64]!a}; allowed are {allowed}")
    return _text_of(message.get("content"))


def _text_of(content: object) -> str:
    """Of several parts one text, a line each, as vLLM does it."""
    if isinstance(content, list):
        whole = "\n".join(_part(part) for part in content)
    elif isinstance(content, str):
        whole = content
    else:
        raise ValueError("content must be a string, or a list of text parts")
    if not whole:
        raise ValueError("content is empty; give at least one character")
    return check_unicode(whole, "content ")


def _part(part: object) -> str:
    kind = part.get("type") if isinstance(part, dict) else None
    if not isinstance(part, dict) or kind != "text":
        given = ascii(kind[:40]) if isinstance(kind, str) else "another"
        raise ValueError(f"content may have text parts only; {given} was given")
    text = part.get("text")
    if not isinstance(text, str):
        raise ValueError("a text part of content must have a text")
    return text
