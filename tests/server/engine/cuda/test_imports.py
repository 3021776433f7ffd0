"""Serving on a CPU needs no Triton."""

from __future__ import annotations

import os
import subprocess
import sys

WITHOUT = "import sys; sys.modules['triton'] = None; import jumplora_server.app"


def test_the_server_imports_where_there_is_no_triton() -> None:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
