"""An engine in this process that answers rows as a server does, without HTTP.

The parts are a server's: its loop, its residency, its dialect. Only the queue's limits are wide,
because a window of rows is all that waits.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Iterator
from contextlib import asynccontextmanager
from typing import TypeVar

from pydantic import ValidationError

from jumplora_adapters.errors import AdapterError
from jumplora_server.access.caller import ANYBODY
from jumplora_server.api.answering import answered
from jumplora_server.api.ask import RequestRecord
from jumplora_server.api.errors import as_server_error, fault_of, validation_message
from jumplora_server.api.schemas import GenerateRequest, GenerateResponse
from jumplora_server.api.tgi import named_task, to_ask
from jumplora_server.api.tgi_writer import TgiWriter
from jumplora_server.app import Parts, running
from jumplora_server.batch.results import Failure, Outcome
from jumplora_server.batch.rows import Question
from jumplora_server.batch.run import Answers
from jumplora_server.batch.window import in_order
from jumplora_server.errors import ServerError
from jumplora_server.services import Services
from jumplora_server.settings import Settings, load_settings

WINDOWS = 4  # rows that are read ahead, for each that is computed
_LONGEST_SECONDS = "3600"
# What a server guards against does not happen here; a flag or variable for these has no effect.
_WIDE = {
    "task_share": "1",
    "max_queued_requests": "1000000",
    "max_queued_tokens": "1000000000",
    "request_timeout": _LONGEST_SECONDS,
    "max_overlap_tasks": "0",  # a metric, which nothing reads here
}
T = TypeVar("T")


def offline_settings(**flags: str) -> Settings:
    """Settings as a server has them, from flags and the environment. Raises SettingsError."""
    return load_settings(
        **{**flags, **_WIDE, "keys_file": None}
    )  # there are no requests from outside


@asynccontextmanager
async def offline(parts: Parts) -> AsyncGenerator[Answers]:
    """Start the parts of a server; yields what answers rows."""
    settings = parts.services.settings
    window = WINDOWS * (settings.max_rows + settings.spare_rows)

    async def answer(row: Question) -> Outcome:
        return await _answer(parts.services, row)

    def answers(rows: Iterator[Question], /) -> AsyncGenerator[tuple[Question, Outcome]]:
        return in_order(rows, answer, window)

    async with running(parts):
        yield answers


async def _answer(services: Services, row: Question) -> Outcome:
    try:
        request = GenerateRequest.model_validate(row.body)
        ask = to_ask(ANYBODY, request, named_task(request))
        record = RequestRecord(request_id=f"line {row.line}")
        whole = await answered(services, record, ask, TgiWriter(ask), _wait)
    except ValidationError as error:
        return Failure("validation", validation_message(error.errors()))
    except AdapterError as error:
        return _failure(as_server_error(error))
    except ServerError as error:
        return _failure(error)
    return GenerateResponse.model_validate_json(whole.content)


async def _wait(work: Awaitable[T], seconds: float) -> T:
    """Until it is done: the engine ends sequences at their deadline, the watchdog a hung step."""
    del seconds
    return await work


def _failure(error: ServerError) -> Failure:
    fault = fault_of(error)
    return Failure(fault.code, fault.message)
