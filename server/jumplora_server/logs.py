"""One line for each thing that happened, as text or JSON. No prompts, no keys.

Names and messages in it may come from requests and adapters: a line shows them bounded, a text
line with what would act on a terminal as escapes. `fields` of a record (`extra={"fields": {...}}`)
become columns of the line; its `stack` (a text of several lines) is written as a traceback is.
"""

from __future__ import annotations

import json
import logging
import sys
from datetime import UTC, datetime
from typing import Literal, TextIO

from jumplora_adapters.printable import printable, shown

MAX_MESSAGE_CHARS = 8192
MAX_FIELD_CHARS = 1024
MAX_TRACEBACK_CHARS = 65_536
QUIET = ("httpx", "httpcore", "asyncio", "filelock", "urllib3")


class JsonLines(logging.Formatter):
    """`{"time", "level", "logger", "message", ...fields}`."""

    def format(self, record: logging.LogRecord) -> str:
        """One JSON object on one line; a traceback is one string in it."""
        line: dict[str, object] = {
            "time": _time(record),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": _cut(record.getMessage(), MAX_MESSAGE_CHARS),
            **{
                key: _cut(value, MAX_FIELD_CHARS) if isinstance(value, str) else value
                for key, value in _fields(record).items()
            },
        }
        if record.exc_info:
            line["traceback"] = _traceback(self, record)
        if stack := getattr(record, "stack", None):
            line["stack"] = stack
        # The one acting character that JSON leaves as it is in ASCII.
        return json.dumps(line, default=str).replace("\x7f", "\\u007f")


class TextLines(logging.Formatter):
    """`time level logger message key=value ...`."""

    def format(self, record: logging.LogRecord) -> str:
        """One line, and a traceback below it if there is one."""
        columns = " ".join(
            f"{key}={shown(str(value), MAX_FIELD_CHARS)}" for key, value in _fields(record).items()
        )
        message = shown(record.getMessage(), MAX_MESSAGE_CHARS)
        line = f"{_time(record)} {record.levelname:<7} {record.name} {message} {columns}".rstrip()
        below = _traceback(self, record).split("\n") if record.exc_info else []
        below += str(getattr(record, "stack", "")).rstrip().split("\n")
        # Its own line ends stay; one inside an exception's text looks the same as they do.
        return "\n".join((line, *map(printable, filter(None, below))))


def configure(form: Literal["text", "json"], level: str, stream: TextIO | None = None) -> None:
    """Send everything, the HTTP server's lines and warnings too, to `stream` (standard error)."""
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(JsonLines() if form == "json" else TextLines())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    logging.captureWarnings(True)  # they may name what lies in the store
    for name in ("uvicorn", "uvicorn.error", "uvicorn.access"):
        logger = logging.getLogger(name)
        logger.handlers.clear()
        logger.propagate = True
    for name in QUIET:
        logging.getLogger(name).setLevel(logging.WARNING)


def _fields(record: logging.LogRecord) -> dict[str, object]:
    fields = getattr(record, "fields", None)
    return fields if isinstance(fields, dict) else {}


def _time(record: logging.LogRecord) -> str:
    moment = datetime.fromtimestamp(record.created, UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _traceback(formatter: logging.Formatter, record: logging.LogRecord) -> str:
    assert record.exc_info
    text = formatter.formatException(record.exc_info)
    if len(text) <= MAX_TRACEBACK_CHARS:
        return text
    half = MAX_TRACEBACK_CHARS // 2  # what was called first, and what went wrong
    return f"{text[:half]}\n... ({len(text) - 2 * half} more characters) ...\n{text[-half:]}"


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[:most]}... ({len(text) - most} more characters)"
