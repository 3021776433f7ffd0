"""A staged version and names of versions in the console, and what keys of a file see of it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Locator, Page, Route, expect

from integration.console.chromium import REFUSED, Scheme, check_accessible, open_page
from integration.console.sites import ADMIN_KEY, Demo, demo_server
from jumplora_server.access.keys import hash_of

pytestmark = pytest.mark.slow

SCOPES = {
    "generates": '["infer"]',
    "looks": '["read"]',
    "changes": '["infer", "admin"]',
    "expired": '["read"]\nexpires = 2020-01-01T00:00:00Z',
}


def secret_of(key: str) -> str:
    return f"secret-of-the-key-that-{key}"


def entry(key: str, scopes: str) -> str:
    return f'[[keys]]\nid = "{key}"\nhash = "sha256:{hash_of(secret_of(key))}"\nscopes = {scopes}\n'


@dataclass(frozen=True, slots=True)
class Keyed:
    """A server with a keys file, whose task agnews has a staged version."""

    demo: Demo
    keys: Path
    current: str
    staged: str

    def write_keys(self, **scopes: str) -> None:
        """All keys of SCOPES, with these in place of theirs. The server reads them soon."""
        text = "\n".join(entry(key, found) for key, found in {**SCOPES, **scopes}.items())
        scratch = self.keys.with_suffix(".new")
        scratch.write_text(text)
        scratch.replace(self.keys)

    def stage(self, share: float) -> None:
        body = {"version": self.staged, "share": share}
        self.demo.ask("POST", "/v1/adapters/agnews/stage", json=body)


@pytest.fixture(scope="module")
def keyed(browser: Browser, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Keyed]:
    folder = tmp_path_factory.mktemp("keyed")
    keys = folder / "keys.toml"
    keys.write_text("\n".join(entry(key, scopes) for key, scopes in SCOPES.items()))
    keys.chmod(0o600)
    with demo_server(folder, keys_file=str(keys)) as demo:
        current, _ = demo.versions("agnews")
        file = demo.another_version("agnews", 0.8)
        told = demo.ask("PUT", "/v1/adapters/agnews?stage=0.1", content=file.read_bytes())
        yield Keyed(demo, keys, current, told["staged"]["version"])


def button(place: Page | Locator, name: str) -> Locator:
    return place.get_by_role("button", name=name, exact=True)


def open_agnews(page: Page) -> Locator:
    button(page.locator('tr[data-task="agnews"]'), "agnews").click()
    drawer = page.get_by_role("dialog", name="agnews")
    expect(drawer.locator("#drawer-versions li").first).to_be_visible()
    return drawer


def confirm(page: Page, title: str, verb: str) -> Locator:
    form = page.get_by_role("dialog", name=title)
    expect(button(form, verb)).to_be_disabled()
    form.get_by_label("Type agnews to confirm").fill("agnews")
    button(form, verb).click()
    return form


def answers_staged(keyed: Keyed) -> bool:
    """Whether the next request of the task alone is the staged version's; one that names it does
    not count among those that are compared."""
    body = {"task_id": "agnews", "text": "Shares rally"}
    answer = keyed.demo.ask("POST", "/generate", json=body)
    return bool(answer["details"]["adapter_version"] == keyed.staged)


def test_a_task_with_a_staged_version_shows_how_it_stands(browser: Browser, keyed: Keyed) -> None:
    keyed.stage(0.1)
    alias = {"name": "night", "version": keyed.staged}
    keyed.demo.ask("POST", "/v1/adapters/agnews/alias", json=alias)
    with open_page(browser, keyed.demo.url, key=secret_of("changes")) as page:
        mark = page.locator('tr[data-task="agnews"] .c-state .tag')
        expect(mark).to_have_text("staged 10 %")
        expect(page.locator("#tasks .tag:visible")).to_have_count(1)
        drawer = open_agnews(page)
        expect(drawer.locator("header .tag")).to_have_text("staged 10 %")
        panel = drawer.get_by_role("region", name="Staged version")
        expect(panel).to_contain_text("Too few of its requests have ended")
        lines = panel.locator("tbody tr")
        expect(lines.first).to_contain_text(f"Staged {keyed.staged[:8]}")
        expect(lines.last).to_contain_text(f"Current {keyed.current[:8]}")
        first = drawer.locator("#drawer-versions li").first
        expect(first).to_contain_text("night")
        # What comes while it is open is shown, and the focus stays.
        button(panel, "Promote…").focus()
        asked = int(lines.first.locator("td").first.inner_text())
        drawn = sum(answers_staged(keyed) for _ in range(20))  # two, of each ten one
        assert drawn
        expect(lines.first.locator("td").first).to_have_text(str(asked + drawn))
        keyed.stage(0.25)
        for place in (drawer.locator("header"), panel, first):
            expect(place).to_contain_text("25 %")
        unnamed = page.locator("#try-task-version option").first
        expect(unnamed).to_have_text("current or staged")
        gone = {"name": "night", "version": None}
        keyed.demo.ask("POST", "/v1/adapters/agnews/alias", json=gone)
        expect(first.locator(".tag", has_text="night")).to_have_count(0)
        expect(button(panel, "Promote…")).to_be_focused()


OVER = """() => [...document.querySelectorAll('#tasks tr[data-task] td')].filter(
    (cell) => [...cell.querySelectorAll('.tag:not([hidden])')].some(
        (tag) => tag.getBoundingClientRect().right > cell.getBoundingClientRect().right + 0.5,
    )
).map((cell) => cell.innerText)"""


@pytest.mark.parametrize("width", [390, 800, 1280, 1920])
def test_no_mark_covers_what_stands_beside_it(browser: Browser, keyed: Keyed, width: int) -> None:
    fields = {"version": keyed.staged, "share": 0.125, "is_open": False, "failure": "load"}

    def answer(route: Route) -> None:
        """As the server does, for a version that fails beside one that is degraded."""
        found = route.fetch()
        overview = found.json()
        for number, line in enumerate(overview["tasks"]):
            failure = "load" if number % 2 else None
            line |= {"staged": {**fields, "failure": failure}, "pinned": True}
            line["degraded"] = "it does not load" if number > 1 else None
        route.fulfill(response=found, json=overview)

    with open_page(
        browser, keyed.demo.url, "/console/icon.svg", key=secret_of("looks"), size=(width, 844)
    ) as page:
        page.route("**/v1/overview*", answer)
        page.goto("/")
        expect(page.locator(".c-state .tag", has_text="staged, fails")).to_have_count(2)
        assert page.evaluate(OVER) == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_has_no_serious_finding(browser: Browser, keyed: Keyed, scheme: Scheme) -> None:
    keyed.stage(0.1)
    with open_page(
        browser, keyed.demo.url, key=secret_of("changes"), scheme=scheme, size=(390, 844)
    ) as page:
        expect(page.locator('tr[data-task="agnews"] .c-state .tag')).to_be_visible()
        check_accessible(page)
        drawer = open_agnews(page)
        check_accessible(page)
        assert page.evaluate("document.querySelector('#drawer').scrollWidth") <= 390
        button(drawer, "Take back…").click()
        expect(page.get_by_role("dialog", name="Take back the staged version")).to_be_visible()
        check_accessible(page)


def test_it_is_taken_back_and_promoted(browser: Browser, keyed: Keyed) -> None:
    keyed.stage(0.1)
    with open_page(browser, keyed.demo.url, key=secret_of("changes"), expected=REFUSED) as page:
        drawer = open_agnews(page)
        panel = drawer.get_by_role("region", name="Staged version")
        button(panel, "Take back…").click()
        form = page.get_by_role("dialog", name="Take back the staged version of agnews")
        for version in (keyed.staged, keyed.current):
            expect(form).to_contain_text(version[:8])
        # Another one was faster: the form says so.
        keyed.demo.ask("POST", "/v1/adapters/agnews/unstage", json={"note": "too slow"})
        confirm(page, "Take back the staged version of agnews", "Take back")
        expect(form.get_by_role("alert")).to_contain_text("staged")
        button(form, "Cancel").click()
        expect(panel).to_be_hidden()
        expect(page.locator('tr[data-task="agnews"] .c-state .tag')).to_be_hidden()
        expect(drawer.locator("#drawer-versions")).to_contain_text("taken back")
        expect(drawer.locator("#drawer-versions")).to_contain_text("(too slow)")
        keyed.stage(1)
        expect(panel).to_contain_text("It gets 100 % of the requests")
        button(panel, "Take back…").click()
        form = confirm(page, "Take back the staged version of agnews", "Take back")
        expect(form).to_have_count(0)
        expect(panel).to_be_hidden()
        expect(page.locator("#said")).to_contain_text("taken back")
        unnamed = page.locator("#try-task-version option").first
        expect(unnamed).to_have_text(f"current ({keyed.current[:8]})")
        keyed.stage(0)
        expect(panel).to_contain_text("only requests that name it")
        button(panel, "Promote…").click()
        form = page.get_by_role("dialog", name="Promote the staged version of agnews")
        expect(form).to_contain_text(f"in place of {keyed.current[:8]}")
        form = confirm(page, "Promote the staged version of agnews", "Promote")
        expect(form).to_have_count(0)
        expect(panel).to_be_hidden()
        expect(drawer.locator(f'li[data-version="{keyed.staged}"]')).to_contain_text("answers")
        assert keyed.demo.versions("agnews")[0] == keyed.staged
    body = {"version": keyed.current}
    keyed.demo.ask("POST", "/v1/adapters/agnews/rollback", json=body)


def test_a_key_that_only_looks_is_said_what_it_lacks(browser: Browser, keyed: Keyed) -> None:
    keyed.stage(0.1)
    with open_page(browser, keyed.demo.url, key=secret_of("looks")) as page:
        expect(page.locator("#why-not-generate")).to_contain_text("scope infer")
        page.get_by_label("Text", exact=True).fill("Shares rally")
        page.keyboard.press("Control+Enter")
        expect(page.locator("#said")).to_contain_text("scope infer")
        expect(button(page, "Generate")).to_be_disabled()
        drawer = open_agnews(page)
        for name in ("Promote…", "Take back…"):
            expect(button(drawer, name)).to_be_disabled()
            button(drawer, name).dispatch_event("click")
            expect(page.locator("#said")).to_contain_text("Changes are off")
            expect(page.get_by_role("dialog")).to_have_count(1)


@pytest.mark.parametrize(
    ("key", "text"),
    [
        ("generates", "this key has the scope infer; reading adapters and the overview takes"),
        ("expired", "the key expired expired at 2020-01-01"),
    ],
)
def test_a_key_that_may_not_look_is_said_why(
    browser: Browser, keyed: Keyed, key: str, text: str
) -> None:
    with open_page(browser, keyed.demo.url, key=secret_of(key), expected=REFUSED) as page:
        expect(page.locator("#key-why")).to_contain_text(text)
        expect(page.get_by_label("Key", exact=True)).to_be_focused()
        expect(page.locator("#tasks-empty")).to_contain_text("The tasks are shown to a key that")
        expect(page.locator("#metrics")).to_be_hidden()


def test_a_key_that_loses_its_scope_is_asked_for_another(browser: Browser, keyed: Keyed) -> None:
    with open_page(browser, keyed.demo.url, expected=REFUSED) as page:
        page.get_by_label("Key", exact=True).fill(secret_of("looks"))
        button(page, "Use this key").click()
        open_agnews(page)
        try:
            keyed.write_keys(looks='["infer"]')
            # The form for another key lies behind the drawer, which is modal.
            expect(page.locator("#drawer")).to_be_hidden()
            expect(page.locator("#key-why")).to_contain_text("this key has the scope infer")
            expect(page.locator("#server-ready")).to_have_text("Needs another key")
            page.get_by_label("Key", exact=True).fill(ADMIN_KEY)
            button(page, "Use this key").click()
            expect(page.locator("#server-ready")).to_have_text("Ready")
            expect(page.get_by_role("dialog", name="agnews")).to_be_visible()  # as it was
        finally:
            keyed.write_keys()
