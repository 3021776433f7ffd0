"""The colour that each panel of one number gets for a good and for a bad value."""

from __future__ import annotations

from typing import Any

import pytest
from deploy.grafana.panel import NEUTRAL, Said, Thresholds, stat

from integration.grafana import FILES, panels_of

NOTHING = None
GOOD = {"green"}
BAD = {"yellow", "orange", "red"}

# By title: values and their colours. A number of which no value is bad has "text" for all of them.
EXPECTED: dict[str, dict[float | None, str]] = {
    "Servers up": {0: "red", 1: "green", 7: "green", NOTHING: "text"},
    "Servers down": {0: "green", 1: "red", 3: "red", NOTHING: "text"},
    "Alerts firing": {0: "green", 1: "red", 9: "red", NOTHING: "text"},
    "Tasks ready": {0: "text", 200: "text"},
    "Tasks degraded": {0: "green", 1: "red", 3: "red"},
    "Tasks failed": {0: "green", 1: "red", 3: "red"},
    "Requests": {0: "text", 500: "text"},
    "Failed": {0: "green", 0.0009: "green", 0.001: "yellow", 0.01: "yellow", 0.05: "red", 1: "red"},
    "Budget burn, 1 h": {0: "green", 0.9: "green", 2: "yellow", 7: "orange", 14.5: "red"},
    "Within objective": {1: "green", 0.95: "green", 0.94: "red", 0: "red", NOTHING: "text"},
    "p95 request": {0.1: "green", 0.6: "yellow", 1.5: "red", 60: "red", NOTHING: "text"},
    "p95 first token": {0.1: "text", 60: "text"},
    "Tokens generated": {0: "text", 5000: "text"},
    "In flight": {0: "text", 500: "text"},
    "Waiting a server": {0: "green", 3: "green", 5: "yellow"},
    "Refused": {0: "green", 0.01: "red", 100: "red"},
    "Rows in use": {0: "green", 0.5: "green", 1: "yellow"},
    "Adapter budget": {0.2: "green", 0.95: "yellow", 1.1: "red"},
    "Adapters resident": {0: "text", 5e9: "text"},
    "Process memory": {1e9: "text", 5e10: "text"},
    "Serving": {0: "green", 1: "red", NOTHING: "text"},
    "Versions at once": {1: "green", 2: "yellow"},
    "Canary accuracy": {1: "green", 0.6: "yellow", 0.3: "red", NOTHING: "text"},
    "Density": {0.05: "text", 1: "text"},
    "Pushed out a minute": {0: "green", 1: "yellow", 7: "red"},
    "Engine": {0: "green", 0.1: "green", 8: "yellow", 40: "red", NOTHING: "text"},
    "Store": {0: "green", 1: "red"},
    "File of keys": {0: "green", 1: "red"},
    "p95 event loop lag": {0.001: "green", 0.06: "yellow", 0.2: "red", NOTHING: "text"},
    "Loader and watcher": {0: "green", 45: "yellow", 300: "red"},
    "Cores in use": {0: "text", 64: "text"},
    "File descriptors": {0.1: "green", 0.85: "yellow", 0.99: "red"},
    "Restarts": {0: "green", 1: "yellow", 3: "red"},
}
STATS = [
    pytest.param(panel, id=f"{name} {row}: {panel['title']}")
    for name, board in FILES.items()
    for row, panel in panels_of(board)
    if panel["type"] == "stat"
]


def colour_of(panel: dict[str, Any], value: float | None) -> str:
    """Return the colour that Grafana gives a value: a mapping's, else the last step's reached."""
    defaults = panel["fieldConfig"]["defaults"]
    assert defaults["color"] == {"mode": "thresholds"}
    assert defaults["thresholds"]["mode"] == "absolute"
    for mapping in defaults["mappings"]:
        if mapping["type"] == "special" and value is None:
            return str(mapping["options"]["result"]["color"])
        if mapping["type"] == "value" and value is not None:
            for said, result in mapping["options"].items():
                if float(said) == value:
                    return str(result["color"])
    assert value is not None, "nothing is said of no value"
    steps = defaults["thresholds"]["steps"]
    assert steps[0]["value"] is None, "the first step holds for all values"
    bounds = [step["value"] for step in steps[1:]]
    assert bounds == sorted(set(bounds)), "steps have to ascend"
    reached = [step["color"] for step in steps[1:] if value >= step["value"]]
    return str([steps[0]["color"], *reached][-1])


@pytest.mark.parametrize("panel", STATS)
def test_each_value_has_the_colour_of_its_meaning(panel: dict[str, Any]) -> None:
    expected = EXPECTED[panel["title"]]
    assert {value: colour_of(panel, value) for value in expected} == expected


@pytest.mark.parametrize("panel", STATS)
def test_a_number_says_what_it_is(panel: dict[str, Any]) -> None:
    defaults = panel["fieldConfig"]["defaults"]
    assert defaults["unit"]
    assert defaults["noValue"]
    assert {"null+nan"} == {
        mapping["options"]["match"]
        for mapping in defaults["mappings"]
        if mapping["type"] == "special"
    }
    colours = {step["color"] for step in defaults["thresholds"]["steps"]}
    if colours == {"text"}:
        assert panel["options"]["colorMode"] == "none"
    else:
        assert panel["options"]["colorMode"] in ("value", "background")
        assert colours & GOOD, "no value of it would be good"
        assert colours & BAD, "no value of it would be bad"
    # A range's last number stays after its series ended.
    assert [(t["instant"], t["range"]) for t in panel["targets"]] == [(True, False)]
    assert panel["options"]["graphMode"] == "none"


@pytest.mark.parametrize("panel", STATS)
def test_words_agree_with_the_steps(panel: dict[str, Any]) -> None:
    """A mapped value has the colour that the thresholds would give it, so neither misleads."""
    steps = panel["fieldConfig"]["defaults"]["thresholds"]["steps"]
    for mapping in panel["fieldConfig"]["defaults"]["mappings"]:
        if mapping["type"] != "value":
            continue
        for said, result in mapping["options"].items():
            reached = [s["color"] for s in steps if s["value"] is None or float(said) >= s["value"]]
            assert result["color"] == reached[-1], said


def test_every_number_has_its_expectation() -> None:
    titles = {
        panel["title"]
        for board in FILES.values()
        for _, panel in panels_of(board)
        if panel["type"] == "stat"
    }
    assert titles == EXPECTED.keys()


def test_expectations_have_a_good_and_a_bad_value() -> None:
    for title, colours in EXPECTED.items():
        found = set(colours.values()) - {"text"}
        assert not found or (found & GOOD and found & BAD), title


def test_steps_that_descend_or_say_the_contrary_are_seen() -> None:
    """The test above would have failed on the dashboard before: Grafana's own default steps."""
    default = {
        "mode": "absolute",
        "steps": [{"value": None, "color": "green"}, {"value": 80, "color": "red"}],
    }
    field = {"color": {"mode": "thresholds"}, "thresholds": default, "mappings": []}
    panel = {"fieldConfig": {"defaults": field}}
    assert colour_of(panel, 0.05) == "green"  # 5 % failed
    assert colour_of(panel, 5e9) == "red"  # bytes without a limit
    assert EXPECTED["Failed"][0.05] == "red"
    assert EXPECTED["Adapters resident"][5e9] == "text"


def test_a_number_without_thresholds_is_neutral() -> None:
    assert stat("T", "bytes", "d", "up").thresholds == NEUTRAL == Thresholds("text")
    assert stat("T", "short", "d", "up", says=(Said(0, "None", "green"),)).says[0].text == "None"
