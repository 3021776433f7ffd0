"""What Kubernetes' inference gateway reads of the adapters in memory."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from jumplora_server.metrics.gateway import slots
from serving import ADMIN_KEY, Site, connected, make_site, wait_for

Started = tuple[Site, httpx.Client]
ADAPTER_BYTES = 100  # of a test's adapter in the fake engine
ROWS = 4


def series(http: httpx.Client) -> dict[tuple[str, ...], float]:
    """The gateway's samples: name and label values -> value."""
    return {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(http.get("/metrics").text)
        for sample in family.samples
        if sample.name.startswith("vllm:") and "requests_info" not in sample.name
    }


def loaded(http: httpx.Client) -> dict[str, str]:
    """Tasks that the gateway takes for resident, and whether they are pinned."""
    return {key[1]: key[3] for key in series(http) if key[0] == "vllm:lora_adapter_loaded"}


@pytest.fixture
def started(tmp_path: Path) -> Iterator[Started]:
    site = make_site(
        tmp_path, adapter_budget_bytes=3 * 1024, served_name="org/t5", max_task_labels=1
    )
    with connected(site, headers={"authorization": f"Bearer {ADMIN_KEY}"}) as http:
        yield site, http


def test_all_is_there_before_an_adapter_is_loaded(started: Started) -> None:
    assert series(started[1]) == {
        ("vllm:num_requests_waiting",): 0,
        ("vllm:num_requests_running",): 0,
        ("vllm:kv_cache_usage_perc",): 0,
        ("vllm:num_gpu_loaded_lora_adapters", "org/t5"): 0,
        ("vllm:max_gpu_lora_adapters", "org/t5"): ROWS,
    }


def test_idle_adapters_are_loaded_ones(started: Started) -> None:
    site, http = started
    for task in ("alpha", "beta"):
        site.publish(task)
    found = series(http)
    assert found["vllm:lora_adapter_loaded", "alpha", "gpu", "false"] == 1
    assert loaded(http) == {"alpha": "false", "beta": "false"}  # also beyond max_task_labels
    assert found["vllm:num_gpu_loaded_lora_adapters", "org/t5"] == 2
    budget = site.parts.services.settings.adapter_budget_bytes
    assert found["vllm:max_gpu_lora_adapters", "org/t5"] == budget // ADAPTER_BYTES


def test_a_new_version_is_the_same_adapter(started: Started) -> None:
    site, http = started
    site.publish("alpha")
    site.publish("alpha")
    assert loaded(http) == {"alpha": "false"}


def test_pins_show_at_once(started: Started) -> None:
    site, http = started
    site.publish("alpha")
    for pinned in ("pinned", "unpinned"):
        assert http.post("/v1/adapters/alpha/pin", json={"pinned": pinned}).status_code == 200
        assert loaded(http) == {"alpha": str(pinned == "pinned").lower()}


def test_a_removed_task_leaves_nothing(started: Started) -> None:
    site, http = started
    site.publish("alpha")
    assert http.delete("/v1/adapters/alpha").status_code == 200
    wait_for(lambda: loaded(http) == {})
    assert "alpha" not in http.get("/metrics").text


def test_what_was_evicted_is_not_loaded(tmp_path: Path) -> None:
    site = make_site(tmp_path, adapter_budget_bytes=2 * 1024)
    tasks = [f"task{number}" for number in range(30)]
    with connected(site) as http:
        for task in tasks:
            site.publish(task)
        found = http.get("/v1/adapters").json()["adapters"]
        resident = {each["task_id"] for each in found if each["state"] == "READY"}
        assert tasks[-1] in resident
        assert tasks[0] not in resident
        assert set(loaded(http)) == resident
        gauges = series(http)
        assert gauges["vllm:num_gpu_loaded_lora_adapters", "toy"] == len(resident)
        assert gauges["vllm:max_gpu_lora_adapters", "toy"] == 2 * 1024 // ADAPTER_BYTES


def test_an_adapter_that_does_not_load_is_not_loaded(started: Started) -> None:
    site, http = started
    site.engine.fail_pack = lambda found: MemoryError("no memory")
    site.publish("alpha")
    assert loaded(http) == {}


@given(st.lists(st.integers(0, 1000), max_size=20), st.integers(-1000, 10_000), st.integers(1, 64))
def test_slots_leave_room_exactly_where_there_is_some(
    sizes: list[int], free: int, rows: int
) -> None:
    """One more of the average size fits if and only if the gateway sees a free slot."""
    most = slots(sizes, free, rows)
    assert most >= len(sizes)
    if sum(sizes):
        assert (most > len(sizes)) == (free * len(sizes) >= sum(sizes))
    else:
        assert most == max(rows, len(sizes))
