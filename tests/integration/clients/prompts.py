"""What all clients ask: two texts of the demo's first task, and one of another."""

from __future__ import annotations

from pathlib import Path

SPORTS = "The striker scored twice as the home side won the cup final."
BUSINESS = "Shares of the bank fell after it cut its profit forecast for the year."
VILLAGE = "Kosnica is a village in the administrative district of Gmina Wielka, in western Poland."
_CURRENT = Path(__file__).parents[3] / "adapters/demo/store/agnews/current"
VERSIONED = f"agnews@{_CURRENT.read_text(encoding='utf-8')[:8]}"
OPTIONS = ["World", "Sports", "Business", "Science or Technology"]


def prompt(text: str) -> str:
    """The whole prompt, as the manifest of the demo's `agnews` has it."""
    return (
        "Task Instruction: What is the topic of the following paragraph? Choose one from the "
        f"option.\nOptions: {', '.join(OPTIONS)}\nText: {text}\nAnswer:"
    )
