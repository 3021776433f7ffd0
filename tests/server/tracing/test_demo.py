"""The spans of a request that the demo's real engine answers."""

from __future__ import annotations

from pathlib import Path

import httpx
import pytest

from collector import collecting
from jumplora_server import app
from jumplora_server.settings import load_settings
from serving import serving_app, wait_for

DEMO = Path(__file__).parents[3] / "adapters" / "demo"


def test_a_streamed_request_of_the_demo(monkeypatch: pytest.MonkeyPatch) -> None:
    with collecting() as collector:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url)
        settings = load_settings(
            backbone=str(DEMO / "backbone"),
            store=str(DEMO / "store"),
            threads=1,
            traces="otlp",
            hang_exit_seconds=0,
        )
        parts = app.assemble(settings)
        listening = serving_app(app.build(settings, parts), settings, app.traffic(parts.services))
        with listening as server, httpx.Client(timeout=60) as http:
            wait_for(lambda: parts.services.residency.settled, 60)
            answer = http.post(
                f"http://127.0.0.1:{server.port}/generate_stream",
                json={"task_id": "agnews", "text": "Oil prices fell.", "parameters": {}},
            )
            assert answer.status_code == 200
            assert "generated_text" in answer.text
    span = collector.one("POST /generate_stream")
    assert span.attributes["gen_ai.response.finish_reasons"] == ["eos_token"]
    children = collector.children(span)
    assert [child.name for child in children] == ["queue", "encode", "decode"]
    for child in children:
        assert span.start <= child.start < child.end <= span.end
    first = children[-1].events["first token"]
    assert children[-1].start < first <= children[-1].end
    assert {load.attributes["jumplora.task"] for load in collector.of("load adapter")} == {
        "agnews",
        "dbpedia",
        "register",
        "subject",
    }
