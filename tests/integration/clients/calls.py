"""Runs all calls, in the clients' environment: `python -m integration.clients.calls BASE_URL`.

Prints a line of JSON for each: {"call": its name, "answer": ...} or {"call", "error", "message"},
where `error` is the type of the exception.
"""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Callable, Mapping, Sequence

MODULES = ("openai_calls", "hub_calls", "tgi_calls", "litellm_calls", "langchain_calls")
Call = Callable[[], object]


def outcome(call: Call) -> dict[str, object]:
    """What came of a call. The answer has to fit into JSON."""
    try:
        return {"answer": call()}
    except Exception as error:
        kind = type(error)
        return {"error": f"{kind.__module__}.{kind.__qualname__}", "message": str(error)}


def main(url: str, modules: Sequence[str] = MODULES) -> None:
    """All modules in turn."""
    for module in modules:
        calls: Mapping[str, Call] = importlib.import_module(f"integration.clients.{module}").calls(
            url
        )
        for name, call in calls.items():
            print(json.dumps({"call": name, **outcome(call)}), flush=True)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:] or MODULES)
