"""What keeps people out: axe-core's findings, and the page by keys alone."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from playwright.sync_api import Browser, Page, expect

from integration.console.chromium import Scheme, check_accessible, open_page
from integration.console.sites import ADMIN_KEY, API_KEY, Demo

pytestmark = pytest.mark.slow

MOST_TABS = 60  # to reach what a test looks for


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_has_no_serious_finding(browser: Browser, demo: Demo, scheme: Scheme) -> None:
    with open_page(browser, demo.url, key=ADMIN_KEY, scheme=scheme) as page:
        expect(page.locator("tr[data-task]")).to_have_count(4)
        check_accessible(page)
        page.get_by_role("button", name="agnews", exact=True).first.click()
        drawer = page.get_by_role("dialog", name="agnews")
        expect(drawer.locator("#drawer-versions li").first).to_be_visible()
        check_accessible(page)
        drawer.get_by_role("button", name="Remove…").click()
        expect(page.get_by_role("dialog", name="Remove agnews")).to_be_visible()
        check_accessible(page)
        page.keyboard.press("Escape")
        drawer.get_by_role("button", name="Close").click()
        page.get_by_role("button", name="Compare with…").click()
        page.get_by_label("Text", exact=True).fill("Shares rally as oil prices fall")
        for way in ("Generate", "Choose"):
            page.get_by_role("button", name=way, exact=True).click()
            expect(page.locator(".answer .timing")).to_have_count(2)
            check_accessible(page)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_has_no_serious_finding_on_a_narrow_page(
    browser: Browser, demo: Demo, scheme: Scheme
) -> None:
    with open_page(browser, demo.url, key=API_KEY, scheme=scheme, size=(390, 844)) as page:
        expect(page.locator("tr[data-task]")).to_have_count(4)
        check_accessible(page)
        assert page.evaluate("document.documentElement.scrollWidth") <= 390


def tab_to(page: Page, is_there: str, *, key: str = "Tab") -> None:
    """Press Tab until the focused element fits `is_there`, a selector."""
    for _ in range(MOST_TABS):
        page.keyboard.press(key)
        if page.evaluate("selector => document.activeElement.matches(selector)", is_there):
            return
    raise AssertionError(f"{MOST_TABS} times {key} do not reach {is_there}")


def test_all_of_it_by_keys_alone(browser: Browser, demo: Demo) -> None:
    with open_page(browser, demo.url, key=API_KEY) as page:
        expect(page.locator("tr[data-task]")).to_have_count(4)
        press: Callable[[str], None] = page.keyboard.press
        press("Tab")
        expect(page.locator("a.skip")).to_be_focused()
        press("Enter")
        expect(page.locator("#tasks")).to_be_focused()
        tab_to(page, "tr[data-task] .task-link")
        expect(page.locator('tr[data-task="agnews"] .task-link')).to_be_focused()
        press("ArrowDown")
        link = page.locator('tr[data-task="dbpedia"] .task-link')
        expect(link).to_be_focused()
        press("Enter")
        drawer = page.get_by_role("dialog", name="dbpedia")
        expect(drawer.locator("#drawer-versions li").first).to_be_visible()
        assert page.evaluate("document.activeElement.closest('dialog') !== null")
        press("Escape")
        expect(drawer).to_be_hidden()
        expect(link).to_be_focused()
        tab_to(page, '[aria-label="Try dbpedia"]')
        press("Enter")
        expect(page.get_by_label("Text", exact=True)).to_be_focused()
        page.keyboard.type("The Rhine is a river in Europe.")
        press("Control+Enter")
        answer = page.get_by_role("region", name="Answer", exact=True)
        expect(answer.locator(".timing")).to_be_visible()
        expect(page.locator("#said")).to_contain_text("dbpedia answered")
        assert page.evaluate("document.activeElement !== document.body")
