"""What stands where the benchmarks are given an interpreter: a script that serves for it."""

from __future__ import annotations

import sys
from pathlib import Path

_SCRIPT = """#!{python} -S
import json, os, signal, sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

if sys.argv[1] == "-c":  # a question about the package
    {answers_questions}
settings = {{k[9:].lower(): v for k, v in os.environ.items() if k.startswith("JUMPLORA_")}}
settings["arguments"] = sys.argv[1:]
looks = {{}}

class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        looks[self.path] = looks.get(self.path, 0) + 1
        status, body = 200, "fine"
        if self.path == "/settings":
            body = json.dumps(settings)
        if self.path == "/readyz" and looks[self.path] < 3:
            status = 503
        if self.path == "/v1/adapters":
            state = "READY" if looks[self.path] > 2 else "LOADING"
            body = json.dumps({{"adapters": [{{"state": state}}]}})
        self.send_response(status)
        self.end_headers()
        self.wfile.write(body.encode())

    def log_message(self, *_):
        pass

{begin}
ThreadingHTTPServer(("127.0.0.1", int(settings["port"])), Handler).serve_forever()
"""


def fake_interpreter(
    folder: Path, begin: str = "", *, answers_questions: str = "sys.exit(1)"
) -> Path:
    """A server that is ready at the third look, and has loaded all at the third look at that.

    `begin` are lines of Python that run before it listens; `/settings` tells what it was given.
    """
    script = folder / "python"
    text = _SCRIPT.format(python=sys.executable, begin=begin, answers_questions=answers_questions)
    script.write_text(text)
    script.chmod(0o755)
    return script
