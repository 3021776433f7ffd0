"""Where a client's server is, and with which key it is asked. Sends nothing."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Self
from urllib.parse import urlsplit

import httpx

from jumplora_server.client.errors import RequestFailed
from jumplora_server.variables import DEFAULT_URL, key_for, shown, url_in


@dataclass(frozen=True, slots=True)
class Address:
    """`url` has no slash at its end. Nothing shows the key."""

    url: str
    key: str | None = field(default=None, repr=False)

    @classmethod
    def of(
        cls, url: str | None, key: str | None, environment: Mapping[str, str] | None = None
    ) -> Self:
        """The address given, else JUMPLORA_SERVER, else the default. Raises RequestFailed.

        Without a key, JUMPLORA_KEY counts if the address is that of JUMPLORA_SERVER or the default.
        """
        environ = os.environ if environment is None else environment
        url = _checked_url(url_in(environ) if url is None else url)
        return cls(url, _checked_key(key_for(url, environ) if key is None else key))

    @property
    def headers(self) -> dict[str, str]:
        """What all requests carry."""
        return {} if self.key is None else {"authorization": f"Bearer {self.key}"}


def _checked_url(url: str) -> str:
    advice = f"give http://... or https://..., such as {DEFAULT_URL}"
    given = f"server {shown(url)!r} given"
    if "@" in url:
        given += ", with a user or password"
        advice += "; give a key as key= (--key)"
    try:
        parts = urlsplit(url)
        is_good = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
        # What httpx takes, and a socket: it refuses labels that are empty or too long.
        httpx.URL(url).raw_host.decode("ascii").encode("idna")
    except (ValueError, httpx.InvalidURL):  # ValueError: of a port, of brackets, of Unicode
        is_good = False
    if not is_good or "@" in url:
        raise RequestFailed(f"{given}; {advice}", code="address")
    if parts.query or parts.fragment:
        raise RequestFailed(f"{given}, with a query or a fragment; {advice}", code="address")
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
