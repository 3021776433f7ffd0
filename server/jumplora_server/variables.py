"""JUMPLORA_SERVER and JUMPLORA_KEY: which server is asked, and which server may see the key."""

from __future__ import annotations

from collections.abc import Mapping

DEFAULT_URL = "http://127.0.0.1:8000"


def url_in(environment: Mapping[str, str]) -> str:
    """JUMPLORA_SERVER, else the default."""
    return environment.get("JUMPLORA_SERVER") or DEFAULT_URL


def key_for(url: str, environment: Mapping[str, str]) -> str | None:
    """JUMPLORA_KEY, if this is the server that it belongs to.

    A key must not reach another server that a flag or a program names.
    """
    is_its = url.rstrip("/") == url_in(environment).rstrip("/")
    return environment.get("JUMPLORA_KEY") or None if is_its else None


def shown(url: str) -> str:
    """An address for messages: without a user and password, though it may be malformed."""
    return f"...@{url.rpartition('@')[2]}" if "@" in url else url
