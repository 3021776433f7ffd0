"""The client for ordinary programs and threads. `calls` says what is sent."""

from __future__ import annotations

import random
import sys
import time
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Literal, Self

from jumplora_server.api.adapter_schemas import AdapterDetail, AdapterSummary, PutResult
from jumplora_server.api.overview_schemas import Order, Overview, SortKey
from jumplora_server.api.schemas import GenerateResponse, Info, StreamEvent
from jumplora_server.client import calls, uploads
from jumplora_server.client.address import Address
from jumplora_server.client.answers import Answered, Choice, Row
from jumplora_server.client.batches import Plan
from jumplora_server.client.errors import RequestFailed
from jumplora_server.client.retries import Patience
from jumplora_server.client.sender import Sender
from jumplora_server.client.streams import texts_of

Parameters = Mapping[str, object]


class Client:
    """Speaks to one server; threads may share it.

        with Client("http://127.0.0.1:8000") as client:
            print(client.generate("agnews", "The striker scored twice.").generated_text)

    Without `url` it takes JUMPLORA_SERVER from the environment, else http://127.0.0.1:8000. Without
    `key` it takes JUMPLORA_KEY, which is sent to that server only. A key is shown nowhere.

    A call takes at most `timeout` seconds with all of its tries. It is sent again up to `retries`
    times where that is safe and may help: no connection, a connection that broke, 429, 503, and 502
    or 504 of a proxy. Before that it waits as long as Retry-After asks, or else 0.25 s, then twice
    as long each time, less up to half of it at random, and at most `max_wait` seconds. A server
    that asks for longer is not asked again: the error has its `retry_after`.

    All calls raise RequestFailed: Unreachable, KeyRefused (401, 403), TaskUnknown (404),
    InputRefused (other 4xx), Overloaded (429, 503), ServerFailed (other 5xx). The constructor
    raises it too, for a malformed `url` or `key`. `sleep`, `fraction` and `clock` are for tests.
    """

    def __init__(
        self,
        url: str | None = None,
        *,
        key: str | None = None,
        timeout: float = 120.0,
        retries: int = 2,
        max_wait: float = 30.0,
        sleep: Callable[[float], object] = time.sleep,
        fraction: Callable[[], float] = random.random,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        patience = Patience(retries, max_wait, timeout, fraction, clock)
        self._sender = Sender(Address.of(url, key), patience, sleep)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._sender.address.url!r})"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._sender.close()

    def generate(
        self,
        task: str | None,
        text: str | None = None,
        *,
        inputs: str | None = None,
        parameters: Parameters | None = None,
    ) -> GenerateResponse:
        """Answer one text, which the server puts into the task's template, or a whole prompt.

            client.generate("agnews", "Shares fell.", parameters={"max_new_tokens": 8})

        `task` is "task", "task@version", or None for the server's default task or bare backbone.
        Give `text` or `inputs`. `parameters` are those of `POST /generate`.
        """
        return self._sender.send(calls.generate(task, text, inputs, parameters))

    def generate_all(
        self,
        task: str | None,
        text: Sequence[str] | None = None,
        *,
        inputs: Sequence[str] | None = None,
        parameters: Parameters | None = None,
    ) -> list[GenerateResponse]:
        """Answer a list of prompts in one request, in its order, on one version.

        The list has at most `info().max_client_batch_size` prompts; `batch` takes any number. One
        prompt that the server refuses refuses them all.
        """
        return self._sender.send(calls.generate_all(task, text, inputs, parameters))

    def choose(
        self,
        task: str | None,
        text: str | None = None,
        options: Sequence[str] | None = None,
        *,
        inputs: str | None = None,
        min_probability: float | None = None,
        min_mass: float | None = None,
    ) -> Choice:
        """Which of the options a text is, and how likely; None: the options of the adapter.

            choice = client.choose("agnews", "The central bank raised rates.", min_probability=0.8)
            print(choice.text or "a person has to look", choice.probability)

        Where the likeliest option has less than `min_probability`, or all together less than
        `min_mass`, the choice's `text` is None.
        """
        return self._sender.send(
            calls.choose(task, text, inputs, options, min_probability, min_mass)
        )

    def stream(
        self,
        task: str | None,
        text: str | None = None,
        *,
        inputs: str | None = None,
        parameters: Parameters | None = None,
    ) -> Generator[StreamEvent, None, None]:
        """Answer token by token; the last event has `generated_text` and `details`.

        Closing it cancels the rest on the server, and so does leaving a `for` over it early; a
        program that keeps it in a variable closes it (`contextlib.closing`). It is sent again only
        before its first event. `timeout` is the longest wait for the next event.
        """
        return self._sender.events(calls.stream(task, text, inputs, parameters))

    def stream_text(
        self,
        task: str | None,
        text: str | None = None,
        *,
        inputs: str | None = None,
        parameters: Parameters | None = None,
    ) -> Generator[str, None, None]:
        """The pieces of text of `stream` alone.

        for piece in client.stream_text("register", "my fellow citizens"):
            print(piece, end="", flush=True)
        """
        return texts_of(self.stream(task, text, inputs=inputs, parameters=parameters))

    def batch(
        self,
        rows: Iterable[Row | str],
        *,
        task: str | None = None,
        parameters: Parameters | None = None,
        concurrency: int = 4,
    ) -> Generator[Answered, None, None]:
        """Answer any number of rows, in their order, several requests at a time.

            rows = (line.strip() for line in open("texts.txt"))
            for answered in client.batch(rows, task="agnews"):
                print(answered.error or answered.text)

        A string is a text for `task`; a Row may name another task, a whole prompt or its own
        parameters. Rows are sent in lists, `concurrency` of them at a time, which together have as
        many rows as the server takes in one list. They are read as they are needed: at most two
        such rounds are held in memory.

        Each row gets its answer or its error: a list that is refused is halved until the row at
        fault is alone. A list that finds the server busy is sent again as long as `timeout`
        allows (with `retries=0` not at all). RequestFailed is raised for what all rows would get:
        no answer, an unknown key, another program's server. Leaving the generator early sends no
        more, and waits for the requests that were sent, at most `timeout` seconds.
        """
        return self._sender.batch(rows, Plan(concurrency, task, parameters))

    def adapters(self) -> list[AdapterSummary]:
        """All registered tasks, those that the key may see."""
        return self._sender.send(calls.adapters())

    def adapter(self, task: str) -> AdapterDetail:
        """One task with its manifest and versions."""
        return self._sender.send(calls.adapter(task))

    def publish(
        self,
        task: str,
        path: str | Path,
        *,
        if_match: str | None = None,
        new: bool = False,
        stage: float | None = None,
        on_sent: uploads.OnSent | None = None,
    ) -> PutResult:
        """Publish an adapter file, a PEFT folder or a zip or tar of one; it answers on return.

        A folder is sent as a tar of the two files that count, and the server makes the adapter.
        With `if_match`, only if that version is the current one, and with `new`, only if there is
        no such task (else InputRefused, 412). With `stage`, a share from 0 to 1, it is staged
        beside the current version. It is sent again also where an answer was lost, for the server
        knows the bytes that it has; with `new` it is not. The client's `timeout` holds
        for the upload and the load together. `on_sent` is called with the bytes that are sent so
        far, and with all there are. A path that cannot be read raises InputRefused too, with the
        code "input".
        """
        with uploads.opened(Path(path)) as upload:
            call = calls.publish(task, upload.sha256, upload.length, if_match, new=new, stage=stage)
            return self._sender.send(call, partial(upload.chunks, on_sent))

    def rollback(self, task: str, version: str | None = None) -> AdapterDetail:
        """Make an older version current again; None: the one before.

        Without a version it is sent again only where the server has not begun: else it might go
        back twice.
        """
        return self._sender.send(calls.rollback(task, version))

    def stage(
        self, task: str, version: str, share: float, promote_after: float | None = None
    ) -> AdapterDetail:
        """Give a stored version a share (0 to 1) of the task's requests, beside the current one.

        It returns once the version was loaded and tried; one that does not pass is taken back
        (InputRefused). With `promote_after` it becomes current by itself after so many seconds
        without a fault.
        """
        return self._sender.send(calls.stage(task, version, share, promote_after))

    def promote(self, task: str, version: str | None = None) -> AdapterDetail:
        """Make the staged version current.

        `version` must be the staged one where it is given (else InputRefused, 412).
        """
        return self._sender.send(calls.promote(task, version))

    def unstage(self, task: str, version: str | None = None, *, note: str = "") -> AdapterDetail:
        """Give the staged version no requests any more; it stays in the store.

        `note` says why, in the task's history.
        """
        return self._sender.send(calls.unstage(task, version, note))

    def alias(self, task: str, name: str, version: str | None) -> AdapterDetail:
        """Call a version by a name; None takes the name away."""
        return self._sender.send(calls.alias(task, name, version))

    def load(self, task: str) -> AdapterDetail:
        """Load the adapter now; a version that failed is tried again."""
        return self._sender.send(calls.load(task))

    def pin(self, task: str, pinned: Literal["pinned", "unpinned"] = "pinned") -> AdapterDetail:
        """Keep the adapter in memory, or no longer."""
        return self._sender.send(calls.pin(task, pinned))

    def remove(self, task: str) -> None:
        """Remove a task with all its versions.

        Sent again only where the server has not begun: else it would say that there is no such
        task.
        """
        self._sender.send(calls.remove(task))

    def overview(
        self,
        search: str | None = None,
        *,
        sort: SortKey | None = None,
        order: Order | None = None,
        offset: int = 0,
        limit: int | None = None,
    ) -> Overview:
        """One look at the server: its state, up to `limit` tasks from `offset`, the last events."""
        return self._sender.send(calls.overview(search, sort, order, offset, limit))

    def info(self) -> Info:
        """The backbone and the limits of the server."""
        return self._sender.send(calls.info())

    def is_ready(self) -> bool:
        """Whether the server wants requests now. Raises nothing, and asks once."""
        try:
            self._sender.send(calls.readiness(), patience=replace(self._sender.patience, retries=0))
        except RequestFailed:
            return False
        return True

    def wait_ready(self, timeout: float = 60.0) -> None:
        """Wait until the server wants requests. Raises RequestFailed after `timeout` seconds."""
        patience = replace(
            self._sender.patience, retries=sys.maxsize, max_wait=1.0, timeout=timeout, polls=True
        )
        self._sender.send(calls.readiness(), patience=patience)
