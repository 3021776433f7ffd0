"""The runbook's page about alerts as a dashboard: what to do stands where the alert is seen.

Read from deploy/ALERTS.md, so that there is one text. A link to another page becomes its
words, because Grafana could not follow it.
"""

from __future__ import annotations

import re
from pathlib import Path

from deploy.grafana.panel import Board, Panel, Row

PAGE = Path(__file__).parents[1] / "ALERTS.md"
UID = "jumplora-runbook"


def sections(text: str) -> dict[str, str]:
    """Return what the page says of each alert, by the alert's name, in its order."""
    found = re.findall(r"^## (\w+)\n(.*?)(?=^## |\Z)", text, re.M | re.S)
    return {name: _without_links(body).strip() for name, body in found}


def _without_links(markdown: str) -> str:
    return re.sub(r"\[([^\]]+)\]\((?!https?:)[^)]*\)", r"\1", markdown)


def board(text: str) -> Board:
    """Return the dashboard of the page's text."""
    panels = tuple(
        Panel(
            name,
            "text",
            "short",
            f"What to do about the alert {name}, from deploy/ALERTS.md.",
            (),
            width=12,
            height=9,
            text=body,
        )
        for name, body in sections(text).items()
    )
    return Board(
        UID,
        "runbook",
        "JumpLoRA: runbook",
        "What to do about each alert. The words are those of deploy/ALERTS.md.",
        (Row("Alerts", panels),),
        tags=("jumplora-runbook",),
    )
