"""A task that is deleted and published again under load, beside the plain load of a new task."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field

from jumplora_bench.reliability.findings import Findings
from jumplora_bench.reliability.site import NoAnswer, Site
from jumplora_bench.reliability.traffic import asks_right
from jumplora_bench.reliability.versions import Version

ASK_SECONDS = 30.0
NOISE = 1.5  # the slowest of a few dozen against another slowest, on a machine of few cores


@dataclass(slots=True)
class Reload:
    """Seconds from a PUT until an answer by that version, each measured in turn."""

    plain: list[float] = field(default_factory=list)
    again: list[float] = field(default_factory=list)

    def run(
        self, site: Site, findings: Findings, plain: Version, again: Version, rounds: int
    ) -> None:
        """`plain` is first asked once it is back; `again` is asked all along."""
        findings.case = "DELETE, then PUT"
        stop = threading.Event()

        def ask() -> None:
            while not stop.wait(0.01):
                asks_right(lambda body: site.try_request("POST", "/generate", json=body), again)

        clients = [threading.Thread(target=ask) for _ in range(2)]
        for client in clients:
            client.start()
        try:
            for _ in range(rounds):
                self._one(site, findings, plain, self.plain)
                self._one(site, findings, again, self.again)
        finally:
            stop.set()
            for client in clients:
                client.join()
        if self.plain and self.again:
            most, limit = max(self.again), max(self.plain) * NOISE
            what = f"{most:.2f} s against {max(self.plain):.2f} s"
            findings.check("answers again as soon as one load", most <= limit, what)

    def _one(self, site: Site, findings: Findings, version: Version, into: list[float]) -> None:
        path = f"/v1/adapters/{version.task}"
        deleted = site.try_request("DELETE", path)
        code = "no answer" if deleted is None else str(deleted.status_code)
        findings.check("DELETE", code in ("200", "404"), code)
        began = time.monotonic()
        try:
            response = site.put(version.task, version.content)
        except NoAnswer as error:
            findings.fault(f"PUT: {error}")
            return
        what = f"{response.status_code} {response.text[:100]}"
        findings.check("PUT", response.status_code == 201, what)
        wrong = "not asked"
        while wrong and time.monotonic() - began < ASK_SECONDS:
            wrong = asks_right(
                lambda body: site.try_request("POST", "/generate", json=body), version
            )
        if findings.check("answers again", wrong == "", wrong):
            into.append(time.monotonic() - began)
