""" "Try it" where something is in the way: stopped, refused, abstained; and by keys alone."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace

import pytest
from playwright.sync_api import Browser, Locator, Page, expect

from fakes import LIMITS
from integration.console.chromium import open_page
from integration.console.sites import Listening
from jumplora_adapters.manifest import Canary, PromptSpec
from serving import listening, make_site, wait_for

pytestmark = pytest.mark.slow

REFUSALS = "the server responded with a status of"  # Chromium reports each of them
# A prompt of the template, and one that is none.
CANARIES = (Canary(prompt="Sports>", expected="Sports"), Canary(prompt="all", expected="all"))
PROMPT = PromptSpec(template="{text}>", options=("World", "Sports", "Business"))


@pytest.fixture(scope="module")
def tried(browser: Browser, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Listening]:
    """A server that answers a text with the text, and of one task has two versions."""
    site = make_site(tmp_path_factory.mktemp("try"), limits=replace(LIMITS, max_source_tokens=64))
    site.engine.say = lambda prompt, versions: "".join(map(chr, prompt)).partition(">")[0]
    with listening(site) as url:
        for task in ("news", "news", "other"):
            site.publish(task, prompt=PROMPT, canaries=CANARIES if task == "other" else ())
        yield Listening(url, site)


def form(page: Page, text: str) -> Locator:
    """The text field of a form that is ready for the task news."""
    expect(page.get_by_role("combobox", name="Task", exact=True)).to_have_value("news")
    expect(page.get_by_role("checkbox", name="World")).to_be_checked()
    field = page.get_by_label("Text", exact=True)
    field.fill(text)
    return field


def answer(page: Page, name: str = "Answer") -> Locator:
    return page.get_by_role("region", name=name, exact=True)


def test_stop_cancels_the_request(browser: Browser, tried: Listening) -> None:
    site = tried.site
    with open_page(browser, tried.url) as page:
        field = form(page, "World")
        before = site.outcomes("news").get("client_disconnect", 0)
        with site.engine.steps_held():
            field.press("Control+Enter")
            stop = page.get_by_role("button", name="Stop")
            expect(answer(page)).to_have_attribute("aria-busy", "true")
            stop.click()
            expect(answer(page)).to_contain_text("Stopped after 0 tokens")
            expect(stop).to_be_hidden()
            expect(page.get_by_role("button", name="Generate")).to_be_focused()
        wait_for(lambda: site.outcomes("news").get("client_disconnect", 0) == before + 1)
        # The form is ready for the next one.
        field.press("Control+Enter")
        expect(answer(page).locator("p.tokens")).to_contain_text("World")
        expect(field).to_be_focused()


def test_a_text_that_is_too_long_stays_and_says_why(browser: Browser, tried: Listening) -> None:
    with open_page(browser, tried.url, expected=REFUSALS) as page:
        field = form(page, "long " * 20)
        page.get_by_role("button", name="Generate").click()
        alert = answer(page).get_by_role("alert")
        expect(alert).to_contain_text("The text is too long")
        expect(alert).to_contain_text("more than 64 tokens")
        expect(alert).to_contain_text("input_too_long")
        expect(field).to_have_attribute("aria-invalid", "true")
        expect(field).to_have_value("long " * 20)
        # What the message advises can be done here.
        expect(alert).to_contain_text("set “Cut the prompt to” to 64")
        page.get_by_label("Cut the prompt to").fill("64")
        field.press("Control+Enter")
        expect(answer(page).locator("p.tokens")).to_contain_text("long long")
        expect(field).not_to_have_attribute("aria-invalid", "true")


def test_a_task_that_is_not_there(browser: Browser, tried: Listening) -> None:
    with open_page(browser, tried.url, expected=REFUSALS) as page:
        form(page, "World")
        task = page.get_by_role("combobox", name="Task", exact=True)
        task.fill("nothing")
        task.press("Control+Enter")
        expect(answer(page).get_by_role("alert")).to_contain_text("There is no such task")
        expect(task).to_have_attribute("aria-invalid", "true")
        assert task.evaluate("field => field.getAttribute('aria-describedby')") == "try-task-fault"


def test_an_overloaded_server_says_when_to_come_back(browser: Browser, tried: Listening) -> None:
    said = {"error": "256 prompts wait, the most that may", "error_type": "queue_full"}
    with open_page(browser, tried.url, expected=REFUSALS) as page:
        form(page, "World")
        page.route(
            "**/generate_stream",
            lambda route: route.fulfill(
                status=503,
                headers={"retry-after": "7", "content-type": "application/json"},
                body=json.dumps(said),
            ),
        )
        page.get_by_role("button", name="Generate").click()
        alert = answer(page).get_by_role("alert")
        expect(alert).to_contain_text("The server has too much to do")
        expect(alert).to_contain_text("Try again in 7 s.")


def test_examples_are_texts_where_they_are_the_templates(
    browser: Browser, tried: Listening
) -> None:
    with open_page(browser, tried.url) as page:
        field = form(page, "World")
        page.get_by_role("button", name="Try other").click()
        example = page.get_by_role("button", name="Use an example")
        example.click()
        expect(field).to_have_value("Sports")
        expect(page.get_by_role("radio", name="text for the template")).to_be_checked()
        page.get_by_text("The prompt, as the model reads it").click()
        prompt = page.get_by_role("region", name="The prompt")
        expect(prompt).to_have_text("Sports>")
        field.fill("Rain")
        expect(prompt).to_have_text("Rain>")
        example.click()
        expect(field).to_have_value("all")
        expect(page.get_by_role("radio", name="whole prompt")).to_be_checked()
        expect(prompt).to_have_text("all")
        expect(page.get_by_text("no template is put around it")).to_be_visible()
        page.reload()
        expect(field).to_have_value("all")


def test_an_answer_that_was_drawn_can_be_drawn_again(browser: Browser, tried: Listening) -> None:
    with open_page(browser, tried.url, size=(390, 700)) as page:
        field = form(page, "World")
        page.get_by_text("More: length").click()
        page.get_by_label("Temperature").fill("1.5")
        expect(answer(page)).not_to_be_in_viewport()
        field.press("Control+Enter")
        expect(answer(page).locator("p.tokens")).to_be_in_viewport()
        seed = answer(page).locator(".answer-facts div", has_text="Seed").locator("dd").inner_text()
        answer(page).get_by_text("Copy as curl").click()
        code = answer(page).get_by_role("region", name="Code for curl")
        expect(code).to_contain_text(f'"seed": {seed}')


def test_choices_by_keys_and_an_abstention(browser: Browser, tried: Listening) -> None:
    with open_page(browser, tried.url) as page:
        field = form(page, "World")
        field.press("Control+Shift+Enter")
        ranking = answer(page).get_by_role("list", name="Options, the likeliest first")
        expect(ranking.locator("li").first).to_contain_text("✓ World")
        expect(answer(page)).to_contain_text("Not calibrated")
        page.get_by_text("More: length").click()
        page.get_by_label("Least probability").fill("1")
        field.press("Control+Shift+Enter")
        expect(answer(page)).to_contain_text("Abstained: no option is the answer")
        expect(answer(page)).to_contain_text("under the 100.0 % that were asked for")
        expect(ranking.locator("li").first).not_to_contain_text("✓")
        # An option of the reader's own, and then none at all.
        page.get_by_label("Least probability").fill("")
        page.get_by_role("textbox", name="Another option").fill("Weather")
        page.keyboard.press("Enter")
        expect(page.get_by_text("4 of 4 take part.")).to_be_visible()
        field.press("Control+Shift+Enter")
        expect(ranking.locator("li")).to_have_count(4)
        page.get_by_role("button", name="None", exact=True).click()
        field.press("Control+Shift+Enter")
        expect(page.get_by_text("Choose at least one option, or add one.")).to_be_visible()
        expect(page.get_by_role("textbox", name="Another option")).to_be_focused()


def test_two_versions_are_asked_by_their_names(browser: Browser, tried: Listening) -> None:
    services = tried.site.parts.services
    current = services.store.current("news")
    (older,) = {entry.digest for entry in services.store.history("news")} - {current}
    with open_page(browser, tried.url) as page:
        form(page, "World")
        page.get_by_role("button", name="Compare with…").click()
        version = page.get_by_role("combobox", name="Version to compare with")
        expect(version).to_have_value(older[:12])
        page.get_by_role("button", name="Choose").click()
        first, second = answer(page), answer(page, "Second answer")
        expect(first.locator(".answer-facts")).to_contain_text(current[:8])
        expect(second.locator(".answer-facts")).to_contain_text(older[:8])
        expect(page.locator(".verdict")).to_contain_text("Both choose the same")
        rows = page.locator(".differences tbody tr")
        expect(rows).to_have_count(4)  # three options and the mass
        second.get_by_text("Copy as curl").click()
        expect(second.get_by_role("region", name="Code for curl")).to_contain_text(
            f'"task_id": "news@{older[:12]}"'
        )
