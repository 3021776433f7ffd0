"""Where a client's server is, and with which key it is asked. Knows no HTTP."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Self
from urllib.parse import urlsplit

from jumplora_server.client.errors import RequestFailed

DEFAULT_URL = "http://127.0.0.1:8000"


@dataclass(frozen=True, slots=True)
class Address:
    """`url` has no slash at its end. Nothing shows the key."""

    url: str
    key: str | None = field(default=None, repr=False)

    @classmethod
    def of(
        cls, url: str | None, key: str | None, environment: Mapping[str, str] | None = None
    ) -> Self:
        """The address given, else JUMPLORA_SERVER, else the default.

        JUMPLORA_KEY counts only where no address is given: a program that names a server must not
        send it the key of another one. Raises RequestFailed.
        """
        environ = os.environ if environment is None else environment
        if url is None:
            url = environ.get("JUMPLORA_SERVER") or DEFAULT_URL
            key = environ.get("JUMPLORA_KEY") if key is None else key
        return cls(_checked_url(url), _checked_key(key))

    @property
    def headers(self) -> dict[str, str]:
        """What all requests carry."""
        return {} if self.key is None else {"authorization": f"Bearer {self.key}"}


def _checked_url(url: str) -> str:
    advice = "give http://... or https://..., such as http://127.0.0.1:8000"
    try:
        parts = urlsplit(url)
        is_good = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:  # brackets without an IPv6 address, a port that is not a number
        is_good = False
    if not is_good:
        raise RequestFailed(f"server {url!r} given; {advice}", code="address")
    if parts.username is not None:
        raise RequestFailed(
            f"the server's address names a user before {parts.hostname}; give a key as key=",
            code="address",
        )
    if parts.query or parts.fragment:
        raise RequestFailed(
            f"server {url!r} given, with a query or a fragment; {advice}", code="address"
        )
    return url.rstrip("/")


def _checked_key(key: str | None) -> str | None:
    """Not shown where it is wrong."""
    if not key:
        return None
    if not all("!" <= character <= "~" for character in key):
        raise RequestFailed(
            "the key has a character that a header cannot carry, such as a space or the end of a"
            " line: strip() what was read from a file",
            code="key",
        )
    return key
