"""What a caller of some tasks reads in place of what names others."""

from __future__ import annotations

from typing import Any

import pytest

from jumplora_adapters.errors import (
    AdapterError,
    FingerprintMismatch,
    FormatError,
    HasDescendants,
    MissingAncestor,
    NoPointer,
    StoreError,
    UnknownVersion,
)
from jumplora_adapters.manifest import BackboneRef, Manifest
from jumplora_server.access.caller import ANYBODY, Caller, TaskPatterns
from jumplora_server.api.sight import descendants_for, error_for, manifest_for, text_for
from jumplora_server.errors import AdapterRefused, AdapterUnavailable, OutOfMemoryBudget
from jumplora_server.residency.entries import LoadFailure, State, VersionFacts, other_task
from jumplora_server.residency.outcome import require_served
from jumplora_server.residency.setback import Refused, failure_below, failure_of
from jumplora_server.residency.status import TaskStatus

MINE = Caller("key", tasks=TaskPatterns.of({"mine*"}))
VERSION, OLDER = "a" * 64, "b" * 64


@pytest.mark.parametrize(
    "error",
    [
        FormatError("/store/theirs/file is a link, not an ordinary file"),
        StoreError("/store/theirs/current cannot be read"),
        NoPointer("/store/theirs/current is not there"),
        OSError(2, "gone", "/store/theirs/current"),
        OSError("theirs"),
        ValueError("theirs"),
        KeyError("theirs"),
        Refused(other_task(VersionFacts(VERSION, "theirs", (), 1), "mine")),
    ],
    ids=repr,
)
def test_what_may_name_others_is_not_read(error: Exception) -> None:
    for failure in (failure_of(error), failure_below(error)):
        assert "theirs" not in text_for(MINE, failure)
        assert text_for(ANYBODY, failure) == failure.message


@pytest.mark.parametrize(
    "error",
    [
        FormatError("the masks have 3 bits", code="popcount"),
        FingerprintMismatch("made for another backbone"),
        MissingAncestor(f"ancestor {VERSION} is not in the store"),
        UnknownVersion(f"no version {VERSION} in the store"),
        AdapterRefused("1 of 3 canaries were right", reason="canary"),
        OutOfMemoryBudget("3 bytes have to stay", reason="memory_budget"),
        MemoryError(),
    ],
    ids=repr,
)
def test_what_is_of_its_own_file_is_read(error: Exception) -> None:
    failure = failure_of(error)
    assert text_for(MINE, failure) == failure.message


def test_a_fault_of_an_ancestor_is_not() -> None:
    failure = failure_below(FormatError("its task is theirs", code="manifest"))
    assert text_for(MINE, failure) == (
        "a version that it stands on does not load (manifest): the server's log says more, which "
        "an operator can read"
    )
    assert failure.message == "its task is theirs"


def test_an_error_keeps_both_texts_and_is_not_changed() -> None:
    """Several requests may wait for one load, and get the same error."""
    error = LoadFailure("x", "theirs", "of another").told("it: ", "; wait", retry_after=3.0)
    seen = error_for(MINE, error)
    assert (seen.message, error.message) == ("it: of another; wait", "it: theirs; wait")
    assert (type(seen), seen.reason, seen.retry_after) == (AdapterUnavailable, "x", 3.0)
    assert error_for(ANYBODY, error) is error
    plain = LoadFailure("x", "it is odd").told()
    assert error_for(MINE, plain) is plain


def test_a_publish_that_is_not_served_says_both() -> None:
    status = TaskStatus(
        "mine", None, VERSION, State.FAILED, True, failure_of(ValueError("theirs")), None, False,
        0, 0, 0, 0, 0, 0.0, None, None, 0, None, (),
    )  # fmt: skip
    with pytest.raises(AdapterUnavailable, match="theirs; no version answers") as raised:
        require_served(status, VERSION)
    seen = error_for(MINE, raised.value).message
    assert seen.endswith("; no version answers")
    assert "theirs" not in seen


@pytest.mark.parametrize(
    ("found", "text"),
    [
        (
            [("theirs", OLDER)],
            "is an ancestor of other versions; a version of a task that this key does not see "
            "needs it: ask an operator",
        ),
        (
            [("mine-2", OLDER), ("mine-3", VERSION)],
            "is an ancestor of 2 others, such as mine-2@bbbbbbbbbbbb: remove those first",
        ),
        (
            [("theirs", VERSION), ("mine-2", OLDER)],
            "is an ancestor of 1 others, such as mine-2@bbbbbbbbbbbb: remove those first; a "
            "version of a task that this key does not see needs it: ask an operator",
        ),
    ],
    ids=["others", "own", "both"],
)
def test_descendants(found: list[tuple[str, str]], text: str) -> None:
    error: AdapterError = HasDescendants(VERSION, found)
    assert isinstance(error, HasDescendants)
    assert descendants_for(MINE, error) == f"version {VERSION[:12]} {text}"


def manifest(continual: Any) -> Manifest:
    return Manifest(
        kind="masked",
        task="mine",
        backbone=BackboneRef(fingerprint="0" * 64, name="toy"),
        targets=("a",),
        method="m",
        training={"steps": 3, "continual": continual},
    )


def test_a_continual_run_shows_its_part() -> None:
    order = ["theirs", "mine-1", "others", "mine"]
    shares = dict.fromkeys(order, 0.5)
    given = manifest(
        {
            "run": "r", "order": order, "position": 4, "method": "jumplora", "gate": "jumprelu",
            "split": "dev", "accuracy": shares, "accuracy_when_learned": shares,
            "backward_transfer": -0.1, "after": "theirs", "parents": {"theirs": 1},
        }
    )  # fmt: skip
    assert manifest_for(ANYBODY, given) is given
    seen = manifest_for(MINE, given)
    assert seen is not None
    mine = {"mine-1": 0.5, "mine": 0.5}
    assert seen.training == {
        "steps": 3,
        "continual": {
            "run": "r", "order": ["mine-1", "mine"], "position": 2, "method": "jumplora",
            "gate": "jumprelu", "split": "dev", "accuracy": mine, "accuracy_when_learned": mine,
            "backward_transfer": -0.1,
        },
    }  # fmt: skip
    assert given.training["continual"] != seen.training["continual"]


@pytest.mark.parametrize(
    "odd", ["theirs", ["theirs"], {"order": "theirs", "accuracy": ["theirs"], "run": ["theirs"]}]
)
def test_an_odd_note_shows_nothing(odd: object) -> None:
    seen = manifest_for(MINE, manifest(odd))
    assert seen is not None
    assert "theirs" not in seen.model_dump_json()
