"""A server whose every string is markup: the page shows it as text."""

from __future__ import annotations

import json
import re
from typing import Any

import httpx
import pytest
from playwright.sync_api import Browser, Page, Route, expect

from integration.console.chromium import open_page
from integration.console.sites import ADMIN_KEY, Listening

pytestmark = pytest.mark.slow

MARKUP = '</td>"\'><img src=x onerror="window.hacked=1"><script>window.hacked=1</script>'
MADE = "img[src='x'], script:not([src]), td script, [onerror]"


def poisoned(value: Any, spared: frozenset[str] = frozenset()) -> Any:
    """The same with markup in each string, keys of mappings that name things included; fields that
    are `spared` stay as they are."""
    match value:
        case str():
            return MARKUP + value
        case list():
            return [poisoned(each, spared) for each in value]
        case dict():
            named = {"scores", "density", "faults"}
            return {
                key: inner
                if key in spared
                else {MARKUP + name: poisoned(each, spared) for name, each in inner.items()}
                if key in named and isinstance(inner, dict)
                else poisoned(inner, spared)
                for key, inner in value.items()
            }
    return value


class Hostile:
    """Stands between the page and a real server, whose answers it poisons."""

    def __init__(self, url: str) -> None:
        self.spared = frozenset[str]()
        http = httpx.Client(base_url=url, headers={"authorization": f"Bearer {ADMIN_KEY}"})
        with http:
            self.overview = http.get("/v1/overview", params={"limit": 20}).raise_for_status().json()
            task = self.overview["tasks"][0]["task_id"]
            self.detail = http.get(f"/v1/adapters/{task}").raise_for_status().json()
            body = {"task_id": task, "text": "hi", "parameters": {"details": True}}
            streamed = http.post("/generate_stream", json=body).raise_for_status().text
        self.events = [json.loads(line[5:]) for line in streamed.splitlines() if line]

    def on_route(self, route: Route) -> None:
        path = route.request.url.partition("/v1/")[2]
        if path.startswith("overview"):
            route.fulfill(json=poisoned(self.full_overview(), self.spared))
        elif path.startswith("adapters"):
            route.fulfill(json=poisoned(self.detail, self.spared))
        elif route.request.url.endswith("/generate_stream"):
            lines = [f"data:{json.dumps(poisoned(event))}\n\n" for event in self.events]
            route.fulfill(body="".join(lines), content_type="text/event-stream")
        else:
            route.fulfill(status=422, json=poisoned({"error": "no", "error_type": "validation"}))

    def full_overview(self) -> dict[str, Any]:
        """With something everywhere that the page shows."""
        first, *others = self.overview["tasks"]
        names = [line["task_id"] for line in self.overview["tasks"][:3]]
        square = [[None, 0.3, 0.2], [0.3, None, 0.1], [0.2, 0.1, None]]
        run = {
            "run": "run", "method": "m", "gate": "g", "split": "test", "tasks": names,
            "accuracy": [[0.9, None, None], [0.8, 0.7, None], [0.7, 0.6, 0.5]],
            "backward_transfer": -0.1,
        }  # fmt: skip
        event = {"at": "2026-11-28T10:00:00Z", "kind": "failed", "task_id": "t", "version": "v"}
        return {
            **self.overview,
            "server": {**self.overview["server"], "ready": False, "faults": {"store": "it hangs"}},
            "tasks": [
                {**first, "degraded": "it does not load", "accuracy": {"score": "s", "share": 1}},
                *others,
            ],
            "overlap": {"tasks": names, "jaccard": square, "chance": square},
            "runs": [run],
            "events": [{**event, "text": "it failed"}, *self.overview["events"]],
        }


def check_nothing_was_made(page: Page) -> None:
    assert page.evaluate("window.hacked") is None
    assert page.locator(MADE).count() == 0


def test_markup_is_shown_as_text(browser: Browser, thousand: Listening) -> None:
    hostile = Hostile(thousand.url)
    refused = "the server responded with a status of 422"
    with open_page(browser, thousand.url, key=ADMIN_KEY, expected=refused) as page:
        page.route(re.compile(r"/(v1/(overview|adapters)|generate)"), hostile.on_route)
        page.reload()
        names = page.locator(".task-link")
        expect(names.first).to_contain_text(MARKUP)
        for section in ("#strip", "#tasks", "#overlap", "#runs", "#events"):
            expect(page.locator(section)).to_contain_text("<script>window.hacked=1</script>")
        check_nothing_was_made(page)
        names.first.click()
        drawer = page.locator("#drawer")
        expect(drawer).to_be_hidden()  # what is no task id has no drawer
        hostile.spared = frozenset({"task_id"})
        page.reload()
        names.first.click()
        expect(drawer.locator("#drawer-versions li").first).to_be_visible()
        expect(drawer).to_contain_text(MARKUP)
        check_nothing_was_made(page)
        drawer.get_by_role("button", name="Try it").click()
        page.get_by_label("Text", exact=True).fill("hi")
        page.get_by_role("button", name="Generate", exact=True).click()
        expect(page.locator("p.tokens")).to_contain_text(MARKUP)
        expect(page.locator(".answer .timing").first).to_be_visible()
        check_nothing_was_made(page)
        page.get_by_label("Another option").fill("one")
        page.get_by_role("button", name="Add", exact=True).click()
        page.get_by_role("button", name="Choose", exact=True).click()
        expect(page.locator(".refusal")).to_contain_text(MARKUP)
        check_nothing_was_made(page)
