"""`python -m jumplora_bench ...` is `jumplora bench ...`."""

from __future__ import annotations

from jumplora_bench.cli import group

if __name__ == "__main__":
    group()()
