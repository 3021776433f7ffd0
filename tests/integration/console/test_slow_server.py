"""The console beside a server whose answers come late, in another order, or not at all.

Requests of the page are held, answered or aborted before they reach the server.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Locator, Page, Route, expect

from integration.console.chromium import open_page
from integration.console.sites import ADMIN_KEY, Listening
from jumplora_adapters.manifest import PromptSpec
from serving import listening, make_site, wait_for

pytestmark = pytest.mark.slow

FAILED = "Failed to load resource"  # which Chromium reports of what is refused or aborted
TASKS = ("alpha", "beta")
ADAPTER = re.compile(r"/v1/adapters/alpha$")
# Two minutes are a quarter of a second: the longest that the page waits for a change.
HASTE = """
const timeout = AbortSignal.timeout.bind(AbortSignal);
const setTimeout = window.setTimeout.bind(window);
const short = (ms) => (ms === 120_000 ? 250 : ms);
AbortSignal.timeout = (ms) => timeout(short(ms));
window.setTimeout = (f, ms, ...rest) => setTimeout(f, short(ms), ...rest);
"""
LOOK_NOW = "document.dispatchEvent(new Event('visibilitychange'))"


@pytest.fixture(scope="module")
def slow(browser: Browser, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Listening]:
    """A server of two tasks, of which alpha has two versions."""
    site = make_site(tmp_path_factory.mktemp("slow"))
    prompt = PromptSpec(template="{text}>", options=("World", "Sports"))
    with listening(site) as url:
        for task in (TASKS[0], *TASKS):
            site.publish(task, prompt=prompt)
        yield Listening(url, site)


@contextmanager
def at(
    browser: Browser, slow: Listening, task: str | None = None, *, expected: str = FAILED
) -> Iterator[Page]:
    """The page for an admin key, with a task's drawer open."""
    path = "/" if task is None else f"/#task={task}"
    with open_page(browser, slow.url, path, key=ADMIN_KEY, expected=expected) as page:
        expect(page.locator("tr[data-task]")).to_have_count(len(TASKS))
        if task is not None:
            expect(drawer(page, task).locator("#drawer-versions li").first).to_be_visible()
        yield page


def drawer(page: Page, task: str) -> Locator:
    return page.get_by_role("dialog", name=task, exact=True)


def button(place: Page | Locator, name: str) -> Locator:
    return place.get_by_role("button", name=name, exact=True)


def go_to(page: Page, task: str) -> Locator:
    """To another task's drawer, as the browser's own keys go back and forth."""
    page.evaluate("task => (location.hash = `task=${task}`)", task)
    expect(drawer(page, task).locator("#drawer-versions li").first).to_be_visible()
    return drawer(page, task)


def hold(page: Page, url: str | re.Pattern[str], method: str) -> list[Route]:
    """Requests of that kind are kept here, and wait for an answer."""
    held: list[Route] = []

    def on_route(route: Route) -> None:
        if route.request.method == method:
            held.append(route)
        else:
            route.fallback()

    page.route(url, on_route)
    return held


def first(page: Page, held: list[Route], *, count: int = 1) -> Route:
    """Wait for `count` of them. Playwright hears of requests while one of its own calls runs."""

    def has_come() -> bool:
        page.evaluate("0")
        return len(held) >= count

    wait_for(has_come)
    return held[0]


def rewritten(page: Page, url: str | re.Pattern[str], change: Callable[[Any], None]) -> None:
    """The server's answers to GET as `change` leaves them."""

    def on_route(route: Route) -> None:
        if route.request.method != "GET":
            return route.fallback()
        answer = route.fetch()
        content = answer.json()
        change(content)
        route.fulfill(response=answer, json=content)

    page.route(url, on_route)


def refusal(error: str, status: int = 503) -> dict[str, Any]:
    return {"status": status, "json": {"error": error, "error_type": "store"}}


def publish_form(page: Page, site_file: Path, task: str) -> Locator:
    button(page, "Publish a task").click()
    form = page.get_by_role("dialog", name="Publish a task")
    form.get_by_label("File").set_input_files(site_file)
    form.get_by_label("Task id").fill(task)
    button(form, "Publish").click()
    return form


@pytest.fixture(scope="module")
def file(slow: Listening) -> Path:
    return slow.site.adapter("gamma")


def test_a_new_task_replaces_none_that_came_in_between(
    browser: Browser, slow: Listening, file: Path
) -> None:
    with at(browser, slow) as page:
        sent = hold(page, "**/v1/adapters/*", "PUT")
        form = publish_form(page, file, "alpha")
        expect(form.get_by_role("alert")).to_contain_text("Task alpha is there already")
        assert sent == []
        # Not there when the page asked, and there when the file came.
        form.get_by_label("Task id").fill("gamma")
        button(form, "Publish").click()
        put = first(page, sent)
        assert put.request.headers["if-none-match"] == "*"
        put.fulfill(**refusal("If-None-Match: * was sent, and there is a task gamma", 412))
        expect(form.get_by_role("alert")).to_contain_text("Task gamma is there already")


def test_a_file_that_is_sent_can_be_stopped(browser: Browser, slow: Listening, file: Path) -> None:
    with at(browser, slow) as page:
        sent = hold(page, "**/v1/adapters/*", "PUT")
        form = publish_form(page, file, "gamma")
        first(page, sent)
        button(form, "Cancel").click()
        expect(form.get_by_role("status")).to_have_text("Stopped. Nothing was changed.")
        expect(button(form, "Publish")).to_be_enabled()
        sent.clear()
        button(form, "Publish").click()
        # What stands between may answer 200 as well.
        first(page, sent).fulfill(status=200, body="<h1>Sign in</h1>")
        expect(form.get_by_role("alert")).to_contain_text("The answer is not JSON")
        expect(form.get_by_role("alert")).to_contain_text("look at the task")
        button(form, "Cancel").click()
        expect(form).to_have_count(0)


def test_a_change_without_an_answer_ends(browser: Browser, slow: Listening, file: Path) -> None:
    with at(browser, slow) as page:
        page.add_init_script(HASTE)
        page.goto("/#task=alpha")
        page.reload()
        hold(page, re.compile("/rollback$"), "POST")
        hold(page, "**/v1/adapters/gamma", "PUT")
        drawer(page, "alpha").get_by_role("button", name="Roll back to version").click()
        form = page.get_by_role("dialog", name="Roll back alpha")
        form.get_by_label("Type alpha to confirm").fill("alpha")
        button(form, "Roll back").click()
        expect(form.get_by_role("alert")).to_contain_text("no answer for 120 seconds")
        expect(form.get_by_role("alert")).to_contain_text("may be made all the same")
        button(form, "Cancel").click()
        button(drawer(page, "alpha"), "Close").click()
        form = publish_form(page, file, "gamma")
        expect(form.get_by_role("alert")).to_contain_text("no answer for 120 seconds")
        expect(button(form, "Cancel")).to_be_enabled()


def test_what_was_not_known_is_forgotten_and_a_refused_change_is_not(
    browser: Browser, slow: Listening
) -> None:
    with at(browser, slow, "alpha") as page:
        alpha = drawer(page, "alpha")
        page.route(re.compile("/pin$"), lambda route: route.fulfill(**refusal("no disk")))
        button(alpha, "Pin").click()
        refused = alpha.get_by_role("alert").filter(has_text="no disk")
        expect(refused).to_be_visible()
        page.route(ADAPTER, lambda route: route.abort())
        page.evaluate(LOOK_NOW)
        unknown = alpha.get_by_role("alert").filter(has_text="The server gives no answer")
        expect(unknown).to_be_visible()
        page.unroute(ADAPTER)
        page.evaluate(LOOK_NOW)
        expect(unknown).to_have_count(0)
        expect(refused).to_be_visible()


def test_a_change_that_ends_late_is_not_another_tasks(browser: Browser, slow: Listening) -> None:
    with at(browser, slow, "alpha") as page:
        loads = hold(page, re.compile("/load$"), "POST")
        removals = hold(page, ADAPTER, "DELETE")
        button(drawer(page, "alpha"), "Load now").click()
        load = first(page, loads)
        beta = go_to(page, "beta")
        load.fulfill(**refusal("it does not load"))
        expect(page.locator("#said")).to_have_text("alpha: it does not load")
        expect(beta.get_by_role("alert")).to_have_count(0)
        # The same while alpha's form lies over the drawer.
        alpha = go_to(page, "alpha")
        button(alpha, "Remove…").click()
        form = page.get_by_role("dialog", name="Remove alpha")
        form.get_by_label("Type alpha to confirm").fill("alpha")
        button(form, "Remove").click()
        removal = first(page, removals)
        page.evaluate("location.hash = 'task=beta'")
        removal.fulfill(json={"task_id": "alpha"})
        expect(form).to_have_count(0)
        expect(beta).to_be_visible()
        expect(page.locator("#said")).to_have_text("alpha is removed.")


def ask_both(page: Page) -> tuple[Locator, Locator]:
    """Begin a comparison of both tasks."""
    expect(page.get_by_role("combobox", name="Task", exact=True)).to_have_value("alpha")
    page.get_by_label("Text", exact=True).fill("World")
    button(page, "Compare with…").click()
    other = page.get_by_role("combobox", name="Compare with", exact=True)
    other.fill("beta")
    other.press("Enter")
    button(page, "Generate").click()
    panels = [page.get_by_role("region", name=n, exact=True) for n in ("Answer", "Second answer")]
    for panel in panels:
        expect(panel).to_have_attribute("aria-busy", "true")
    return panels[0], panels[1]


def test_a_comparison_that_was_left_has_no_verdict(browser: Browser, slow: Listening) -> None:
    with at(browser, slow) as page:
        with slow.site.engine.steps_held():
            answer, other = ask_both(page)
            button(page, "Do not compare").click()
            expect(other).to_be_hidden()
            stopped = page.locator("section.answer", has_text="Stopped after 0 tokens")
            expect(stopped).to_have_attribute("aria-label", "Second answer")
        expect(answer.locator(".timing")).to_be_visible()
        expect(answer).not_to_have_attribute("aria-busy", "true")
        expect(page.locator(".verdict")).to_be_empty()
        expect(button(page, "Stop")).to_be_hidden()


def test_the_other_answer_ends_with_the_pages_own_fault(browser: Browser, slow: Listening) -> None:
    with at(browser, slow, expected="Cannot read properties of undefined") as page:
        streams = hold(page, "**/generate_stream", "POST")
        answer, _ = ask_both(page)
        first(page, streams, count=2)
        (foreign,) = [each for each in streams if '"beta"' in str(each.request.post_data)]
        event = 'data:{"token":null,"generated_text":"x"}\n\n'
        foreign.fulfill(status=200, content_type="text/event-stream", body=event)
        expect(answer).to_contain_text("Stopped after 0 tokens")
        expect(button(page, "Stop")).to_be_hidden()


SQUARE = {"tasks": ["alpha", "beta"], "chance": [[None, 0.1], [0.1, None]]}
RUN = {"run": "r", "method": "m", "gate": "g", "split": "s", "tasks": ["alpha", "beta"]}


def test_the_keyboard_keeps_its_place_in_reports(browser: Browser, slow: Listening) -> None:
    numbers = iter(range(100, 900))

    def change(overview: dict[str, Any]) -> None:
        """Other numbers in each answer."""
        share = next(numbers) / 1000
        pair = [[None, share], [share, None]]
        overview["overlap"] = {**SQUARE, "jaccard": pair}
        accuracy = [[share, None], [share, share]]
        overview["runs"] = [{**RUN, "accuracy": accuracy, "backward_transfer": share}]

    with at(browser, slow) as page:
        rewritten(page, "**/v1/overview?*", change)
        page.evaluate(LOOK_NOW)
        name = page.locator("#overlap tbody button").first
        name.focus()
        page.keyboard.press("ArrowRight")
        page.keyboard.press("ArrowRight")
        place = page.locator("#overlap td:focus")
        expect(place).to_contain_text("Jaccard")
        check_renewed(page, place)
        # Arrows go on from there, and only one cell is a stop of the Tab key.
        page.keyboard.press("ArrowDown")
        expect(page.locator("#overlap td.diagonal").nth(1)).to_be_focused()
        expect(page.locator("#overlap [tabindex='0']")).to_have_count(1)
        page.locator("#runs tbody button").nth(1).focus()
        check_renewed(page, page.locator("#runs tr:has(button:focus)"))


def test_the_table_shows_the_numbers_that_it_sorts_by(browser: Browser, slow: Listening) -> None:
    def change(overview: dict[str, Any]) -> None:
        """A trend whose last number is far from that of all its time."""
        for line in overview["tasks"]:
            line["requests_per_second"] = [3.0, 0.0, 0.0]
            line["requests"] = round(2 * 3 * overview["trend_seconds"])
            line["p95_seconds"] = [None, 4.0, 0.1]
            line["p95"] = 4.0

    with at(browser, slow) as page:
        rewritten(page, "**/v1/overview?*", change)
        page.evaluate(LOOK_NOW)
        row = page.locator('tr[data-task="alpha"]')
        expect(row.locator(".c-requests .spark-number")).to_have_text("2")
        expect(row.locator(".c-p95 .spark-number")).to_have_text("4 s")
        expect(row.locator(".c-p95 .dots")).to_have_attribute("d", re.compile("h0.*h0"))


def check_renewed(page: Page, place: Locator) -> None:
    """What has the focus says other numbers after the next answer."""
    before = place.inner_text()
    page.evaluate(LOOK_NOW)
    expect(place).not_to_have_text(before, use_inner_text=True)
    expect(place).to_have_count(1)


def test_an_answer_to_the_key_before_says_nothing_of_the_new_one(
    browser: Browser, slow: Listening
) -> None:
    with open_page(browser, slow.url, expected=FAILED) as page:
        keyless: list[Route] = []

        def on_route(route: Route) -> None:
            if "authorization" in route.request.headers:
                route.continue_()
            else:
                keyless.append(route)

        page.route("**/v1/overview?*", on_route)
        page.reload()
        held = first(page, keyless)
        button(page, "Enter a key").click()
        page.get_by_label("Key", exact=True).fill(ADMIN_KEY)
        button(page, "Use this key").click()
        held.fulfill(**refusal("the request has no key", 401))
        expect(page.locator("tr[data-task]")).to_have_count(len(TASKS))
        expect(page.locator("#server-ready")).to_have_text("Ready")
        expect(page.locator("#key-panel")).to_be_hidden()
        assert len(keyless) == 1


@pytest.mark.parametrize(("status", "is_asked_again"), [(403, False), (503, True)])
def test_what_was_refused_for_good_is_not_asked_again(
    browser: Browser, slow: Listening, status: int, is_asked_again: bool
) -> None:
    with open_page(browser, slow.url, expected=FAILED) as page:
        asked: list[Route] = []

        def on_route(route: Route) -> None:
            asked.append(route)
            route.fulfill(**refusal("not for this key", status))

        page.route(ADAPTER, on_route)
        page.reload()
        first(page, asked)
        expect(page.locator("#try-task-fault")).to_be_visible()
        counts = []
        for _ in range(5):
            with page.expect_response("**/v1/overview?*"):
                page.evaluate(LOOK_NOW)
            expect(page.locator("#try-task-fault")).to_be_visible()
            counts.append(len(asked))
        # Once more where it is listed, and then no more.
        assert (counts[-1] > counts[1]) is is_asked_again, counts


def test_ancestors_get_their_names_later(browser: Browser, slow: Listening) -> None:
    version = slow.site.parts.services.store.current("beta")

    def change(detail: dict[str, Any]) -> None:
        detail["manifest"]["lineage"] = [version]

    with at(browser, slow) as page:
        rewritten(page, ADAPTER, change)
        page.route("**/v1/adapters", lambda route: route.abort())
        alpha = go_to(page, "alpha")
        chip = alpha.locator("#drawer-lineage li").first
        expect(chip.get_by_title("no task here has it now")).to_be_visible()
        expect(alpha.get_by_role("alert")).to_have_count(0)
        page.unroute("**/v1/adapters")
        page.evaluate(
            "const now = performance.now.bind(performance);"
            "performance.now = () => now() + 60_000;" + LOOK_NOW
        )
        chip.get_by_role("button", name="beta").click()
        expect(drawer(page, "beta")).to_be_visible()


# Modules alone, in a page of the server, because the page's policy allows its own scripts only.
MODULES: Mapping[str, str] = {
    "a poll that fails on its own is made again": """async () => {
        const { poll } = await import("/console/poll.js");
        const page = Object.assign(new EventTarget(), { hidden: false });
        let answers = 0;
        const fail = () => { answers += 1; throw new Error("of the test"); };
        const { now } = poll(async () => 1, { onAnswer: fail, onFault: fail, page });
        for (const _ of [1, 2]) await now().catch(() => {});
        page.hidden = true;
        page.dispatchEvent(new Event("visibilitychange"));
        return answers === 2;
    }""",
    "a stream that says it failed is not read on": """async () => {
        const { stream } = await import("/console/api.js");
        const line = new TextEncoder().encode('data:{"error":"no"}\\n\\n');
        const fetch = window.fetch;
        try {
            const cancelled = new Promise((cancel) => {
                const start = (controller) => controller.enqueue(line);
                window.fetch = async () => new Response(new ReadableStream({ start, cancel }));
            });
            const error = await stream("/generate_stream", {}, () => {}).catch((error) => error);
            await cancelled;
            return error.message === "no";
        } finally {
            window.fetch = fetch;
        }
    }""",
}


@pytest.mark.parametrize("name", MODULES)
def test_modules(browser: Browser, slow: Listening, name: str) -> None:
    with at(browser, slow) as page:
        assert page.evaluate(MODULES[name]) is True
