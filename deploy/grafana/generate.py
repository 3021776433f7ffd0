"""Writes dashboards/*.json from the boards, after checking that every metric exists.

    python deploy/grafana/generate.py            write the files
    python deploy/grafana/generate.py --check    exit 1 if they are not what would be written

Either way it fails on a query over a metric that no code defines. The server must be installed,
with its extra dev.
"""

from __future__ import annotations

import sys
from pathlib import Path

if __name__ == "__main__":
    # Run as a file, Python looks for modules beside it, not in the repository's root.
    sys.path.insert(0, str(Path(__file__).parents[2]))
    from deploy.grafana.dashboard import main

    raise SystemExit(main())
