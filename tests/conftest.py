"""What holds for every test: no deadline for hypothesis, since machines are shared and slow,
Triton's kernels are interpreted where there is no GPU, no test listens on the default port, nothing
is written into the user's cache folder, and Ctrl-C is not ignored.
"""

from __future__ import annotations

import atexit
import logging
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import settings

from jumplora_server.engine.native.library import built_sets, why_not
from jumplora_server.logs import QUIET
from jumplora_server.settings import Settings

# Triton decides as it is imported, and transformers imports it: so here, before any test module.
if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"

# A shell starts what runs in its background with Ctrl-C ignored; processes of tests inherit that.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# Where several processes share the tests, each has its part of the cores.
if workers := os.environ.get("PYTEST_XDIST_WORKER_COUNT"):
    threads = max(1, (os.cpu_count() or 1) // int(workers))
    os.environ.setdefault("OMP_NUM_THREADS", str(threads))
    torch.set_num_threads(threads)

# For the processes that tests start, too. matplotlib keeps its own: listing fonts takes seconds.
_own = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
os.environ.setdefault("MPLCONFIGDIR", str(_own / "matplotlib"))
os.environ["XDG_CACHE_HOME"] = tempfile.mkdtemp(prefix="jumplora-tests-")
atexit.register(shutil.rmtree, os.environ["XDG_CACHE_HOME"], ignore_errors=True)

settings.register_profile("no deadline", deadline=None)
settings.load_profile("no deadline")


def pytest_sessionstart() -> None:
    """Kernels of another version would have the native tests skipped, and the run still green."""
    for reason in map(why_not, built_sets()):
        if "interface" in (reason or ""):
            raise pytest.UsageError(reason)


DEFAULT_PORT = Settings.model_fields["port"].default


def _keep_off_the_default_port(event: str, arguments: tuple[Any, ...]) -> None:
    """A test that listens on the default port fails here, not only beside a running server."""
    if event == "socket.bind" and arguments[1][1:2] == (DEFAULT_PORT,):
        raise AssertionError(f"a test binds port {DEFAULT_PORT}; give the server port 0")


sys.addaudithook(_keep_off_the_default_port)


@pytest.fixture(autouse=True)
def _logs_as_before() -> Iterator[None]:
    """A command that runs in the tests' process sets up its logs; the next test has its own."""
    root = logging.getLogger()
    handlers = root.handlers[:]
    levels = {logger: logger.level for logger in (root, *map(logging.getLogger, QUIET))}
    yield
    logging.captureWarnings(False)
    root.handlers[:] = handlers
    for logger, level in levels.items():
        logger.setLevel(level)


@pytest.fixture
def plain_shell(monkeypatch: pytest.MonkeyPatch) -> None:
    """A shell without settings of ours, whose lines are long and have no colour."""
    for key in list(os.environ):
        if key.startswith("JUMPLORA_"):
            monkeypatch.delenv(key)
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setenv("NO_COLOR", "1")
