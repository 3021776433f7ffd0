"""The engine loop: from submit to exactly one terminal event, whatever happens in between."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from fakes import encode
from jumplora_server.core import (
    Batch,
    EngineLimits,
    FinishReason,
    QueueLimits,
    Sampling,
    TokenEvent,
)
from jumplora_server.errors import (
    Draining,
    GenerationFailed,
    InputTooLong,
    InvalidInput,
    QueueFull,
    TaskQuotaExceeded,
)
from jumplora_server.loop.outbox import OnEvent
from jumplora_server.routing import Lease
from small_server import Answer, SmallServer, wait_until

TINY = EngineLimits(max_rows=2, max_source_tokens=8, max_target_tokens=64, end_token_ids=(1,))


@pytest.fixture
def server(tmp_path: Path) -> Iterator[SmallServer]:
    """Two rows, the bare backbone only."""
    with SmallServer(tmp_path, limits=TINY, queue_limits=QueueLimits(4, 24, 0.75)) as server:
        yield server


def test_generates(server: SmallServer) -> None:
    assert server.generate(None, "hello") == "base:hello"


def test_events_come_in_order_and_add_up(server: SmallServer) -> None:
    answer = server.submit(None, "abc")[1]
    finish = answer.finish()
    assert finish.reason is FinishReason.EOS_TOKEN
    tokens = [event.token for event in answer.events]
    assert "".join(token.text for token in tokens if token is not None) == finish.text
    assert all(event.finish is None for event in answer.events[:-1])
    assert (finish.prompt_tokens, finish.generated_tokens) == (4, len("base:abc") + 1)


def test_who_wants_the_end_alone_gets_one_event(server: SmallServer) -> None:
    answer = server.submit(None, "abc", wants="end")[1]
    finish = answer.finish()
    assert (finish.text, finish.generated_tokens) == ("base:abc", len("base:abc") + 1)
    assert [event.token for event in answer.events] == [None]


def test_many_threads(server: SmallServer) -> None:
    texts = [f"t{index}" for index in range(40)]
    answers: dict[str, str] = {}

    def ask(part: list[str]) -> None:
        for text in part:
            answers[text] = server.generate(None, text)

    threads = [threading.Thread(target=ask, args=(texts[i::4],)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == {text: f"base:{text}" for text in texts}


def test_a_failing_step_ends_its_batch_and_the_loop_goes_on(
    server: SmallServer, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(batch: Batch) -> Exception | None:
        is_odd = any(s.encoding.prompt == encode("bad") for s in batch.decode)
        return ValueError("odd") if is_odd else None

    server.engine.fail_step = fail
    with caplog.at_level(logging.CRITICAL):
        finish = server.submit(None, "bad")[1].finish()
    assert finish.reason is FinishReason.ERROR
    assert isinstance(finish.error, GenerationFailed)
    assert isinstance(finish.error.__cause__, ValueError)
    assert "odd" not in finish.error.message, "no internals for clients"
    assert server.loop.progress.failed_steps == 1
    assert server.generate(None, "good") == "base:good"
    assert server.loop.progress.failed_steps == 0


def test_cancel_waiting_and_running(server: SmallServer) -> None:
    with server.engine.steps_held() as gate:
        submitted = [server.submit(None, "ab") for _ in range(3)]
        gate.wait_for_someone()
        for sequence_id, _ in submitted:
            server.loop.cancel(sequence_id)
            server.loop.cancel(sequence_id)
    reasons = [answer.finish().reason for _, answer in submitted]
    assert reasons == [FinishReason.CANCELLED] * 3
    server.loop.cancel(submitted[0][0])
    server.loop.cancel(999)
    assert server.generate(None) == "base:hi"


def test_deadline_between_decode_steps(server: SmallServer) -> None:
    # Six steps of twelve: a busy machine may stop this process for half a second on either side.
    server.engine.step_seconds = 0.1
    deadline = time.monotonic() + 0.6
    finish = server.submit(None, "abcdefg", deadline=deadline)[1].finish()
    assert finish.reason is FinishReason.TIMEOUT
    assert finish.error is None
    assert 0 < finish.generated_tokens < 12
    assert "base:abcdefg".startswith(finish.text)


def test_deadline_of_a_sequence_that_never_gets_a_row(server: SmallServer) -> None:
    with server.engine.steps_held() as gate:
        server.submit(None)
        gate.wait_for_someone()
        server.submit(None)
        late = server.submit(None, deadline=time.monotonic() - 1)[1]
    assert late.finish().reason is FinishReason.TIMEOUT
    assert late.finish().generated_tokens == 0


def test_caps_on_requests_tokens_and_tasks(server: SmallServer) -> None:
    reserve = server.loop.reserve
    held = [reserve("a", 5), reserve("a", 5), reserve("a", 5)]
    with pytest.raises(TaskQuotaExceeded, match="task 'a' has 3 requests with 15 tokens") as quota:
        reserve("a", 1)
    assert "its share beside the other tasks is 3 and 15" in str(quota.value)
    with pytest.raises(QueueFull, match="15 tokens wait; allowed are 4 and 24") as tokens:
        reserve("b", 10)
    held.append(reserve(None, 5))
    with pytest.raises(QueueFull) as full:
        reserve("b")
    for caught in (quota, tokens, full):
        assert caught.value.retry_after is not None
        assert caught.value.retry_after >= 1
    for reservation in held:
        reservation.release()
        reservation.release()
    assert (server.loop.admission.requests, server.loop.admission.tokens) == (0, 0)
    assert server.metric("jumplora_admission_rejections_total", reason="task_quota") == 1
    assert server.metric("jumplora_admission_rejections_total", reason="queue_tokens") == 1
    assert server.metric("jumplora_admission_rejections_total", reason="queue_requests") == 1


def test_a_prompt_over_the_token_cap_gets_in_alone(server: SmallServer) -> None:
    server.loop.reserve("a", 100).release()


def test_places_are_given_back_when_a_row_is_got(server: SmallServer) -> None:
    with server.engine.steps_held() as gate:
        answers = []
        for index in range(3):
            reservation = server.loop.reserve("a", 8)
            answers.append(server.submit(None, "ab", reservation=reservation)[1])
            if index == 1:
                gate.wait_for_someone()
        admission = server.loop.admission
        # One of them waits for the step to end, and maybe the second as well.
        assert 1 <= admission.requests <= 2
        assert admission.tokens == 3 * admission.requests, "counted tokens replace the bound"
    for answer in answers:
        answer.finish()
    wait_until(lambda: admission.requests == 0)
    assert admission.tokens == 0


def test_refuses_what_the_engine_cannot_hold(server: SmallServer) -> None:
    def submit(prompt: tuple[int, ...], max_new_tokens: int) -> None:
        sampling = Sampling(max_new_tokens=max_new_tokens)
        server.loop.submit(lease=Lease.base(), prompt=prompt, sampling=sampling, on_event=Answer())

    with pytest.raises(InputTooLong, match="9 tokens; 1 to 8"):
        submit((5,) * 9, 1)
    with pytest.raises(InputTooLong, match="0 tokens"):
        submit((), 1)
    with pytest.raises(InvalidInput, match="65; 1 to 64"):
        submit((5,), 65)


def test_draining_refuses_new_and_finishes_old(server: SmallServer) -> None:
    reserved = server.loop.reserve(None, 3)
    with server.engine.steps_held() as gate:
        running = server.submit(None, "ab")[1]
        gate.wait_for_someone()
        server.loop.drain()
        with pytest.raises(Draining):
            server.loop.reserve(None, 1)
        late = server.submit(None, "cd", reservation=reserved)[1]
    server.stop()
    assert [running.finish().text, late.finish().text] == ["base:ab", "base:cd"]
    with pytest.raises(Draining):
        server.submit(None)
    assert not server.loop.progress.alive


def test_stop_without_patience_ends_everything(server: SmallServer) -> None:
    with server.engine.steps_held() as gate:
        answers = [server.submit(None, "ab")[1] for _ in range(4)]
        gate.wait_for_someone()
        stopper = threading.Thread(target=server.stop, args=(0.0,))
        stopper.start()
        wait_until(lambda: server.loop.admission.requests == 0)
        with pytest.raises(Draining):
            wait_until(lambda: server.submit(None) is None)
    stopper.join()
    for answer in answers:
        assert answer.finish().reason is FinishReason.ERROR
        assert isinstance(answer.finish().error, Draining)


def test_a_hanging_step_does_not_keep_clients_waiting(tmp_path: Path) -> None:
    server = SmallServer(tmp_path, limits=TINY)
    with server.engine.steps_held() as gate:
        server.loop.start()
        answer = server.submit(None)[1]
        gate.wait_for_someone()
        server.loop.stop(0.0, hang_seconds=0.02)
        assert isinstance(answer.finish().error, Draining)
        progress = server.loop.progress
        assert progress.alive
        assert progress.busy


def test_stopping_before_starting_answers_what_was_submitted(tmp_path: Path) -> None:
    server = SmallServer(tmp_path)
    answer = server.submit(None)[1]
    server.loop.stop()
    assert isinstance(answer.finish().error, Draining)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_bug_in_delivery_ends_the_thread_and_every_sequence(tmp_path: Path) -> None:
    server = SmallServer(tmp_path, limits=TINY)

    def broken(event: object) -> None:
        raise RuntimeError("bug")

    answers = [server.submit(None, "ab")[1] for _ in range(3)]
    server.loop.submit(
        lease=Lease.base(), prompt=encode("x"), sampling=Sampling(4), on_event=broken
    )
    server.loop.start()
    for answer in answers:
        answer.finish()
    wait_until(lambda: not server.loop.progress.alive)
    with pytest.raises(Draining):
        server.submit(None)


def test_events_of_a_step_are_delivered_in_one_call(tmp_path: Path) -> None:
    calls: list[int] = []

    def deliver(events: list[tuple[OnEvent, TokenEvent]]) -> None:
        calls.append(len(events))
        for on_event, event in events:
            on_event(event)

    server = SmallServer(tmp_path, limits=TINY, deliver=deliver)
    answers = [server.submit(None, "ab")[1] for _ in range(2)]
    server.loop.start()
    for answer in answers:
        answer.finish()
    server.loop.stop(1.0)
    assert calls == [2] * (len("base:ab") + 1)


def test_progress(server: SmallServer) -> None:
    wait_until(lambda: not server.loop.progress.busy)
    with server.engine.steps_held() as gate:
        server.submit(None)
        gate.wait_for_someone()
        progress = server.loop.progress
        assert (progress.alive, progress.busy) == (True, True)
        assert progress.last <= time.monotonic()
    wait_until(lambda: not server.loop.progress.busy)


def test_metrics_of_steps(server: SmallServer) -> None:
    server.generate(None, "ab")
    wait_until(lambda: server.metric("jumplora_requests_running") == 0)
    assert server.metric("jumplora_batch_rows_count") == len("base:ab") + 1
    assert server.metric("jumplora_encoded_tokens_total") == 3
    assert server.metric("jumplora_cache_rows_in_use") == 0
