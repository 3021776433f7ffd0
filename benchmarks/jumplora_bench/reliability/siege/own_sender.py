"""A process that sends our own odd requests: `own_sender URL KEY SEED FIRST END STEP`.

Request number n is the same for the same seed, whatever was sent before it. Prints a line of JSON
for each fault and for progress, and at the end one with what was sent. A single request is
repeated by `... SEED n n+1 1`.
"""

from __future__ import annotations

import random
import sys
from collections import Counter
from urllib.parse import urlsplit

from jumplora_bench.reliability.siege.judge import fault_of
from jumplora_bench.reliability.siege.odd_bodies import BODIES
from jumplora_bench.reliability.siege.odd_changes import CHANGES, KEY
from jumplora_bench.reliability.siege.odd_dialects import DIALECTS
from jumplora_bench.reliability.siege.odd_framing import FRAMING
from jumplora_bench.reliability.siege.odd_heads import HEADS
from jumplora_bench.reliability.siege.senders import say
from jumplora_bench.reliability.siege.shot import Kind, Shot
from jumplora_bench.reliability.siege.wire import Heard, exchange

KINDS: dict[str, Kind] = {**FRAMING, **HEADS, **BODIES, **DIALECTS, **CHANGES}
PROGRESS = 20
PATIENCE = 30.0


def shot_of(seed: int, number: int) -> tuple[str, Shot]:
    """The kind and the request of that number; kinds come in turn."""
    kind = list(KINDS)[number % len(KINDS)]
    return kind, KINDS[kind](random.Random(f"{seed}:{number}"))


def faults_of(shot: Shot, heard: Heard) -> list[str]:
    """What is wrong with all that came back to a request."""
    methods = shot.methods
    faults = []
    for turn, answer in enumerate(heard.answers):
        method = methods[min(turn, len(methods) - 1)]
        faults.append(fault_of(answer, method, shot.allowed, shot.form))
    if len(heard.answers) > len(methods):
        extra = heard.answers[len(methods)]
        faults.append(f"more answers than requests: {extra.status} {extra.body[:80]!r}")
    if shot.ending == "wait" and not shot.may_be_cut and len(heard.answers) < len(methods):
        came = [answer.status for answer in heard.answers]
        faults.append(f"no answer: {heard.end}, only {came} came, then {heard.rest[:80]!r}")
    elif heard.end == "silent":
        faults.append(f"no answer: nothing within {PATIENCE:.0f} s, not even an end")
    return [fault for fault in faults if fault is not None]


def main(url: str, key: str, seed: int, numbers: range) -> None:
    """Send all of them, one after another."""
    parts = urlsplit(url)
    address = (parts.hostname or "", parts.port or 80)
    statuses: Counter[str] = Counter()
    for done, number in enumerate(numbers):
        if done and done % PROGRESS == 0:
            say(done=PROGRESS)
        kind, shot = shot_of(seed, number)
        raw = shot.raw.replace(KEY.encode(), key.encode())
        try:
            heard = exchange(
                address, raw, methods=shot.methods, ending=shot.ending, seconds=PATIENCE
            )
        except OSError as error:
            say(fault=f"no connection: {error}", case=kind, number=number)
            continue
        statuses.update(f"{kind}|{answer.status}" for answer in heard.answers)
        if not heard.answers:
            statuses[f"{kind}|{heard.end}"] += 1
        for fault in faults_of(shot, heard):
            say(fault=fault, case=kind, number=number, sent=repr(shot.raw[:600]))
    left = len(numbers) - PROGRESS * max(0, (len(numbers) - 1) // PROGRESS)
    say(done=left, statuses=dict(statuses))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), range(*map(int, sys.argv[4:7])))
