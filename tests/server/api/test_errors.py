"""The one form of an error, from whatever was raised."""

from __future__ import annotations

import json
from typing import get_args

import pytest
from fastapi import FastAPI

from jumplora_adapters import errors as adapter_errors
from jumplora_adapters.errors import AdapterError
from jumplora_server import errors
from jumplora_server.api.ask import outcome_of
from jumplora_server.api.errors import as_server_error, server_error_response
from jumplora_server.errors import ServerError
from jumplora_server.metrics.tasks import Outcome

NOWHERE = {
    "route": None,
    "path": "/",
    "app": FastAPI(),
}  # the scope of a request for a route of no dialect


def every_server_error() -> list[type[ServerError]]:
    return [ServerError, *ServerError.__subclasses__()]


@pytest.mark.parametrize("kind", every_server_error(), ids=lambda kind: kind.__name__)
def test_every_error_has_a_status_a_code_and_an_outcome(kind: type[ServerError]) -> None:
    response = server_error_response(
        NOWHERE, kind("what and why", reason="popcount", retry_after=2.2)
    )
    body = json.loads(bytes(response.body))
    assert body == {"error": "what and why", "error_type": kind.code, "reason": "popcount"}
    assert response.status_code == kind.status
    assert response.headers.get("retry-after") == ("3" if kind.status in (429, 503) else None)
    assert outcome_of(kind("")) in get_args(Outcome)
    assert outcome_of(kind("")).startswith("client_") == (
        kind.status < 500 and kind is not errors.TaskQuotaExceeded
    )


def test_codes_are_unique() -> None:
    codes = [kind.code for kind in every_server_error()]
    assert len(set(codes)) == len(codes)


def test_no_reason_no_field() -> None:
    assert b"reason" not in server_error_response(NOWHERE, errors.QueueFull("full")).body


def test_retry_after_is_at_least_a_second() -> None:
    assert server_error_response(NOWHERE, errors.QueueFull("full")).headers["retry-after"] == "1"


def test_shed_answers_are_marked_for_proxies() -> None:
    assert server_error_response(NOWHERE, errors.QueueFull("")).headers["x-jumplora-shed"] == "1"
    for kind in (errors.AdapterUnavailable, errors.KeyQuotaExceeded):  # no retry elsewhere helps
        assert "x-jumplora-shed" not in server_error_response(NOWHERE, kind("")).headers


@pytest.mark.parametrize(
    ("error", "status", "code", "reason"),
    [
        (adapter_errors.FormatError("x", code="popcount"), 422, "adapter_refused", "popcount"),
        (adapter_errors.FingerprintMismatch("x"), 422, "adapter_refused", "fingerprint"),
        (adapter_errors.MissingAncestor("x"), 422, "adapter_refused", "missing_ancestor"),
        (adapter_errors.TaskIdInvalid("x"), 422, "validation", "task_id"),
        (adapter_errors.UnknownTask("x"), 404, "unknown_task", "unknown_task"),
        (adapter_errors.UnknownVersion("x"), 404, "unknown_version", "unknown_version"),
        (
            adapter_errors.HasDescendants("0" * 64, [("beta", "1" * 64)]),
            409,
            "adapter_in_use",
            "has_descendants",
        ),
        (adapter_errors.VersionConflict("x"), 412, "version_conflict", "version_conflict"),
        (adapter_errors.TaskExists("x"), 412, "version_conflict", "task_exists"),
        (adapter_errors.PromptTooLong("x"), 413, "input_too_long", "prompt_too_long"),
        (adapter_errors.StoreError("/secret/path"), 503, "store_fault", "store"),
        (adapter_errors.NoPointer("/secret/path"), 503, "store_fault", "no_pointer"),
        (adapter_errors.StoreBusy("/secret/path"), 503, "store_busy", "store_busy"),
        (adapter_errors.StoreFull("/secret/path"), 507, "store_full", "store_full"),
        (adapter_errors.StoreReadOnly("/secret/path"), 503, "store_read_only", "store_read_only"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else "",
)
def test_adapter_errors(error: AdapterError, status: int, code: str, reason: str) -> None:
    answer = as_server_error(error)
    assert (answer.status, answer.code, answer.reason) == (status, code, reason)
    assert "/secret" not in answer.message
