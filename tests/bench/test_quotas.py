"""The quotas benchmark against a server of a few lines that keeps quotas by the server's meters."""

from __future__ import annotations

import hashlib
import threading
import time
import tomllib
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace

import pytest

from jumplora_bench.flooding import Reply
from jumplora_bench.quotas import (
    QuotasBench,
    QuotasPlan,
    Window,
    fill,
    keys_file,
    loud_keys,
)
from jumplora_bench.report import Report
from jumplora_server.access.caller import Caller, Quota
from jumplora_server.access.quotas import Demand, Quotas
from jumplora_server.errors import KeyQuotaExceeded
from small_http import Asked, Said, http_server

PLAN = QuotasPlan(
    shape="tiny", source=6, new=2, requests=1200, load=5.0, quiet_rate=20.0, seconds=1.0
)  # fmt: skip
LOUD = loud_keys(PLAN, ["first", "second"])


class Keeping:
    """What the bench uses of a server: an address that keeps quotas, and the page of /metrics."""

    def __init__(self) -> None:
        self.url = ""
        self.asked = Counter[str]()  # by task
        self._tokens = Counter[str]()
        self._quotas = Quotas(time.monotonic, lambda key, reason: None, lambda key: None)
        self._lock = threading.Lock()
        entries = tomllib.loads(keys_file(LOUD, "silence"))["keys"]
        names = ("requests_per_minute", "tokens_per_minute")
        self._callers = {
            each["hash"]: Caller(each["id"], quota=Quota(**{n: each.get(n) for n in names}))
            for each in entries
        }

    def answer(self, asked: Asked) -> Said:
        secret = asked.headers["authorization"].removeprefix("Bearer ")
        key = f"sha256:{hashlib.sha256(secret.encode()).hexdigest()}"
        task, new = asked.json["task_id"], asked.json["parameters"]["max_new_tokens"]
        with self._lock:
            self.asked[task] += 1
        try:
            (share,) = self._quotas.take(self._callers[key], Demand((6,), 1, 1, new))
        except KeyQuotaExceeded:
            return Said.of({}, 429)
        share.settle(new)
        with self._lock:
            self._tokens[task] += 6 + new
        return Said.of({})

    def scrape(self) -> str:
        with self._lock:
            return "".join(
                f'jumplora_generation_tokens_total{{task_id="{task}"}} {n}\n'
                for task, n in self._tokens.items()
            )


@pytest.fixture
def server() -> Iterator[Keeping]:
    keeping = Keeping()
    with http_server(keeping.answer) as keeping.url:
        yield keeping


def bench_of(server: Keeping) -> QuotasBench:
    return QuotasBench(PLAN, server, ("quiet", "silence"))  # type: ignore[arg-type]


def test_the_keys_have_the_quotas_and_no_secret_is_in_the_file() -> None:
    assert [(key.what, key.most) for key in LOUD] == [
        ("requests_per_minute", 1200),
        ("tokens_per_minute", 1200 * 8),
    ]
    text = keys_file(LOUD, "silence")
    assert not [secret for secret in (LOUD[0].secret, LOUD[1].secret, "silence") if secret in text]
    assert [set(entry) - {"id", "hash", "scopes"} for entry in tomllib.loads(text)["keys"]] == [
        {"requests_per_minute"},
        {"tokens_per_minute"},
        set(),
    ]


def test_alone_only_the_quiet_key_asks(server: Keeping) -> None:
    window = bench_of(server).alone()
    assert server.asked == {"quiet": 20}
    assert (len(window.quiet), window.refused, window.share) == (20, 0, None)
    assert window.p95 is not None


@pytest.mark.parametrize("key", LOUD, ids=lambda key: key.name)
def test_a_loud_key_asks_a_multiple_of_its_quota(server: Keeping, key: object) -> None:
    assert key in LOUD
    loud = next(each for each in LOUD if each is key)
    window = bench_of(server).beside(loud, PLAN.load)
    assert server.asked == {"quiet": 20, loud.task: 100}  # 20 a second are the quota
    assert window.loud[200] + window.loud[429] == 100
    assert window.refused == 0
    # In a second: 20, and two seconds' worth that may be ahead.
    assert 20 <= window.loud[200] <= 75
    assert window.used == window.loud[200] * loud.each
    assert window.share == pytest.approx(window.loud[200] / 20)


def test_the_report_says_what_holds() -> None:
    report = Report("quotas", "Title", "command")
    quiet = [Reply(200, 0.01)] * 19 + [Reply(200, 0.5)]
    good = Window(quiet, {200: 600}, 600, 1.0)
    found = {
        "alone": (None, Window(quiet)),
        "1 x a": (LOUD[0], good),
        "1 x b": (LOUD[0], replace(good, loud={200: 599, 429: 1})),
        "10 x a": (LOUD[0], replace(good, loud={200: 630, 429: 5370}, share=1.04)),
        "10 x b": (LOUD[0], replace(good, share=1.06)),
        "10 x c": (LOUD[0], replace(good, quiet=[*quiet, Reply(503, 0.1)])),
        "10 x d": (LOUD[0], replace(good, quiet=[])),
    }
    fill(report, found, even=lambda name: name.startswith("1 x"))
    (grid,) = report.grids
    assert [row[-1] for row in grid.rows] == [
        "", "met", "missed", "met", "missed", "missed", "missed"
    ]  # fmt: skip
    assert grid.rows[3] == ["10 x a", "630/5370/0", "1.040", "10", "0", "met"]
    assert grid.rows[6][3] == "-"
