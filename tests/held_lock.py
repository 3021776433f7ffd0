"""The store's lock in another's hands, for tests of those that wait for it."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def lock_held(root: Path) -> Iterator[None]:
    """As another process would hold it: flock takes two descriptors for two holders."""
    descriptor = os.open(root / ".lock", os.O_RDWR | os.O_CREAT)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
