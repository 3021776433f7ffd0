"""What `publish` sends: an adapter file as it is, or a PEFT folder as a tar."""

from __future__ import annotations

import asyncio
import hashlib
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from jumplora_adapters.archives.pack import pack
from jumplora_adapters.errors import AdapterError
from jumplora_adapters.regular_file import open_regular
from jumplora_server.client.errors import InputRefused

CHUNK_BYTES = 1024 * 1024
OnSent = Callable[[int, int], None]
"""Called with the bytes that are sent so far, and with all there are; a new try begins at 0."""


@dataclass(frozen=True, slots=True)
class Upload:
    """An open file with its SHA-256 and its length in bytes."""

    file: BinaryIO
    sha256: str
    length: int

    def chunks(self, on_sent: OnSent | None = None) -> Iterator[bytes]:
        """All of it, each time from the beginning."""
        self.file.seek(0)
        sent = 0
        while chunk := self.file.read(CHUNK_BYTES):
            yield chunk
            sent += len(chunk)
            if on_sent is not None:
                on_sent(sent, self.length)


@contextmanager
def opened(path: Path) -> Iterator[Upload]:
    """Raises InputRefused for what cannot be read, and for a folder without what PEFT saves."""
    with ExitStack() as stack:
        try:
            upload = _read(path, stack)
        except AdapterError as error:
            raise InputRefused(error.message, code="input") from error
        except (OSError, ValueError) as error:  # ValueError: a path with a zero byte
            why = error.strerror if isinstance(error, OSError) else None
            raise InputRefused(f"{path} cannot be read: {why or error}", code="input") from error
        yield upload


def _read(path: Path, stack: ExitStack) -> Upload:
    file: BinaryIO
    if path.is_dir():
        file = tempfile.TemporaryFile()  # noqa: SIM115 (the stack closes it)
    else:  # a pipe would be waited for
        file = open(open_regular(path, follow_links=True), "rb")  # noqa: SIM115
    stack.enter_context(file)
    if path.is_dir():
        pack(path, file)
    digest, length = hashlib.sha256(), 0
    file.seek(0)
    while chunk := file.read(CHUNK_BYTES):
        digest.update(chunk)
        length += len(chunk)
    return Upload(file, digest.hexdigest(), length)


@asynccontextmanager
async def opened_on_threads(path: Path) -> AsyncIterator[Upload]:
    """The same, and the event loop does not wait for the disk."""
    opening = opened(path)
    upload = await asyncio.to_thread(opening.__enter__)
    try:
        yield upload
    finally:
        await asyncio.to_thread(opening.__exit__, None, None, None)
