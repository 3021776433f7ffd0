"""The addresses that one server listens on, and what each of them is for."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

BindName = Literal["main", "admin", "metrics"]
BIND_KEY = "jumplora.bind"  # of ASGI scopes: the name of the bind that a request came to
_ADDRESS = re.compile(r"(?:\[(?P<six>[^\]\s]+)\]|(?P<host>[^:\[\]\s/]+)):(?P<port>[0-9]{1,5})")


@dataclass(frozen=True, slots=True)
class Bind:
    """An address to listen on. Port 0: any free one."""

    name: BindName
    host: str
    port: int

    @property
    def advice(self) -> str:
        """How an operator chooses another one."""
        if self.name == "main":
            return "another port is set by --port or JUMPLORA_PORT"
        return f"another address is set by --{self.name}-bind or JUMPLORA_{self.name.upper()}_BIND"


def parse_bind(name: BindName, text: str) -> Bind:
    """The bind of a setting. Raises ValueError."""
    match = _ADDRESS.fullmatch(text)
    if match is None or int(match["port"]) > 65535:
        raise ValueError(
            "write host:port, as 127.0.0.1:9091, [::1]:9091 or 0.0.0.0:9091 (all addresses); "
            "port 0 is any free one"
        )
    return Bind(name, match["six"] or match["host"], int(match["port"]))


def shown_address(host: str, port: int) -> str:
    """host:port, an IPv6 address in brackets."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def overlap(one: tuple[str, int], other: tuple[str, int]) -> bool:
    """Whether two addresses that sockets have cannot both be listened on."""
    (host, port), (other_host, other_port) = one, other
    return port == other_port and (
        host == other_host or bool({host, other_host} & {"0.0.0.0", "::"})
    )
