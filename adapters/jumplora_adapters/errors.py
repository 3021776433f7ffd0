"""The errors of adapters: one tree, each with a stable code that programs may rely on.

AdapterError
├── FormatError          format, or the check that failed (FORMAT_CODES)
│   └── FingerprintMismatch  fingerprint
├── TaskIdInvalid        task_id
├── AliasInvalid         alias
├── UnknownTask          unknown_task
├── UnknownVersion       unknown_version
├── MissingAncestor      missing_ancestor
├── HasDescendants       has_descendants
├── VersionConflict      version_conflict
│   └── TaskExists       task_exists
├── StoreError           store
│   ├── NoPointer            no_pointer
│   ├── StoreBusy            store_busy
│   ├── StoreFull            store_full
│   └── StoreReadOnly        store_read_only
├── BackboneError        backbone
├── PromptTooLong        prompt_too_long
├── ConvertError         convert
├── WrongFile            wrong_file
├── ArchiveError         archive
│   └── ArchiveTooLarge      archive_size
├── DataError            data
├── GateCollapsed        gate_collapsed
└── TaskTooSmall         task_too_small
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

FormatCode = Literal[
    "format",
    "file_size",
    "header",
    "tensor_count",
    "duplicate_key",
    "manifest",
    "names",
    "dtype",
    "shape",
    "popcount",
    "nonfinite",
    "profile",
    "fingerprint",
    "digest",
]
"""Which check of FORMAT.md an adapter file failed."""


class AdapterError(Exception):
    """An error whose message says what was given and what is allowed."""

    code: str = "adapter"

    @property
    def message(self) -> str:
        """The message alone."""
        return str(self)


class FormatError(AdapterError):
    """An adapter, or its file, breaks a rule of FORMAT.md; `code` names the check."""

    code: FormatCode = "format"

    def __init__(self, message: str, *, code: FormatCode = "format") -> None:
        super().__init__(message)
        self.code = code


class OtherTask(FormatError):
    """The adapter is of another task than the one it is published for."""

    def __init__(self, found: str, expected: str) -> None:
        super().__init__(f"the manifest is of task {found!r}, not {expected!r}", code="manifest")
        self.found = found


class FingerprintMismatch(FormatError):
    """The adapter was made for another backbone than the one it is read for."""

    def __init__(self, message: str) -> None:
        super().__init__(message, code="fingerprint")


class TaskIdInvalid(AdapterError):
    """A task id breaks the naming rule (manifest.TASK_ID)."""

    code = "task_id"


class AliasInvalid(AdapterError):
    """A version may not be called that (routing.check_alias)."""

    code = "alias"


class UnknownTask(AdapterError):
    """No such task in the store; `closest` holds similar ids, best first."""

    code = "unknown_task"

    def __init__(self, message: str, *, closest: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.closest: list[str] = list(closest)


class UnknownVersion(AdapterError):
    """The task has no such version, or a prefix fits several."""

    code = "unknown_version"


class MissingAncestor(AdapterError):
    """A digest of the lineage is not in the store, or belongs to another backbone."""

    code = "missing_ancestor"


class HasDescendants(AdapterError):
    """A version cannot be removed while another version's lineage names it.

    `found` are the versions that do, each as (task, digest); there is at least one.
    """

    code = "has_descendants"

    def __init__(self, digest: str, found: Sequence[tuple[str, str]]) -> None:
        task, version = found[0]
        super().__init__(
            f"version {digest[:12]} is an ancestor of {len(found)} others, such as "
            f"{task}@{version[:12]}: remove those first"
        )
        self.digest = digest
        self.found = tuple(found)


class VersionConflict(AdapterError):
    """The current version is not the one the caller expected, or it cannot be removed."""

    code = "version_conflict"


class TaskExists(VersionConflict):
    """The task has a version, and only a new one was to be published."""

    code = "task_exists"


class StoreError(AdapterError):
    """The store's folder does not look as the store left it."""

    code = "store"


class NoPointer(StoreError):
    """A task's folder has no `current`: a copy or a publish under way, or what a crash left."""

    code = "no_pointer"


class StoreBusy(StoreError):
    """Others held the store's lock for longer than the caller waits; nothing was changed."""

    code = "store_busy"


class StoreFull(StoreError):
    """The disk, or the quota, of the store is full; nothing was changed."""

    code = "store_full"


class StoreReadOnly(StoreError):
    """The store may only be read here; nothing was changed."""

    code = "store_read_only"


class BackboneError(AdapterError):
    """A folder or hub id is not a backbone that can be used."""

    code = "backbone"


class PromptTooLong(AdapterError):
    """The prompt does not fit the token limit even with an empty text."""

    code = "prompt_too_long"


class ConvertError(AdapterError):
    """A foreign checkpoint cannot be converted, or not without more options."""

    code = "convert"


class WrongFile(AdapterError):
    """A file of another kind than an adapter; the message names the command that takes it."""

    code = "wrong_file"


class ArchiveError(AdapterError):
    """A zip or tar that is damaged, or holds what an archive of a PEFT folder must not hold."""

    code = "archive"


class ArchiveTooLarge(ArchiveError):
    """What comes out of an archive is larger than what may be sent without one."""

    code = "archive_size"


class DataError(AdapterError):
    """A training or evaluation file is not as documented."""

    code = "data"


class GateCollapsed(AdapterError):
    """Training ended with a gate that keeps nothing or everything."""

    code = "gate_collapsed"


class TaskTooSmall(AdapterError):
    """The task has too few steps for the gate's schedule."""

    code = "task_too_small"
