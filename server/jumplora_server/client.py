"""A small client of the server's HTTP interface, for programs, tests and the command line."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Literal, Self

import httpx
from pydantic import ValidationError

from jumplora_adapters.archives.pack import pack
from jumplora_server.api.adapter_status import AdapterDetail, AdapterList, AdapterSummary, PutResult
from jumplora_server.api.schemas import GenerateResponse, Info, StreamEvent

_HASH_BYTES = 1024 * 1024


class RequestFailed(Exception):
    """The server answered with an error, or did not answer (status 0, code "unreachable" or, for
    an address that is none, "address").

    `code` is the stable `error_type`, `reason` the check behind it; `retry_after` in seconds.
    """

    def __init__(
        self,
        message: str,
        *,
        status: int = 0,
        code: str = "unreachable",
        reason: str | None = None,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.status = status
        self.code = code
        self.reason = reason
        self.retry_after = retry_after


class Client:
    """Speaks to one server. `key` is sent as a bearer token; `transport` is for tests.

    Calls raise RequestFailed; so does the constructor, for a malformed `url`.
    """

    def __init__(
        self,
        url: str,
        *,
        key: str | None = None,
        timeout: float = 120.0,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        if not url.startswith(("http://", "https://")):
            raise RequestFailed(
                f"server {url!r} given; give http://... or https://..., such as"
                " http://127.0.0.1:8000",
                code="address",
            )
        headers = {} if key is None else {"authorization": f"Bearer {key}"}
        self._http = httpx.Client(
            base_url=url.rstrip("/"), headers=headers, timeout=timeout, transport=transport
        )

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
        self._http.close()

    def generate(
        self,
        task: str | None,
        *,
        inputs: str | None = None,
        text: str | None = None,
        parameters: Mapping[str, object] | None = None,
    ) -> GenerateResponse:
        """Answer one raw prompt (`inputs`) or one text for the task's template (`text`)."""
        body = _body(task, inputs, text, parameters)
        return GenerateResponse.model_validate(self._json("POST", "/generate", json=body))

    def generate_all(
        self,
        task: str | None,
        *,
        inputs: list[str] | None = None,
        text: list[str] | None = None,
        parameters: Mapping[str, object] | None = None,
    ) -> list[GenerateResponse]:
        """Answer a list of prompts, in its order, on one version."""
        body = _body(task, inputs, text, parameters)
        answers = self._json("POST", "/generate", json=body)
        return [GenerateResponse.model_validate(answer) for answer in answers]

    def stream(
        self,
        task: str | None,
        *,
        inputs: str | None = None,
        text: str | None = None,
        parameters: Mapping[str, object] | None = None,
    ) -> Iterator[StreamEvent]:
        """Answer token by token. Leaving the iteration early cancels the rest on the server."""
        body = _body(task, inputs, text, parameters)
        try:
            with self._http.stream("POST", "/generate_stream", json=body) as response:
                if response.status_code != 200:
                    response.read()
                    raise _failure(response)
                for line in response.iter_lines():
                    if line.startswith("data:"):
                        yield _event(line.removeprefix("data:"))
        except httpx.TransportError as error:
            raise _unreachable(self._http, error) from error

    def adapters(self) -> list[AdapterSummary]:
        """All registered tasks."""
        return AdapterList.model_validate(self._json("GET", "/v1/adapters")).adapters

    def adapter(self, task: str) -> AdapterDetail:
        """One task with its manifest and versions."""
        return AdapterDetail.model_validate(self._json("GET", f"/v1/adapters/{task}"))

    def put(self, task: str, path: Path, *, if_match: str | None = None) -> PutResult:
        """Publish an adapter file, a PEFT folder or an archive of one.

        A folder is sent as a tar of the two files that count, and the server makes the adapter.
        Returns once it answers requests. Raises ConvertError for a folder that lacks them, OSError.
        """
        headers = {"content-type": "application/octet-stream"}
        if if_match is not None:
            headers["if-match"] = f'"{if_match}"'
        with ExitStack() as stack:
            content: BinaryIO
            if path.is_dir():
                content = stack.enter_context(tempfile.TemporaryFile())
                pack(path, content)
            else:
                content = stack.enter_context(path.open("rb"))
            headers["x-content-sha256"] = _sha256(content)
            answer = self._json("PUT", f"/v1/adapters/{task}", content=content, headers=headers)
        return PutResult.model_validate(answer)

    def rollback(self, task: str, version: str | None = None) -> AdapterDetail:
        """Make an older version current again; None: the one before."""
        body = {} if version is None else {"version": version}
        answer = self._json("POST", f"/v1/adapters/{task}/rollback", json=body)
        return AdapterDetail.model_validate(answer)

    def load(self, task: str) -> AdapterDetail:
        """Make the adapter resident now."""
        return AdapterDetail.model_validate(self._json("POST", f"/v1/adapters/{task}/load"))

    def pin(self, task: str, pinned: Literal["pinned", "unpinned"] = "pinned") -> AdapterDetail:
        """Keep the adapter in memory, or no longer."""
        answer = self._json("POST", f"/v1/adapters/{task}/pin", json={"pinned": pinned})
        return AdapterDetail.model_validate(answer)

    def remove(self, task: str) -> None:
        """Remove a task with all its versions."""
        self._json("DELETE", f"/v1/adapters/{task}")

    def info(self) -> Info:
        """The backbone and the limits of the server."""
        told = self._json("GET", "/info")
        try:
            return Info.model_validate(told)
        except ValidationError as error:  # TGI has such a route too, with other fields
            raise _foreign(self._http, "/info") from error

    def is_ready(self) -> bool:
        """Whether the server wants requests."""
        try:
            return self._http.get("/readyz").status_code == 200
        except httpx.TransportError:
            return False

    def _json(self, method: str, path: str, **options: Any) -> Any:
        try:
            response = self._http.request(method, path, **options)
        except httpx.TransportError as error:
            raise _unreachable(self._http, error) from error
        if response.is_error:
            raise _failure(response)
        try:
            return response.json()
        except ValueError as error:
            raise _foreign(self._http, path) from error


def _body(
    task: str | None, inputs: object, text: object, parameters: Mapping[str, object] | None
) -> dict[str, object]:
    body: dict[str, object] = {"task_id": task, "parameters": dict(parameters or {})}
    if inputs is not None:
        body["inputs"] = inputs
    if text is not None:
        body["text"] = text
    return body


def _event(data: str) -> StreamEvent:
    if data.startswith('{"error"'):
        fields = httpx.Response(200, content=data).json()
        raise RequestFailed(fields["error"], status=200, code=fields["error_type"])
    return StreamEvent.model_validate_json(data)


def _failure(response: httpx.Response) -> RequestFailed:
    try:
        fields = response.json()
        message, code = str(fields["error"]), str(fields["error_type"])
    except (ValueError, KeyError, TypeError):  # a proxy's page, not our server's answer
        return RequestFailed(
            f"HTTP {response.status_code}", status=response.status_code, code="http"
        )
    retry_after = response.headers.get("retry-after", "")
    return RequestFailed(
        message,
        status=response.status_code,
        code=code,
        reason=fields.get("reason"),
        retry_after=float(retry_after) if retry_after.isdecimal() else None,
    )


def _unreachable(http: httpx.Client, error: Exception) -> RequestFailed:
    return RequestFailed(f"{http.base_url} gave no answer: {error}")


def _foreign(http: httpx.Client, path: str) -> RequestFailed:
    return RequestFailed(
        f"{http.base_url} does not answer {path} as a JumpLoRA server would: is the address right?",
        status=200,
        code="http",
    )


def _sha256(content: BinaryIO) -> str:
    """Of an open file, which is at its beginning then."""
    content.seek(0)
    digest = hashlib.sha256()
    while chunk := content.read(_HASH_BYTES):
        digest.update(chunk)
    content.seek(0)
    return digest.hexdigest()
