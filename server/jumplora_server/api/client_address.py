"""Which address a request came from, where proxies stand before the server."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address

from starlette.types import Scope

Address = IPv4Address | IPv6Address
UNKNOWN = "-"
MAX_HOPS = 32  # that are looked at, from the right
_FIELD = b"x-forwarded-for"
_MAPPED = "::ffff:"  # an IPv4 client of a socket for both
# 10.0.0.7, 10.0.0.7:4711, [fd00::7]:4711, [fd00::7]; an IPv6 address without brackets has no port.
_WITH_PORT = re.compile(r"(?:\[([0-9a-fA-F:.]+)\]|([0-9.]+))(?::[0-9]{1,5})?", re.ASCII)


class Proxies:
    """The proxies whose X-Forwarded-For is believed. Each appends whom it was asked by, so the
    client is the rightmost that is none of them; what stands left of it, anybody may have sent."""

    def __init__(self, networks: Sequence[IPv4Network | IPv6Network] = ()) -> None:
        self._networks = tuple(networks)

    def client_of(self, scope: Scope) -> str:
        """The client's address; that of the last proxy known where the field is malformed."""
        peer = scope.get("client")
        if peer is None:
            return UNKNOWN
        host: str = peer[0]
        if not self._networks:
            return host.removeprefix(_MAPPED) if host.startswith(_MAPPED) else host
        client = _address(host)
        if client is None:
            return host
        for hop in _hops(scope["headers"]):
            if not self._is_one(client):
                break
            before = _address(hop)
            if before is None:
                break
            client = before
        return str(client)

    def _is_one(self, address: Address) -> bool:
        return any(address in network for network in self._networks)


def _hops(headers: Iterable[tuple[bytes, bytes]]) -> list[str]:
    """All that the fields name, the last one first."""
    fields = [value for name, value in headers if name == _FIELD]
    parts = b",".join(fields).decode("latin-1").rsplit(",", MAX_HOPS)
    return [part.strip() for part in reversed(parts[-MAX_HOPS:])] if fields else []


def _address(text: str) -> Address | None:
    match = _WITH_PORT.fullmatch(text)
    if match is not None:
        text = match[1] or match[2]
    if "%" in text:  # a zone may be any text
        return None
    try:
        found = ip_address(text)
    except ValueError:
        return None
    mapped = found.ipv4_mapped if isinstance(found, IPv6Address) else None
    return mapped or found
