"""Odd requests to every route of every dialect: no fault of the server's, errors in their form."""

from __future__ import annotations

import random
from collections.abc import Iterator
from urllib.parse import urlsplit

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from jumplora_bench.reliability.siege.judge import form_at
from jumplora_bench.reliability.siege.odd_dialects import BODIES_OF, DIALECTS
from jumplora_bench.reliability.siege.own_sender import faults_of
from jumplora_bench.reliability.siege.shot import TASKS, Shot, post
from jumplora_bench.reliability.siege.wire import Heard, exchange
from serving import Site, listening, make_site

PATIENCE = 20.0


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Site:
    return make_site(tmp_path_factory.mktemp("site"), default_task="agnews", log_level="error")


@pytest.fixture(scope="module")
def address(site: Site) -> Iterator[tuple[str, int]]:
    with listening(site) as url:
        for task in TASKS:
            site.publish(task)
        parts = urlsplit(url)
        assert parts.hostname is not None
        assert parts.port is not None
        yield parts.hostname, parts.port


def heard(address: tuple[str, int], shot: Shot) -> Heard:
    return exchange(address, shot.raw, methods=shot.methods, seconds=PATIENCE, linger=0)


def faults(address: tuple[str, int], shot: Shot) -> list[str]:
    return faults_of(shot, heard(address, shot))


@pytest.mark.parametrize("path", BODIES_OF)
def test_a_body_of_all_fields_is_answered(path: str, address: tuple[str, int]) -> None:
    """So what is changed in it would be answered too: of 20, at least one is."""
    statuses = set()
    for seed in range(20):
        shot = Shot(post(BODIES_OF[path](random.Random(seed)), path))
        statuses |= {answer.status for answer in heard(address, shot).answers}
    assert 200 in statuses
    assert max(statuses) < 500


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rng=st.randoms(use_true_random=False))
@pytest.mark.parametrize("kind", DIALECTS)
def test_an_odd_body_of_a_dialect(kind: str, address: tuple[str, int], rng: random.Random) -> None:
    shot = DIALECTS[kind](rng)
    assert faults(address, shot) == [], shot.raw[:1000]


NO_BODIES = {
    "nothing": b"",
    "no JSON": b"{",
    "null": b"null",
    "a list": b"[]",
    "a string": b'"x"',
    "half a pair": b'"\\ud800"',
    "no UTF-8": b'{"prompt": "\xff"}',
    "UTF-16": '{"prompt": "x"}'.encode("utf-16"),
    "a key twice": b'{"model": "agnews", "model": "subject"}',
    "deep": b"[" * 100_000,
    "deep within": b'{"inputs": ' * 500 + b"1" + b"}" * 500,
    "many items": b'{"inputs": [' + b"1," * 100_000 + b"1]}",
    "NaN": b'{"parameters": {"temperature": NaN}}',
    "a long number": b'{"max_tokens": ' + b"9" * 100_000 + b"}",
}
PATHS = (
    *BODIES_OF, "/generate_stream", "/v1/tasks/agnews/generate", "/v1/tasks/agnews/generate_stream",
    "/v1/load_lora_adapter", "/v1/unload_lora_adapter", "/v1/responses", "/v2/nowhere",
    "/v2/models/agnews/versions/1/infer", "/v1/adapters/agnews/pin", "/nowhere",
)  # fmt: skip


@pytest.mark.parametrize("body", NO_BODIES.values(), ids=NO_BODIES)
def test_what_is_no_body_of_any_route(body: bytes, address: tuple[str, int]) -> None:
    found = {path: faults(address, Shot(post(body, path), form=form_at(path))) for path in PATHS}
    assert {path: each for path, each in found.items() if each} == {}


def test_the_server_failed_nowhere(site: Site, address: tuple[str, int]) -> None:
    del address
    for task in TASKS:
        assert "error_server" not in site.outcomes(task)
