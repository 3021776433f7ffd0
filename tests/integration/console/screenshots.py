"""Pictures of the console on the demo under some traffic: `make screenshots`.

Light and dark, wide and narrow: the page, a task's drawer, an answer with its tokens, choices, and
two tasks compared. Written as PNGs with a palette, which are a quarter of the size.
"""

from __future__ import annotations

import io
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import get_args

import httpx
from PIL import Image
from playwright.sync_api import Page, expect

from integration.console.chromium import Scheme, open_page, running_browser
from integration.console.sites import ADMIN_KEY, Demo, demo_server
from integration.prometheus_process import eventually

SIZES = {"": (1440, 900), "-narrow": (390, 844)}  # ends of the names
COLOURS = 128
MAX_HEIGHT = 1700  # of a picture of a whole page
TRAFFIC_SECONDS = 0.15  # between two requests
TEXTS = {
    "agnews": "Wall St. climbs as oil prices fall and tech shares rally",
    "dbpedia": "The Rhine is a river that rises in Switzerland and flows to the North Sea.",
    "register": "Could you send me the report by Friday? Many thanks.",
    "subject": "How do plants turn light into sugar?",
}
CANARIES = {
    "The striker scored twice in the final": "Sports",
    "A new processor doubles the speed of phones": "Science or Technology",
    "Oil exporters agree to cut output": "World",
}


@contextmanager
def traffic(demo: Demo) -> Iterator[None]:
    """Requests for all tasks in turn, some more often than others."""
    stop = threading.Event()

    def run() -> None:
        headers = {"authorization": f"Bearer {ADMIN_KEY}"}
        turns = ["agnews", "dbpedia", "agnews", "subject", "agnews", "register", "dbpedia"]
        with httpx.Client(base_url=demo.url, headers=headers, timeout=60) as http:
            number = 0
            while not stop.wait(TRAFFIC_SECONDS):
                task = turns[number % len(turns)]
                body = {"task_id": task, "text": TEXTS[task]}
                http.post("/generate", json=body).raise_for_status()
                number += 1

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def save(page: Page, path: Path, *, whole: bool = False) -> None:
    """What is seen, or the whole page down to a limit."""
    page.mouse.move(1, 1)  # so that no row is pointed at
    if whole:
        page.evaluate("scrollTo(0, 0)")  # what sticks to the window is at its top then
    content = page.screenshot(full_page=whole, animations="disabled", caret="hide")
    picture = Image.open(io.BytesIO(content)).convert("RGB")
    picture = picture.crop((0, 0, picture.width, min(picture.height, MAX_HEIGHT)))
    picture.quantize(COLOURS, dither=Image.Dither.NONE).save(path, optimize=True)


def ask_it(page: Page, way: str, answers: int = 1) -> None:
    """Ask what the form has, and wait for the answers."""
    page.get_by_role("button", name=way, exact=True).click()
    expect(page.locator(".answer .timing")).to_have_count(answers)
    expect(page.locator('.answer[aria-busy="true"]')).to_have_count(0)


def show_answer(page: Page) -> None:
    """Scroll to the question, or to its answer where the two are not seen together."""
    is_narrow = page.evaluate("innerWidth < 800")
    page.locator(".answer" if is_narrow else "#try").first.evaluate("e => e.scrollIntoView()")


def take_all(page: Page, folder: Path, name: str) -> None:
    """The pictures of one scheme and one width."""
    agnews = page.locator('tr[data-task="agnews"]')
    expect(agnews).to_be_visible()
    page.get_by_label("Text", exact=True).fill(TEXTS["agnews"])
    ask_it(page, "Generate")
    save(page, folder / f"console-{name}.png", whole=True)
    agnews.get_by_role("button", name="agnews", exact=True).click()
    drawer = page.get_by_role("dialog", name="agnews")
    expect(drawer.locator("#drawer-versions li")).to_have_count(2)
    save(page, folder / f"drawer-{name}.png")
    drawer.get_by_role("button", name="Try it").click()
    page.get_by_text("Tokens as a table").first.click()
    show_answer(page)
    save(page, folder / f"answer-{name}.png")
    ask_it(page, "Choose")
    show_answer(page)
    save(page, folder / f"choices-{name}.png")
    page.get_by_role("button", name="Compare with…").click()
    other = page.get_by_role("combobox", name="Compare with", exact=True)
    other.fill("dbpedia")
    page.get_by_role("option", name="dbpedia").click()
    ask_it(page, "Generate", 2)
    show_answer(page)
    save(page, folder / f"compare-{name}.png")


def main(folder: Path) -> None:
    """All of them into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    with (
        running_browser() as browser,
        tempfile.TemporaryDirectory() as scratch,
        demo_server(Path(scratch)) as demo,
    ):
        file = demo.another_version("agnews", 0.795, canaries=CANARIES)
        demo.ask("PUT", "/v1/adapters/agnews", content=file.read_bytes())
        with traffic(demo):
            eventually(lambda: check_busy(demo), 30)
            for scheme in get_args(Scheme):
                for size, pixels in SIZES.items():
                    with open_page(
                        browser, demo.url, key=ADMIN_KEY, scheme=scheme, size=pixels
                    ) as page:
                        take_all(page, folder, f"{scheme}{size}")
    for path in sorted(folder.glob("*.png")):
        print(f"{path}: {path.stat().st_size / 1000:.0f} kB")


def check_busy(demo: Demo) -> None:
    """Raise AssertionError until the curves of traffic have some points."""
    lines = demo.ask("GET", "/v1/overview")["tasks"]
    for line in lines:
        assert sum(rate > 0 for rate in line["requests_per_second"]) >= 2, line["task_id"]


if __name__ == "__main__":
    main(Path(sys.argv[1]))
