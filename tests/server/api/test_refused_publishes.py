"""Refused publishes are counted, those of new tasks too, which leave nothing else behind."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import httpx
import pytest

from adapter_requests import ADMIN, put
from jumplora_adapters.manifest import Canary
from jumplora_adapters.store import Step
from packed import tarred
from serving import Site, connected, make_site, wait_for

CANARIES = [Canary(prompt="who won", expected="Sports")] * 2
Started = tuple[Site, httpx.Client]
Ask = Callable[[Site, httpx.Client, str], httpx.Response]


@pytest.fixture(scope="module")
def started(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Started]:
    folder = tmp_path_factory.mktemp("adapters")
    site = make_site(tmp_path_factory.mktemp("site"), max_adapter_bytes=100_000, load_folder=folder)
    with connected(site, headers=ADMIN) as http:
        site.publish("known")
        yield site, http


def wrong_canaries(site: Site, http: httpx.Client, task: str) -> httpx.Response:
    return put(http, task, site.adapter(task, canaries=CANARIES).read_bytes())


def damaged(site: Site, http: httpx.Client, task: str) -> httpx.Response:
    return put(http, task, site.adapter(task).read_bytes()[:-1])


def of_another_task(site: Site, http: httpx.Client, task: str) -> httpx.Response:
    return put(http, task, site.adapter("another").read_bytes())


def an_odd_archive(site: Site, http: httpx.Client, task: str) -> httpx.Response:
    return put(http, task, tarred({"readme": b"nothing"}))


def too_large(site: Site, http: httpx.Client, task: str) -> httpx.Response:
    return put(http, task, bytes(200_000))


def replaces_another(site: Site, http: httpx.Client, task: str) -> httpx.Response:
    return put(http, task, site.adapter(task).read_bytes(), if_match="0" * 64)


def by_path(site: Site, http: httpx.Client, task: str) -> httpx.Response:
    body = {"lora_name": task, "lora_path": "missing", "load_inplace": True}
    return http.post("/v1/load_lora_adapter", json=body)


def no_room(site: Site, http: httpx.Client, task: str) -> httpx.Response:
    store = site.parts.services.store

    def fail(step: Step) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    content = site.adapter(task).read_bytes()
    store._on_step = fail
    try:
        return put(http, task, content)
    finally:
        store._on_step = lambda step: None


WAYS: Mapping[str, tuple[Ask, int]] = {
    "canary": (wrong_canaries, 422),
    "file_size": (damaged, 422),
    "manifest": (of_another_task, 422),
    "wrong_file": (an_odd_archive, 422),
    "adapter_too_large": (too_large, 413),
    "version_conflict": (replaces_another, 412),
    "path_not_found": (by_path, 404),
    "store_full": (no_room, 507),
}


@pytest.mark.parametrize("code", WAYS)
@pytest.mark.parametrize(("task", "label"), [("new", "_unknown"), ("known", "known")])
def test_a_refused_publish_is_counted(started: Started, code: str, task: str, label: str) -> None:
    site, http = started
    ask, status = WAYS[code]
    counts = refused(site)
    answer = ask(site, http, task)
    assert answer.status_code == status, answer.text
    wait_for(lambda: not site.parts.services.residency.knows("new"))
    now = refused(site)
    assert {key: n for key, n in now.items() if n != counts.get(key)} == {
        (label, code): counts.get((label, code), 0) + 1
    }


def test_a_name_that_none_can_have_is_counted_too(started: Started) -> None:
    site, http = started
    for task in ("_hidden", "a b"):
        before = refused(site).get(("_unknown", "task_id"), 0)
        assert put(http, task, b"").status_code == 422
        assert refused(site)["_unknown", "task_id"] == before + 1


def test_what_is_published_is_not_counted(started: Started) -> None:
    site, http = started
    before = refused(site)
    assert put(http, "fine", site.adapter("fine").read_bytes()).status_code == 201
    assert refused(site) == before


def refused(site: Site) -> dict[tuple[str, str], float]:
    """All counts, by the task's label and the code."""
    found = site.parts.services.metrics.registry.collect()
    return {
        (sample.labels["task_id"], sample.labels["code"]): sample.value
        for family in found
        for sample in family.samples
        if sample.name == "jumplora_publishes_refused_total"
    }


def test_a_new_task_of_the_store_that_does_not_load_has_its_series(tmp_path: Path) -> None:
    site = make_site(tmp_path)
    with connected(site):
        store = site.parts.services.store
        store.publish(site.adapter("first", canaries=CANARIES), site.backbone)
        failures = "jumplora_adapter_load_failures_total"
        wait_for(lambda: site.metric(failures, task_id="first", code="canary") >= 1)
        wait_for(
            lambda: site.metric("jumplora_adapter_state", task_id="first", state="FAILED") == 1
        )
