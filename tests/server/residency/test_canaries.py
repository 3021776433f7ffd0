"""Canaries: what counts as right, what refuses a version, and what goes on serving then."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from factories import random_adapter
from fakes import LIMITS, encode, say
from jumplora_adapters.manifest import Canary
from jumplora_server.core import (
    DEFAULT_NEW_TOKENS,
    Batch,
    Finish,
    FinishReason,
    Lease,
    Sampling,
    Timing,
    TokenEvent,
)
from jumplora_server.errors import (
    AdapterRefused,
    AdapterUnavailable,
    Draining,
    GenerationFailed,
    ServerError,
)
from jumplora_server.residency.entries import State
from jumplora_server.residency.trials import CanaryRun
from small_server import BACKBONE, PATIENCE, SmallServer, wait_until

TIMING = Timing(queue=0.0, encode=0.0, decode=0.0, total=0.0, first_token=None)
CANARIES = (
    Canary(prompt="who won", expected="Sports"),
    Canary(prompt="who pays", expected="Business"),
    Canary(prompt="who rules", expected="World"),
    Canary(prompt="who codes", expected="Sci/Tech"),
)
RIGHT = {canary.prompt: canary.expected for canary in CANARIES}


def lease_of(canaries: Sequence[Canary], **fields: Any) -> Lease:
    manifest, _ = random_adapter(BACKBONE)
    fields["canaries"] = tuple(canaries)
    return Lease(None, manifest.model_copy(update=fields), lambda: None, lambda: None)


class Answers:
    """A `submit` that answers each prompt at once, by a text or by an error."""

    def __init__(self, answers: Mapping[str, str | FinishReason | ServerError]) -> None:
        self.answers = answers
        self.samplings: list[Sampling] = []
        self.priorities: list[str] = []

    def __call__(
        self,
        *,
        prompt: tuple[int, ...],
        sampling: Sampling,
        on_event: Callable[[TokenEvent], None],
        priority: str,
        **rest: Any,
    ) -> int:
        del rest
        self.samplings.append(sampling)
        self.priorities.append(priority)
        answer = self.answers["".join(map(chr, prompt[:-1]))]
        if isinstance(answer, Draining):
            raise answer
        text, reason, error = "", FinishReason.EOS_TOKEN, None
        if isinstance(answer, FinishReason):
            reason = answer
        elif isinstance(answer, ServerError):
            reason, error = FinishReason.ERROR, answer
        else:
            text = answer
        on_event(TokenEvent(1, None, Finish(reason, text, 1, 1, TIMING, error)))
        return 1

    def run(self, lease: Lease, floor: float = 0.75) -> float | None:
        replay = CanaryRun(self, encode, LIMITS, lambda: 0.0, floor=floor)(lease)
        return None if replay is None else replay.accuracy


@pytest.mark.parametrize(
    ("got", "accuracy"),
    [
        pytest.param("Sports", 1.0, id="equal"),
        pytest.param("  sPORTS\n", 1.0, id="case and white space at the ends"),
        pytest.param("Sports.", 0.0, id="punctuation counts"),
        pytest.param("", 0.0, id="nothing"),
    ],
)
def test_what_is_right(got: str, accuracy: float) -> None:
    assert Answers({"who won": got}).run(lease_of(CANARIES[:1]), floor=0) == accuracy


def test_white_space_within_is_folded() -> None:
    canary = Canary(prompt="p", expected="two\t words")
    assert Answers({"p": "Two words"}).run(lease_of([canary])) == 1.0


def test_no_canaries_no_accuracy() -> None:
    answers = Answers({})
    assert answers.run(lease_of(())) is None
    assert answers.run(Lease.base()) is None
    assert answers.samplings == []


def test_they_run_greedily_with_the_manifests_length() -> None:
    answers = Answers(RIGHT)
    defaults = {"max_new_tokens": 7, "temperature": 2.0, "stop": ("S",)}
    answers.run(lease_of(CANARIES, generation=defaults))
    assert answers.samplings == [Sampling(max_new_tokens=7)] * 4
    assert answers.priorities == ["low"] * 4


@pytest.mark.parametrize(
    ("asked", "given"),
    [({}, DEFAULT_NEW_TOKENS), ({"max_new_tokens": 4096}, LIMITS.max_target_tokens)],
    ids=["default", "capped"],
)
def test_how_long_an_answer_may_be(asked: dict[str, int], given: int) -> None:
    answers = Answers(RIGHT)
    answers.run(lease_of(CANARIES, generation=asked))
    assert {sampling.max_new_tokens for sampling in answers.samplings} == {given}


def test_the_floor_itself_passes() -> None:
    assert Answers(RIGHT | {"who won": "?"}).run(lease_of(CANARIES)) == 0.75


def test_below_the_floor_the_message_says_which_was_wrong_and_tells_no_text() -> None:
    prompt = "Task Instruction: name the section. Text: " + "z" * 20
    canary = Canary(prompt=prompt, expected="World")
    wrong = {prompt: "Sports", "who pays": "?"}
    with pytest.raises(AdapterRefused) as caught:
        Answers(RIGHT | wrong).run(lease_of((CANARIES[0], canary, *CANARIES[1:4])))
    assert caught.value.reason == "canary"
    assert caught.value.message == (
        "3 of its 5 canaries were right, a share of 0.6; this server's floor is 0.75; the first"
        " wrong one is number 2 of its manifest's: the answer is not the expected text"
    )


def test_a_floor_of_zero_only_reports() -> None:
    assert Answers(dict.fromkeys(RIGHT, "?")).run(lease_of(CANARIES), floor=0) == 0.0


def test_a_prompt_that_is_too_long_counts_as_wrong() -> None:
    long = Canary(prompt="x" * 64, expected="y")
    fits = Canary(prompt="x" * 63, expected="y")
    answers = Answers({fits.prompt: "y"})
    assert answers.run(lease_of([long, fits]), floor=0.5) == 0.5
    with pytest.raises(AdapterRefused, match="not asked: it has 65 tokens, at most 64 are allowed"):
        answers.run(lease_of([long]), floor=0.5)


@pytest.mark.parametrize("floor", [0.0, 1.0])
@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        pytest.param(GenerationFailed("odd", reason="nonfinite"), "nonfinite", id="engine"),
        pytest.param(FinishReason.TIMEOUT, "warm_up", id="deadline"),
        pytest.param(Draining("later"), None, id="not taken"),
    ],
)
def test_what_cannot_be_computed_is_no_wrong_answer(
    answer: FinishReason | ServerError, reason: str | None, floor: float
) -> None:
    with pytest.raises((GenerationFailed, Draining)) as caught:
        Answers(RIGHT | {"who rules": answer}).run(lease_of(CANARIES), floor)
    assert caught.value.reason == reason


# In a server


def knows(server: SmallServer, *ignorant: str) -> None:
    """Every version answers the canaries rightly but the given ones, by digest."""

    def answer(prompt: tuple[int, ...], versions: tuple[str, ...]) -> str:
        text = "".join(map(chr, prompt[:-1]))
        if versions[-1] in ignorant or text not in RIGHT:
            return say(prompt, versions)
        return RIGHT[text]

    server.engine.say = answer


def code_of(server: SmallServer, task: str) -> str | None:
    failure = server.residency.status(task).failure
    return None if failure is None else failure.code


def measured(server: SmallServer, task: str, digest: str) -> float | None:
    return server.registry.get_sample_value(
        "jumplora_adapter_canary_accuracy", {"task_id": task, "version": digest[:12]}
    )


def test_a_version_with_its_canaries_right_is_served(tmp_path: Path) -> None:
    with SmallServer(tmp_path) as server:
        knows(server)
        digest = server.publish("a", canaries=CANARIES)
        status = server.residency.sync("a").result(PATIENCE)
        assert (status.version, status.canary_accuracy, status.degraded) == (digest, 1.0, False)
        assert measured(server, "a", digest) == 1.0
        stages = server.metric("jumplora_adapter_last_load_seconds", task_id="a", stage="canaries")
        assert stages > 0


def test_all_wait_for_a_row_at_the_same_time(tmp_path: Path) -> None:
    with SmallServer(tmp_path) as server:
        knows(server)
        batches: list[int] = []

        def note(batch: Batch) -> None:
            batches.append(len(batch.encode))

        server.engine.fail_step = note
        server.publish("a", canaries=CANARIES)
        server.settle("a")
        assert max(batches) == LIMITS.max_rows == len(CANARIES)


def test_wrong_canaries_keep_the_old_version(tmp_path: Path) -> None:
    with SmallServer(tmp_path) as server:
        knows(server)
        good = server.publish("a", seed=0, canaries=CANARIES)
        server.settle("a")
        bad = server.publish("a", seed=1, canaries=CANARIES)
        knows(server, bad)
        status = server.residency.sync("a").result(PATIENCE)
        assert (status.version, status.desired, status.degraded) == (good, bad, True)
        assert status.failure is not None
        assert status.failure.code == "canary"
        assert status.failure.message.startswith("0 of its 4 canaries were right")
        assert server.generate("a") == f"{good[:8]}:hi"
        assert server.engine.resident_bytes == 100, "nothing is left of the attempt"
        failures = "jumplora_adapter_load_failures_total"
        assert server.metric(failures, task_id="a", code="canary") == 1
        assert (measured(server, "a", good), measured(server, "a", bad)) == (1.0, None)
        server.store.rollback("a")
        server.settle("a")
        status = server.residency.status("a")
        assert (status.version, status.degraded, status.failure) == (good, False, None)


def test_a_floor_of_zero_serves_and_reports(tmp_path: Path) -> None:
    with SmallServer(tmp_path, canary_floor=0.0) as server:
        digest = server.publish("a", canaries=CANARIES)
        server.settle("a")
        assert server.residency.status("a").version == digest
        assert measured(server, "a", digest) == 0.0


def test_without_canaries_nothing_is_measured(tmp_path: Path) -> None:
    with SmallServer(tmp_path) as server:
        knows(server)
        old = server.publish("a", seed=0, canaries=CANARIES)
        server.settle("a")
        new = server.publish("a", seed=1)
        server.settle("a")
        assert (measured(server, "a", old), measured(server, "a", new)) == (None, None)
        stages = "jumplora_adapter_last_load_seconds"
        assert not server.metric(stages, task_id="a", stage="canaries")


def test_an_engine_that_fails_on_canaries_keeps_the_old_version(tmp_path: Path) -> None:
    with SmallServer(tmp_path) as server:
        old = server.publish("a", seed=0)
        server.settle("a")
        server.publish("a", seed=1, canaries=CANARIES)
        fault = RuntimeError("kernel")
        asked = encode(CANARIES[-1].prompt)
        server.engine.fail_step = lambda batch: (
            fault if any(s.encoding.prompt == asked for s in batch.decode) else None
        )
        server.settle("a")
        assert (server.residency.status("a").version, code_of(server, "a")) == (old, "generation")
        assert server.engine.resident_bytes == 100


def test_they_are_not_replayed_after_an_eviction(tmp_path: Path) -> None:
    with SmallServer(tmp_path, budget_bytes=150) as server:
        knows(server)
        digest = server.publish("a", canaries=CANARIES)
        server.settle("a")
        server.publish("b")
        server.settle("b")
        assert server.residency.status("a").state is State.COLD
        assert measured(server, "a", digest) == 1.0
        knows(server, digest)
        assert server.generate("a") == f"{digest[:8]}:hi"
        assert server.residency.status("a").state is State.READY


def test_a_removed_task_leaves_no_accuracy(tmp_path: Path) -> None:
    with SmallServer(tmp_path) as server:
        knows(server)
        digest = server.publish("a", canaries=CANARIES)
        server.settle("a")
        server.store.remove("a")
        server.residency.forget("a")
        wait_until(lambda: not server.engine.slots)
        wait_until(lambda: measured(server, "a", digest) is None)


def test_a_version_that_was_loaded_as_an_ancestor_owes_its_own(tmp_path: Path) -> None:
    with SmallServer(tmp_path, fold="never") as server:
        knows(server)
        first = server.publish("one", canaries=CANARIES)
        server.publish("two", lineage=[first])
        server.settle("two")
        assert first in server.engine.packed
        server.settle("one")
        assert server.engine.packed.count(first) == 1
        assert measured(server, "one", first) == 1.0


@pytest.mark.parametrize("older", ["none", "one"])
def test_an_ancestor_that_fails_its_own_answers_for_its_descendant_only(
    tmp_path: Path, older: str
) -> None:
    with SmallServer(tmp_path) as writer:
        before = writer.publish("one", seed=9) if older == "one" else None
        first = writer.publish("one", canaries=CANARIES)
        second = writer.publish("a-two", lineage=[first])  # sorts, and so loads, before the other
    server = SmallServer(tmp_path)
    knows(server, first)
    with server:
        wait_until(lambda: server.residency.settled)
        status = server.residency.status("one")
        assert (status.version, code_of(server, "one")) == (before, "canary")
        assert server.generate("a-two") == f"{first[:8]}+{second[:8]}:hi"
        if before is None:
            assert status.state is State.FAILED
            with pytest.raises(AdapterUnavailable, match="0 of its 4 canaries"):
                server.generate("one")
        else:
            assert server.generate("one") == f"{before[:8]}:hi"


def test_an_ancestor_whose_task_goes_while_it_is_asked(tmp_path: Path) -> None:
    with SmallServer(tmp_path) as server:
        knows(server)
        first = server.publish("one", canaries=CANARIES)
        second = server.publish("two", lineage=[first])
        server.settle("two")
        with server.engine.steps_held() as gate:
            settling = server.residency.sync("one")
            gate.wait_for_someone()
            server.residency.forget("one")
            server.residency.forget("two")
        settling.exception(PATIENCE)
        server.settle("two")
        assert server.generate("two") == f"{first[:8]}+{second[:8]}:hi"
        server.settle("one")
        assert server.generate("one") == f"{first[:8]}:hi"
