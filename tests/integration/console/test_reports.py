"""The overlap map, continual runs and events, on a server that has them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect

from factories import random_adapter
from integration.console.chromium import check_accessible, open_page
from integration.console.sites import Listening
from jumplora_adapters.format import write_adapter
from serving import PROMPT, Site, listening, make_site

pytestmark = pytest.mark.slow

ORDER = ["first", "second", "third"]
ACCURACY = [{"first": 0.9}, {"first": 0.8, "second": 0.7}, {"first": 0.75, "second": 0.6}]


@pytest.fixture(scope="module")
def reports(browser: Browser, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Listening]:
    """A server of a continual run, whose last adapter does not say how good it is."""
    site = make_site(tmp_path_factory.mktemp("reports"))
    with listening(site) as url:
        for number, task in enumerate(ORDER):
            publish(site, task, number)
        yield Listening(url, site)


def publish(site: Site, task: str, number: int) -> None:
    said: dict[str, Any] = {
        "run": "three tasks",
        "order": ORDER,
        "position": number + 1,
        "method": "inclora",
        "gate": "on",
        "split": "test",
        "accuracy": ACCURACY[number],
        "backward_transfer": -0.125 if number else None,
    }
    manifest, deltas = random_adapter(site.backbone, task=task, seed=number, prompt=PROMPT)
    path = site.folder / f"{task}.safetensors"
    write_adapter(path, manifest.model_copy(update={"training": {"continual": said}}), deltas)
    site.parts.services.store.publish(path, site.backbone)
    site.parts.services.residency.sync(task).result(timeout=10)


def overlap_of(page: Page) -> dict[str, Any]:
    """The map as the server gives it, once all pairs were compared."""
    page.wait_for_function(
        """async () => {
          const { overlap } = await (await fetch("/v1/overview")).json();
          return overlap && overlap.jaccard.flat().filter((one) => one !== null).length === 6;
        }"""
    )
    found: dict[str, Any] = page.evaluate(
        'async () => (await (await fetch("/v1/overview")).json()).overlap'
    )
    return found


def test_arrow_keys_walk_through_the_map(browser: Browser, reports: Listening) -> None:
    with open_page(browser, reports.url) as page:
        overlap = overlap_of(page)
        grid = page.get_by_role("grid", name="Overlap")
        expect(grid.get_by_role("gridcell", name="by chance")).to_have_count(6)
        name = grid.get_by_role("button", name=overlap["tasks"][0])
        name.focus()
        for key in ("ArrowDown", "ArrowRight"):
            page.keyboard.press(key)
        said = page.locator("#overlap .readout")
        first, second = overlap["tasks"][1], overlap["tasks"][0]
        jaccard, chance = overlap["jaccard"][1][0], overlap["chance"][1][0]
        expect(said).to_contain_text(
            f"{first} and {second}: Jaccard {jaccard:.3f}, by chance {chance:.3f}"
        )
        # One stop of the Tab key: the next one is out of the map.
        page.keyboard.press("Tab")
        assert page.evaluate("!document.activeElement.closest('table[role=grid]')")


def test_a_run_says_what_was_lost(browser: Browser, reports: Listening) -> None:
    with open_page(browser, reports.url) as page:
        run = page.get_by_role("article", name="three tasks")
        expect(run).to_contain_text("lost 12.5 points on average")
        rows = run.get_by_role("table").locator("tbody tr")
        expect(rows).to_have_count(3)
        shown = [row.locator("td").all_inner_texts() for row in rows.all()]
        assert [[cell.split(",")[0].strip() for cell in row] for row in shown] == [
            ["90.0", "", "", "90.0"],
            ["80.0", "70.0", "", "75.0"],
            ["75.0", "60.0", "–", "–"],
        ]
        expect(run.locator("td.learned")).to_have_count(2)
        check_accessible(page)


def test_new_events_do_not_move_what_is_read(browser: Browser, reports: Listening) -> None:
    residency = reports.site.parts.services.residency
    with open_page(browser, reports.url) as page:
        lines = page.locator("#events li")
        expect(lines.first).to_be_visible()
        count = lines.count()
        first = lines.first.element_handle()
        # Under the pointer nothing moves, but the reader learns of it.
        page.locator("#events ol").hover()
        residency.pin("second", "pinned")
        show = page.get_by_role("button", name="Show 1 new event")
        expect(show).to_be_visible()
        expect(page.locator("#said")).to_contain_text("second pinned")
        assert lines.count() == count
        show.click()
        expect(lines).to_have_count(count + 1)
        expect(lines.first).to_contain_text("pinned")
        # Elsewhere, new ones come by themselves; the old lines are still the same elements.
        page.get_by_role("heading", name="Events").hover()
        page.get_by_role("combobox", name="Kind").focus()
        residency.pin("second", "unpinned")
        expect(lines).to_have_count(count + 2)
        assert first is not None
        assert first.evaluate("element => element.isConnected")
        page.get_by_role("combobox", name="Kind").select_option("pinned")
        expect(page.locator("#events li:visible")).to_have_count(1)
        page.locator("#events li:visible").get_by_role("button", name="second").click()
        expect(page.get_by_role("dialog", name="second")).to_be_visible()
