"""Compiles the engine's native kernels when the package is installed, where that is possible.

Without a C++20 compiler, or on another platform than Linux on x86-64 and 64-bit ARM, nothing is
built and the engine computes with torch: slower, and the server says so when it starts.
NATIVE_KERNELS=off asks for that, NATIVE_KERNELS=required makes a failure an error.
"""

from __future__ import annotations

import os
import runpy
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

FOLDER = Path("server/jumplora_server/engine/native")


class KernelHook(BuildHookInterface):  # type: ignore[misc]
    """Builds the libraries beside their Python and marks the wheel as one for this platform."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        wish = os.environ.get("NATIVE_KERNELS", "auto")
        if wish not in ("auto", "off", "required"):
            raise ValueError(f"NATIVE_KERNELS is {wish!r}; allowed are auto, off, required")
        if self.target_name != "wheel":
            return
        root = Path(self.root)
        if wish == "off":
            _remove(root)
            return
        # Not imported: the package is not installed yet, and its dependencies are not either.
        builder = runpy.run_path(str(root / FOLDER / "build.py"))
        try:
            built = builder["build"]()
        except (OSError, builder["NotBuilt"], subprocess.CalledProcessError) as error:
            if wish == "required":
                raise
            _remove(root)
            print(f"the native kernels were not built: {error}", file=sys.stderr)
            return
        build_data["pure_python"] = False
        # Any CPython 3 will do: the libraries are loaded through ctypes.
        tag = sysconfig.get_platform().replace("-", "_").replace(".", "_")
        build_data["tag"] = f"py3-none-{tag}"
        build_data["artifacts"].extend(str(path.relative_to(root)) for path in built)


def _remove(root: Path) -> None:
    for library in (root / FOLDER).glob("_kernels*.so"):
        library.unlink()


if __name__ == "__main__":
    runpy.run_path(str(Path(__file__).parent / FOLDER / "build.py"), run_name="__main__")
