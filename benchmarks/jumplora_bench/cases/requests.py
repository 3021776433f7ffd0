"""Requests to a running server, one at a time over one connection."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from http.client import HTTPConnection

from jumplora_adapters.errors import AdapterError
from jumplora_bench.cases.case import Lap

PATIENCE = 600.0  # seconds; the server's own deadline comes first
_HEADERS = {"content-type": "application/json"}


class NotAnswered(AdapterError):
    """The measured server refused a request, or answered what was not asked."""

    code = "not_answered"


@dataclass(frozen=True, slots=True)
class Post:
    """A prepared request."""

    path: str
    body: bytes


class RequestsCase:
    """Some requests in turn, the whole answer of each read before the next one is sent.

    A lap's time is the median of a request, or with `takes="mean"` the mean: where the requests
    differ.
    """

    def __init__(
        self, name: str, connection: HTTPConnection, posts: Sequence[Post], takes: str = "median"
    ) -> None:
        self.name = name
        self.answers: list[bytes] = []
        self._connection = connection
        self.posts = posts
        self._middle = statistics.median if takes == "median" else statistics.mean

    def run(self) -> Lap:
        """All requests, once. Raises NotAnswered."""
        self.answers.clear()
        seconds = [self._ask(post) for post in self.posts]
        return Lap(self._middle(seconds), ())

    def _ask(self, post: Post) -> float:
        began = time.perf_counter()
        self._connection.request("POST", post.path, post.body, _HEADERS)
        response = self._connection.getresponse()
        answer = response.read()
        seconds = time.perf_counter() - began
        if response.status != 200:
            raise NotAnswered(f"{self.name}: {post.path}: {response.status} {answer[:200]!r}")
        self.answers.append(answer)
        return seconds
