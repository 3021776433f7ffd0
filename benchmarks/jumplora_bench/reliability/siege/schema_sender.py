"""A process that sends what schemathesis makes: `schema_sender URL KEY SEED COUNT`.

All operations of /openapi.json, data that fits the schema and data that does not, every second
request with the operator's key. Stateless: no answer is used in another request. Prints as
`own_sender` does.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable
from itertools import count, product
from typing import Any

import requests
import schemathesis
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis.errors import HypothesisException
from schemathesis import APIOperation, Case, GenerationMode
from schemathesis.core.result import Ok

from jumplora_bench.reliability.siege.judge import fault_of, form_at
from jumplora_bench.reliability.siege.senders import say
from jumplora_bench.reliability.siege.wire import Answer

QUIET_TASK = "dbpedia"
PATIENCE = 30.0
_ROUND = 20  # examples of an operation at a time, at most: one without fields has but one
_PROGRESS = 20


class SchemaSender:
    """Sends cases until `wanted` were sent."""

    def __init__(self, url: str, key: str, wanted: int) -> None:
        self._url = url
        self._key = key
        self.left = self._wanted = wanted
        self.statuses: Counter[str] = Counter()
        self._session = requests.Session()
        self._session.trust_env = False

    def send(self, case: Case[Any], mode: GenerationMode) -> None:
        """Send one case and judge its answer."""
        if self.left <= 0:
            return
        self.left -= 1
        if (self._wanted - self.left) % _PROGRESS == 0:
            say(done=_PROGRESS)
        headers = {"authorization": f"Bearer {self._key}"} if self.left % 2 else {}
        name = f"{mode.value} {case.method} {case.operation.path}"
        if headers and QUIET_TASK in case.formatted_path:
            return
        try:
            answer = case.call(self._url, self._session, headers, timeout=PATIENCE)
        except requests.exceptions.RequestException as error:
            fault = f"no answer: {type(error).__name__} {error}"
            say(fault=fault, case=name, sent=case.as_curl_command()[:600])
            return
        except (ValueError, UnicodeError):  # what the client library itself does not send
            self.statuses[f"{name}|not sent"] += 1
            return
        self.statuses[f"{name}|{answer.status_code}"] += 1
        names = {key.lower(): values[-1] for key, values in answer.headers.items()}
        told, form = Answer(answer.status_code, names, answer.content), form_at(case.formatted_path)
        wrong = fault_of(told, case.method, form=form)
        if wrong is not None:
            say(fault=wrong, case=name, sent=case.as_curl_command()[:600])


def main(url: str, key: str, seed_: int, wanted: int) -> None:
    """Rounds over all operations until enough were sent."""
    schema = schemathesis.openapi.from_url(f"{url}/openapi.json")
    schema.config.generation.with_security_parameters = False  # `send` gives the keys
    operations = [each.ok() for each in schema.get_all_operations() if isinstance(each, Ok)]
    sender = SchemaSender(url, key, wanted)
    # Fewer, where all operations would not get their turn otherwise.
    examples = max(1, min(_ROUND, wanted // (len(operations) * len(GenerationMode))))
    for turn in count():
        before = sender.left
        for operation, mode in product(operations, GenerationMode):
            run = _examples(sender, operation, mode, seed_ + turn, examples)
            try:
                run()
            except HypothesisException:  # nothing that does not fit, or all of it was seen
                continue
        if sender.left <= 0:
            break
        if sender.left == before:
            raise SystemExit("schemathesis makes no request of this server's /openapi.json")
    say(done=wanted % _PROGRESS, statuses=dict(sender.statuses))


def _examples(
    sender: SchemaSender,
    operation: APIOperation[Any, Any, Any, Any],
    mode: GenerationMode,
    seed_: int,
    examples: int,
) -> Callable[[], None]:
    @seed(seed_)
    @settings(
        max_examples=examples,
        database=None,
        deadline=None,
        phases=(Phase.generate,),
        suppress_health_check=list(HealthCheck),
    )
    @given(case=operation.as_strategy(mode))
    def run(case: Case[Any]) -> None:
        sender.send(case, mode)

    return run


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
