"""What each route needs of a key: the one table of it, and which scopes are enough.

A route that the table lacks is refused to everybody (`closed`), so a new one is entered here.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from types import MappingProxyType
from typing import Literal

from jumplora_server.access.caller import Scope

Need = Literal["public", "any", "look", "infer", "read", "metrics", "admin", "closed"]
"""`public` needs no key, `any` one of any scope, `look` sees what may be asked for; `closed` is
opened by no key."""
ENOUGH: Mapping[Need, tuple[Scope, ...]] = MappingProxyType(
    {
        "any": ("infer", "read", "metrics", "admin"),
        "look": ("infer", "read", "admin"),
        "infer": ("infer",),
        "read": ("read", "admin"),
        "metrics": ("metrics", "admin"),
        "admin": ("admin",),
        "closed": (),
    }
)
"""Any one of these scopes is enough."""

ADAPTERS_PATH = "/v1/adapters"
CONSOLE_PREFIX = "/console/"
DOCS_PATH = "/docs"
DOCUMENT_PATH = "/openapi.json"
METRICS_PATH = "/metrics"
MODELS_PATH = "/v1/models"
# What balancers and supervisors ask, which have no key. None of them names a task.
PUBLIC_PATHS = frozenset(
    {"/livez", "/readyz", "/health", "/ping", "/v2/health/live", "/v2/health/ready"}
)
# Files of the package, the same on every server: browsers send no key with an address.
PAGES = ("/", CONSOLE_PREFIX + "*", DOCS_PATH, DOCS_PATH + "/*", DOCUMENT_PATH)
LORA_PATHS = frozenset({"/v1/load_lora_adapter", "/v1/unload_lora_adapter"})
READING = frozenset({"GET", "HEAD", "OPTIONS"})

# Methods, paths (`*` at the end: any that begins so), need. GET is HEAD and OPTIONS, too.
_TABLE: tuple[tuple[str, tuple[str, ...], Need], ...] = (
    ("GET", (*sorted(PUBLIC_PATHS), *PAGES), "public"),
    ("GET", ("/info", "/version", MODELS_PATH, MODELS_PATH + "/*"), "look"),
    ("GET", ("/v2", "/v2/models/*"), "look"),
    ("GET", (ADAPTERS_PATH, ADAPTERS_PATH + "/*", "/v1/overview"), "read"),
    ("GET", (METRICS_PATH,), "metrics"),
    ("POST", ("/", "/generate", "/generate_stream", "/v1/tasks/*", "/v2/models/*"), "infer"),
    ("POST", ("/v1/completions", "/v1/chat/completions", "/tokenize", "/detokenize"), "infer"),
    ("POST", tuple(sorted(LORA_PATHS)), "admin"),
    ("POST PUT PATCH DELETE", (ADAPTERS_PATH, ADAPTERS_PATH + "/*"), "admin"),
)


def needed_access(method: str, path: str, *, opened: Collection[str] = ()) -> Need | None:
    """What a request needs; None where the table has no such route.

    Reading what is at one of the `opened` paths, or below it, needs no key.
    """
    asked = "GET" if method in READING or path in PUBLIC_PATHS else method
    if asked == "GET" and any(is_at(path, place) for place in opened):
        return "public"
    exact = _EXACT.get((asked, path))
    if exact is not None:
        return exact
    return next((need for verb, start, need in _BELOW if verb == asked and path.startswith(start)),
                None)  # fmt: skip


def is_change(method: str, path: str) -> bool:
    """Whether a request changes adapters: those alone need the scope admin."""
    return needed_access(method, path) == "admin"


def is_at(path: str, prefix: str) -> bool:
    """Whether a path is that one or lies below it."""
    return path == prefix or path.startswith(prefix + "/")


def _lines() -> Iterator[tuple[str, str, Need]]:
    for methods, paths, need in _TABLE:
        for method in methods.split():
            for path in paths:
                yield method, path, need


_EXACT: Mapping[tuple[str, str], Need] = MappingProxyType(
    {(method, path): need for method, path, need in _lines() if not path.endswith("*")}
)
_BELOW = tuple(
    (method, path.removesuffix("*"), need) for method, path, need in _lines() if path.endswith("*")
)
