"""The console on the demo, clicked through: keys, answers, changes."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Locator, Page, expect

from integration.console.chromium import REFUSED, open_page
from integration.console.sites import ADMIN_KEY, API_KEY, Demo

pytestmark = pytest.mark.slow

TEXT = "Wall St. climbs as oil prices fall and tech shares rally"


def row(page: Page, task: str) -> Locator:
    return page.locator(f'tr[data-task="{task}"]')


def button(place: Page | Locator, name: str) -> Locator:
    return place.get_by_role("button", name=name, exact=True)


def open_drawer(page: Page, task: str) -> Locator:
    button(row(page, task), task).click()
    drawer = page.get_by_role("dialog", name=task)
    expect(drawer.locator("#drawer-versions li").first).to_be_visible()
    return drawer


def ask_it(page: Page, task: str, way: str, text: str = TEXT) -> Locator:
    """Ask by the form; its finished answer."""
    button(row(page, task), f"Try {task}").click()
    expect(page.get_by_role("combobox", name="Task", exact=True)).to_have_value(task)
    page.get_by_label("Text", exact=True).fill(text)
    button(page, way).click()
    return finished(page, "Answer")


def finished(page: Page, name: str) -> Locator:
    answer = page.get_by_role("region", name=name, exact=True)
    expect(answer.locator(".timing")).to_be_visible()
    expect(answer).not_to_have_attribute("aria-busy", "true")
    return answer


def test_a_key_is_asked_for(browser: Browser, demo: Demo) -> None:
    with open_page(browser, demo.url, expected=REFUSED) as page:
        field = page.get_by_label("Key", exact=True)
        expect(page.get_by_text("Needs a key")).to_be_visible()
        expect(row(page, "agnews")).to_have_count(0)
        field.fill("a-wrong-key")
        button(page, "Use this key").click()
        expect(page.locator("#key-why")).to_contain_text("refused this key")
        field.fill(API_KEY)
        button(page, "Use this key").click()
        expect(row(page, "agnews")).to_be_visible()
        expect(page.locator("#server-ready")).to_have_text("Ready")
        assert page.evaluate("Object.keys(localStorage).concat(document.cookie || [])") == []


def test_an_api_key_looks_and_changes_nothing(browser: Browser, demo: Demo) -> None:
    with open_page(browser, demo.url, key=API_KEY, expected=REFUSED) as page:
        expect(row(page, "agnews")).to_be_visible()
        publish = button(page, "Publish a task")
        expect(publish).to_be_disabled()
        publish.dispatch_event("click")  # playwright waits for a button that is allowed
        expect(page.locator("#no-publishing")).to_contain_text("takes an admin key")
        expect(page.get_by_role("dialog")).to_have_count(0)
        expect(button(page, "Reading key")).to_be_visible()
        drawer = open_drawer(page, "agnews")
        for name in ("Load now", "Pin", "Publish a version…", "Remove…"):
            expect(button(drawer, name)).to_be_disabled()
            button(drawer, name).dispatch_event("click")
            expect(page.locator("#said")).to_contain_text("Changes are off")
            expect(page.get_by_role("dialog")).to_have_count(1)
        expect(drawer.locator("#why-not")).to_contain_text("admin key")
        # The server refuses it too, if the page did ask.
        pin = button(drawer, "Pin")
        pin.evaluate("button => button.removeAttribute('aria-disabled')")
        pin.click()
        expect(drawer.get_by_role("alert").first).to_contain_text("changing adapters takes admin")
        assert demo.ask("GET", "/v1/adapters/agnews")["pinned"] is False


def test_an_answer_is_streamed_token_by_token_in_order(browser: Browser, demo: Demo) -> None:
    body = {"task_id": "agnews", "text": TEXT, "parameters": {"details": True}}
    said = demo.ask("POST", "/generate", json=body)
    with open_page(browser, demo.url, key=API_KEY) as page:
        expect(row(page, "agnews")).to_be_visible()
        with page.expect_response("**/generate_stream") as response:
            answer = ask_it(page, "agnews", "Generate")
        assert response.value.headers["content-type"].startswith("text/event-stream")
        tokens = answer.locator("p.tokens .token")
        expect(tokens).to_have_count(said["details"]["generated_tokens"])
        shown = [text.strip() for text in tokens.all_text_contents()]
        assert shown[:-1] == [token["text"].strip() for token in said["details"]["tokens"][:-1]]
        assert said["generated_text"] in answer.locator("p.tokens").inner_text()
        answer.get_by_text("Tokens as a table").click()
        rows = answer.locator(".token-table tbody tr")
        expect(rows).to_have_count(said["details"]["generated_tokens"])
        first = said["details"]["tokens"][0]["logprob"]
        assert float(rows.first.locator("td").first.inner_text().replace("−", "-")) == (
            pytest.approx(first, abs=0.01)
        )
        parts = ["queue", "encode", "decode", "other"]
        expect(answer.locator(".timing .key li")).to_contain_text(parts)


def percent_in(place: Locator) -> float:
    found = re.search(r"([\d.]+) %", place.inner_text())
    assert found is not None, place.inner_text()
    return float(found[1])


def test_choices_are_bars_with_their_mass(browser: Browser, demo: Demo) -> None:
    parameters = {"choices": True, "details": True}
    body = {"task_id": "agnews", "text": TEXT, "parameters": parameters}
    details = demo.ask("POST", "/generate", json=body)["details"]
    with open_page(browser, demo.url, key=API_KEY) as page:
        expect(row(page, "agnews")).to_be_visible()
        answer = ask_it(page, "agnews", "Choose")
        bars = answer.get_by_role("list", name="Options, the likeliest first").locator("li")
        assert bars.count() == len(details["choices"]) == 4
        for bar, option in zip(bars.all(), details["choices"], strict=True):
            expect(bar).to_contain_text(option["text"])
            assert percent_in(bar) == pytest.approx(100 * option["probability"], abs=0.11)
        assert percent_in(answer.locator("div.mass")) == pytest.approx(
            100 * details["mass"], abs=0.11
        )
        # Without one of its options, the others share the answer.
        page.locator(".chip", has_text="Business").click()
        button(page, "Choose").click()
        expect(bars).to_have_count(3)


def test_two_tasks_are_compared(browser: Browser, demo: Demo) -> None:
    with open_page(browser, demo.url, key=API_KEY) as page:
        expect(row(page, "agnews")).to_be_visible()
        ask_it(page, "agnews", "Generate")
        button(page, "Compare with…").click()
        other = page.get_by_role("combobox", name="Compare with", exact=True)
        other.fill("dbp")
        page.get_by_role("option", name="dbpedia").click()
        expect(other).to_have_value("dbpedia")
        button(page, "Generate").click()
        first, second = finished(page, "Answer"), finished(page, "Second answer")
        expect(first.get_by_role("heading")).to_have_text("agnews")
        expect(second.get_by_role("heading")).to_have_text("dbpedia")
        expect(page.locator(".verdict")).to_contain_text("The answers differ")
        assert page.locator(".token.differs").count() >= 2


def test_a_version_is_published_asked_and_rolled_back(browser: Browser, demo: Demo) -> None:
    before, history = demo.versions("register")
    file = demo.another_version("register", 0.875)
    with open_page(browser, demo.url, key=ADMIN_KEY) as page:
        publish(page, "register", file)
        published, versions = demo.versions("register")
        assert versions == [*history, published]
        assert published != before
        expect(row(page, "register")).to_contain_text("87.5 %")
        expect(row(page, "register")).to_contain_text(published[:8])
        compare_versions(page, before)
        roll_back(page, before)
        assert demo.versions("register")[0] == before
        expect(row(page, "register")).to_contain_text(before[:8])
        events = page.locator(".event-list li", has_text="register")
        expect(events.filter(has_text="rolled back").first).to_contain_text(before[:8])


def test_a_task_is_published_and_removed(browser: Browser, demo: Demo) -> None:
    file = demo.another_version("subject", 0.5, other_task="topics-of-school")
    with open_page(browser, demo.url, key=ADMIN_KEY, expected=REFUSED) as page:
        expect(row(page, "subject")).to_be_visible()
        button(page, "Publish a task").click()
        form = page.get_by_role("dialog", name="Publish a task")
        form.get_by_label("File").set_input_files(file)
        form.get_by_label("Task id").fill("subject")
        button(form, "Publish").click()
        expect(form.get_by_role("alert")).to_contain_text("is there already")
        form.get_by_label("Task id").fill("topics-of-school")
        button(form, "Publish").click()
        expect(form.locator(".note.good")).to_contain_text("is published and answers")
        button(form, "Close").click()
        drawer = page.get_by_role("dialog", name="topics-of-school")
        button(drawer, "Remove…").click()
        form = page.get_by_role("dialog", name="Remove topics-of-school")
        expect(button(form, "Remove")).to_be_disabled()
        form.get_by_label("Type topics-of-school to confirm").fill("topics-of-school")
        button(form, "Remove").click()
        expect(form).to_have_count(0)
        expect(row(page, "topics-of-school")).to_have_count(0)
        listed = demo.ask("GET", "/v1/adapters")["adapters"]
        assert "topics-of-school" not in {adapter["task_id"] for adapter in listed}


def publish(page: Page, task: str, file: Path) -> None:
    """A file by the drawer's form, which wants the task's name typed."""
    drawer = open_drawer(page, task)
    button(drawer, "Publish a version…").click()
    form = page.get_by_role("dialog", name=f"Publish a version of {task}")
    send = button(form, "Publish")
    form.get_by_label("File").set_input_files(file)
    expect(send).to_be_disabled()
    form.get_by_label(f"Type {task} to confirm").fill(task[:-1])
    expect(send).to_be_disabled()
    form.get_by_label(f"Type {task} to confirm").fill(task)
    send.click()
    expect(form.locator(".note.good")).to_contain_text("is published and answers")
    button(form, "Close").click()
    expect(drawer.locator("#drawer-versions li")).to_have_count(2)
    expect(drawer.locator("#drawer-versions li").first).to_contain_text("published")
    button(drawer, "Close").click()


def compare_versions(page: Page, older: str) -> None:
    """The current version beside an older one, which answers the same."""
    ask_it(page, "register", "Choose", "I am writing to complain about the invoice.")
    button(page, "Compare with…").click()
    version = page.locator("#try-other-version")
    version.select_option(older[:12])
    button(page, "Choose").click()
    finished(page, "Second answer")
    expect(page.locator(".verdict")).to_contain_text("Both choose the same")


def roll_back(page: Page, version: str) -> None:
    drawer = open_drawer(page, "register")
    button(drawer, f"Roll back to version {version[:8]}").click()
    form = page.get_by_role("dialog", name="Roll back register")
    go = button(form, "Roll back")
    expect(go).to_be_disabled()
    form.get_by_label("Type register to confirm").fill("register")
    go.click()
    expect(form).to_have_count(0)
    expect(drawer.locator(f'li[data-version="{version}"]')).to_contain_text("answers")
    button(drawer, "Close").click()
