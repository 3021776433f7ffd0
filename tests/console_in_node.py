"""Calls functions of the console's modules in node, one process for many calls."""

from __future__ import annotations

import json
import shutil
import subprocess
from importlib.resources import files
from pathlib import Path
from types import TracebackType
from typing import Any, Self

DRIVER = """
import { createInterface } from "node:readline";
for await (const line of createInterface({ input: process.stdin })) {
  const [module, name, args] = JSON.parse(line);
  const plain = (value) => (value instanceof Set ? [...value] : value);
  const result = (await import(`./${module}`))[name](...args);
  const answer = Array.isArray(result) ? result.map(plain) : plain(result);
  console.log(JSON.stringify(answer ?? null));
}
"""


class Console:
    """The console's modules, copied into `folder`. Those that are called need no page."""

    def __init__(self, folder: Path) -> None:
        node = shutil.which("node")
        assert node is not None
        for entry in (files("jumplora_server") / "console").iterdir():
            if entry.name.endswith(".js"):
                (folder / entry.name).write_bytes(entry.read_bytes())
        (folder / "package.json").write_text('{"type": "module"}')
        (folder / "driver.js").write_text(DRIVER)
        self._process = subprocess.Popen(
            [node, str(folder / "driver.js")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            encoding="utf-8",
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        with self._process:
            assert self._process.stdin is not None
            self._process.stdin.close()
            self._process.wait(timeout=10)

    def call(self, module: str, function: str, *arguments: object) -> Any:
        """What the function returns, as JSON has it; sets are lists."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        print(json.dumps([module, function, arguments]), file=self._process.stdin, flush=True)
        line = self._process.stdout.readline()
        assert line, f"{module} {function} threw an error: see node's stderr"
        return json.loads(line)
