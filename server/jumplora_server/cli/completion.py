"""Task ids of a server, or of a store, for a shell's completion: quickly, and without a word."""

from __future__ import annotations

import http.client
import json
import os
import urllib.request
from pathlib import Path

import typer

from jumplora_adapters.cli.completion import fitting, tasks_in
from jumplora_server.cli.place import is_flag
from jumplora_server.variables import key_for, url_in

SECONDS = 0.7  # that a shell waits for a server
_MOST_BYTES = 16 << 20


def task_ids(context: typer.Context, incomplete: str) -> list[str]:
    """The tasks whose names begin so, from where the command would look for them."""
    given = context.params
    server, store = given.get("server"), given.get("store")
    if store is not None and (server is None or is_flag(context, "store")):
        return fitting(tasks_in(Path(store)), incomplete)
    address = str(server or url_in(os.environ))
    key = given.get("key") or key_for(address, os.environ)
    return fitting(_tasks_on(address, key), incomplete)


def _tasks_on(address: str, key: str | None) -> list[str]:
    # urllib, for the client takes half a second to import.
    try:
        request = urllib.request.Request(f"{address.rstrip('/')}/v1/adapters")
        if key:
            request.add_header("authorization", f"Bearer {key}")
        with urllib.request.build_opener(_NoRedirects).open(request, timeout=SECONDS) as answer:
            listed = json.loads(answer.read(_MOST_BYTES))["adapters"]
        return [str(each["task_id"]) for each in listed]
    except (OSError, ValueError, KeyError, TypeError, http.client.HTTPException):
        return []


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """urllib would send the key to where a redirect points."""

    def redirect_request(self, *_: object) -> None:
        """Follow none: the answer is an error."""
