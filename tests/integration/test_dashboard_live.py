"""Every query of the dashboards and every rule, on a real server under a real Prometheus."""

from __future__ import annotations

import math
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
from deploy.grafana.boards import BOARDS
from deploy.grafana.marks import MARKS
from deploy.grafana.panel import Mark, Panel
from deploy.grafana.variables import QUERIES

from integration.grafana import filled_in
from integration.prometheus_process import (
    OTHER_JOB,
    OTHER_NAMESPACE,
    Prometheus,
    Sample,
    eventually,
    program,
    prometheus,
)
from integration.server_process import ADMIN_KEY, RunningServer, Traffic, running_server
from jumplora_server.access.keys import hash_of
from jumplora_server.access.keys_file import entry_text

TASKS = ("boolqa", "dbpedia", "mnli")
# A panel that stands on several dashboards is looked at once.
PANELS = [
    pytest.param(panel, id=panel.title)
    for panel in dict.fromkeys(
        panel for board in BOARDS for row in board.rows for panel in row.panels if panel.queries
    )
]
MARKED = [pytest.param(mark, id=mark.name) for mark in MARKS]
# What the alerts say of a whole job has neither instance nor namespace, so every choice of these
# shows it.
ALERTS = "ALERTS{"


@dataclass(frozen=True, slots=True)
class Scene:
    """What the tests look at."""

    server: RunningServer
    prometheus: Prometheus
    traffic: Traffic
    http: httpx.Client  # with the key of an administrator


def keys_file(folder: Path) -> Path:
    """Keys of clients, of which one may ask once a minute."""
    entries = [entry_text(name, [hash_of(name)], ["infer"]) for name in ("traffic", "limited")]
    path = folder / "keys.toml"
    path.write_text("\n".join(entries) + "\nrequests_per_minute = 1\n", encoding="utf-8")
    return path


@contextmanager
def refused_clients(url: str) -> Iterator[None]:
    """Somebody who has a wrong key, and somebody whose quota is used up, a few times a second."""
    stop = threading.Event()

    def ask() -> None:
        body = {"task_id": "boolqa", "inputs": "x"}
        with httpx.Client(base_url=url, timeout=30) as http:
            while not stop.wait(0.3):
                for key in ("wrong", "limited"):
                    headers = {"Authorization": f"Bearer {key}"}
                    http.post("/generate", json=body, headers=headers)

    thread = threading.Thread(target=ask)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    """Traffic on three tasks, of which one was swapped, rolled back and has a staged version, and
    one has a bad file; and clients and a publish that are refused."""
    program("prometheus")  # skip before anything is started
    folder = tmp_path_factory.mktemp("server")
    headers = {"Authorization": f"Bearer {ADMIN_KEY}"}
    with (
        running_server(
            folder,
            TASKS,
            keys_file=str(keys_file(folder)),
            open_metrics="yes",
            stage_min_requests="100000",  # nothing is judged while we look
        ) as server,
        prometheus(tmp_path_factory.mktemp("prometheus"), server.target, twice=True) as api,
        Traffic(server.url, TASKS, key="traffic") as traffic,
        refused_clients(server.url),
        httpx.Client(base_url=server.url, headers=headers, timeout=30) as http,
    ):
        # A counter that grew before its first sample was never seen to grow.
        eventually(lambda: expect_samples(api), 30)
        newer = server.publish("boolqa", seed=7)
        eventually(lambda: expect_version(http, "boolqa", newer), 20)
        staged = {"version": newer, "share": 0.5}
        for change, body in (
            ("rollback", {}),
            ("stage", staged),
            ("unstage", {}),
            ("stage", staged),
        ):
            answer = http.post(f"/v1/adapters/boolqa/{change}", json=body)
            assert answer.status_code == 200, answer.text
        server.publish_garbage("mnli")
        assert http.put("/v1/adapters/mnli", content=b"no adapter").status_code == 422
        answer = http.post("/generate", json={"task_id": "nobody", "inputs": "x"})
        assert answer.status_code == 404
        yield Scene(server, api, traffic, http)


def expect_samples(api: Prometheus) -> None:
    assert len(api.query("jumplora_adapter_swaps_total")) >= 2 * len(TASKS)


def expect_version(http: httpx.Client, task: str, version: str) -> None:
    assert http.get(f"/v1/adapters/{task}").json()["version"] == version


def test_the_server_is_scraped(scene: Scene) -> None:
    def up() -> None:
        targets = scene.prometheus.get("targets")["activeTargets"]
        assert [(t["health"], t["lastError"]) for t in targets] == [("up", "")] * 2

    eventually(up, 20)


def known(scene: Scene, expr: str, **chosen: str) -> list[Sample]:
    """Return the numbers that Grafana would show, with these choices at the top."""
    found = scene.prometheus.query(filled_in(expr, **chosen))
    return [sample for sample in found if not math.isnan(sample.value)]


def expect_only_the_chosen(scene: Scene, expr: str) -> None:
    """With either of the two jobs there is data; what exists nowhere has none."""
    # Grafana escapes a choice twice: for the regular expression, and for the string it stands in.
    instance = re.escape(scene.server.target).replace("\\", "\\\\")
    both = ({"job": "jumplora"}, {"job": OTHER_JOB, "namespace": OTHER_NAMESPACE})
    for chosen in (*both, {"instance": instance}, {"job": f"({OTHER_JOB}|jumplora)"}):
        assert known(scene, expr, **chosen), f"{chosen}: {expr}"
    elsewhere = [{"job": "none"}, {"job": "none", "instance": instance}]
    if ALERTS not in expr:
        elsewhere += [{"instance": "none"}, {"namespace": "none"}]
    for chosen in elsewhere:
        assert not known(scene, expr, **chosen), f"{chosen}: {expr}"


@pytest.mark.parametrize("panel", PANELS)
def test_a_panel_has_data_of_the_chosen_servers(scene: Scene, panel: Panel) -> None:
    def has_data() -> None:
        for query in panel.queries:
            found = known(scene, query.expr)
            if panel.needs == "accelerator":
                assert not found, "this server computes on the CPU"
            if panel.needs != "nothing":  # asked all the same: an error of the query fails
                continue
            assert found, query.expr
            if panel.by_task == "by task":
                assert {s.labels["task_id"] for s in found} >= set(TASKS), query.expr
            expect_only_the_chosen(scene, query.expr)

    eventually(has_data, 40)


@pytest.mark.parametrize("panel", PANELS)
def test_a_panel_keeps_to_the_chosen_tasks(scene: Scene, panel: Panel) -> None:
    for query in panel.queries:
        if "$task_id" not in query.expr or panel.needs != "nothing":
            continue
        found = known(scene, query.expr, task_id="(boolqa|mnli)")
        assert found, query.expr
        labels = {s.labels["task_id"] for s in found if "task_id" in s.labels}
        pairs = {(s.labels.get("task_id"), s.labels.get("other_task_id")) for s in found}
        assert labels <= {"boolqa", "mnli"} or all({*p} & {"boolqa", "mnli"} for p in pairs)
        assert not known(scene, query.expr, task_id="none"), query.expr


@pytest.mark.parametrize("mark", MARKED)
def test_a_mark_has_data_of_the_chosen_servers(scene: Scene, mark: Mark) -> None:
    """Asked over the time since the start, as Grafana does, since what is marked goes by."""

    def marked() -> None:
        # The alert of the broken file waits for five minutes; none fires within this test.
        expr = mark.expr.replace('"firing"', '"pending"')
        assert (expr == mark.expr) == (mark.needs != "firing alert")
        for chosen in ({}, {"job": OTHER_JOB, "namespace": OTHER_NAMESPACE}, {"job": "jumplora"}):
            found = [value for _, value in scene.prometheus.over_time(filled_in(expr, **chosen))]
            assert found, chosen
            assert min(found) > 0, "Grafana marks what is above 0"
        assert not scene.prometheus.over_time(filled_in(expr, job="none"))
        if ALERTS not in expr:
            assert not scene.prometheus.over_time(filled_in(expr, namespace="none"))

    eventually(marked, 20)


def test_starts_are_marked_where_they_were(scene: Scene) -> None:
    (mark,) = (mark for mark in MARKS if mark.time == "the value")
    for now, value in scene.prometheus.over_time(filled_in(mark.expr)):
        assert 0 < now - value / 1000 < 600


def test_what_can_be_chosen_is_what_there_is(scene: Scene) -> None:
    def choices(name: str, **chosen: str) -> set[str]:
        selector, label = re.fullmatch(r"label_values\((.+), (\w+)\)", QUERIES[name][1]).groups()  # type: ignore[union-attr]
        found = scene.prometheus.get(
            f"label/{label}/values", **{"match[]": filled_in(selector, **chosen)}
        )
        return set(found)

    assert choices("job") == {"jumplora", OTHER_JOB}
    assert choices("namespace") == {OTHER_NAMESPACE}
    assert choices("namespace", job="jumplora") == set(), "the label is not everywhere"
    assert choices("instance") == {scene.server.target}
    assert choices("instance", job="none") == set()
    assert choices("task_id") == {*TASKS, "_unknown"}
    assert choices("task_id", instance="none") == set()


def test_recording_rules_have_data_and_no_rule_fails(scene: Scene) -> None:
    def rules_are_well() -> None:
        rules = scene.prometheus.rules()
        assert {rule["name"]: rule["lastError"] for rule in rules if rule["health"] != "ok"} == {}
        for rule in rules:
            if rule["type"] == "recording":
                assert scene.prometheus.query(rule["name"]), rule["name"]

    eventually(rules_are_well, 40)


def test_a_bad_file_is_seen_as_degraded(scene: Scene) -> None:
    def degraded() -> None:
        found = scene.prometheus.query("jumplora_adapter_degraded == 1")
        assert {s.labels["task_id"] for s in found} == {"mnli"}
        alerts = scene.prometheus.get("alerts")["alerts"]
        names = {(a["labels"]["alertname"], a["labels"].get("task_id")) for a in alerts}
        assert names == {("JumpLoRATaskDegraded", "mnli"), ("JumpLoRAPublishRefused", "mnli")}

    eventually(degraded, 20)


def test_memory_on_the_page_is_what_the_server_reports(scene: Scene) -> None:
    for task in TASKS:
        status = scene.http.get(f"/v1/adapters/{task}").json()
        digests = scene.prometheus.query(
            f'jumplora_adapter_info{{job="jumplora", task_id="{task}"}}'
        )
        assert [s.labels["digest"] for s in digests] == [status["version"]]
        nonzeros = scene.prometheus.query(f'jumplora_adapter_nonzeros{{task_id="{task}"}}')
        assert nonzeros[0].value > 0
        disk = scene.prometheus.query(
            f'jumplora_adapter_memory_bytes{{task_id="{task}", tier="disk"}}'
        )
        assert disk[0].value == scene.server.store.path_of(status["version"]).stat().st_size


def test_swaps_are_counted_and_nobody_noticed(scene: Scene) -> None:
    def swapped() -> None:
        for event, least in (("swaps", 2), ("rollbacks", 1), ("loads", 2)):
            found = scene.prometheus.query(f'jumplora_adapter_{event}_total{{task_id="boolqa"}}')
            assert found[0].value >= least, event

    eventually(swapped, 20)
    assert scene.traffic.failures == []


def test_requests_in_flight_are_seen(scene: Scene) -> None:
    def seen() -> None:
        most = "max_over_time(sum(jumplora_requests_in_flight)[1m:1s])"
        found = scene.prometheus.query(most)
        assert found[0].value > 0, "nobody calls Metrics.in_flight"

    eventually(seen, 20)


def test_what_nobody_registered_is_no_label(scene: Scene) -> None:
    labels = set(scene.prometheus.get("label/task_id/values"))
    assert labels == {*TASKS, "_unknown"}
