"""`python -m jumplora_server` is `jumplora`."""

from __future__ import annotations

from jumplora_server.cli.main import main

if __name__ == "__main__":
    main()
