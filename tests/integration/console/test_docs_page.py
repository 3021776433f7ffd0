"""/docs in a browser, on a server with keys."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, expect

from integration.console.chromium import REFUSED, open_page
from integration.console.sites import API_KEY
from serving import listening, make_site

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    site = make_site(tmp_path_factory.mktemp("site"), api_keys=API_KEY)
    with listening(site) as url:
        site.publish("alpha")
        yield url


def test_a_browser_without_a_key_sees_all_routes(browser: Browser, url: str) -> None:
    with open_page(browser, url, "/docs") as page:
        expect(page.locator("#operations-generate-generate")).to_be_visible()
        tags = page.locator(".opblock-tag-section h3")
        assert tags.count() == 6
        assert tags.first.get_attribute("data-tag") == "generate"


def test_authorize_lets_the_page_send_requests(browser: Browser, url: str) -> None:
    with open_page(browser, url, "/docs", expected=REFUSED) as page:
        operation = page.locator("#operations-adapters-list_adapters")
        operation.locator(".opblock-summary-control").click()
        operation.get_by_role("button", name="Try it out").click()
        execute = operation.get_by_role("button", name="Execute")
        status = operation.locator(".live-responses-table tbody .response-col_status").first
        execute.click()
        expect(status).to_contain_text("401")
        page.get_by_role("button", name="Authorize").first.click()
        dialog = page.locator(".dialog-ux")
        dialog.get_by_label("auth-bearer-value").first.fill(API_KEY)
        dialog.get_by_role("button", name="Apply credentials").first.click()
        dialog.get_by_role("button", name="Close").first.click()
        execute.click()
        expect(status).to_contain_text("200")
        expect(operation.locator(".live-responses-table")).to_contain_text('"task_id": "alpha"')


def test_the_policy_refuses_scripts_in_the_page(browser: Browser, url: str) -> None:
    with open_page(browser, url, "/docs", expected="Content Security Policy") as page:
        refused = page.evaluate("""() => new Promise(resolve => {
            addEventListener("securitypolicyviolation", event => resolve(event.effectiveDirective));
            const script = document.createElement("script");
            script.textContent = "window.ran = true";
            document.body.append(script);
            if (window.ran) resolve("ran");
        })""")
        assert refused == "script-src-elem"
