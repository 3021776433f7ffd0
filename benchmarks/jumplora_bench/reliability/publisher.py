"""A process that publishes files and is killed after a step of it: `publisher.py STORE BACKBONE`.

Reads a line of JSON {"file", "step"} for each publish; makes it in a child that kills itself with
SIGKILL right after that step (null: never), and prints how the child ended. It imports nothing but
the adapters package, so that any commit's interpreter runs it.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path

from jumplora_adapters.backbone import Backbone, read_backbone
from jumplora_adapters.store import Step, Store


def main(root: Path, folder: Path) -> None:
    """Serve standard input until it ends."""
    backbone = read_backbone(folder)
    for line in sys.stdin:
        order = json.loads(line)
        child = os.fork()  # no thread runs here, and importing again would take seconds
        if child == 0:
            _publish(root, Path(order["file"]), backbone, order["step"])
            os._exit(0)
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        print(json.dumps({"killed": status == -signal.SIGKILL, "status": status}), flush=True)


def _publish(root: Path, file: Path, backbone: Backbone, step: str | None) -> None:
    def die(done: Step) -> None:
        if done == step:
            os.kill(os.getpid(), signal.SIGKILL)

    Store(root, on_step=die).publish(file, backbone)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
