"""The server's errors: each has an HTTP status and a stable code that clients may rely on.

ServerError
├── InvalidInput            422  validation
├── InputTooLong            413  input_too_long
├── UnknownTask             404  unknown_task
├── UnknownVersion          404  unknown_version
├── PathNotFound            404  path_not_found
├── BaseNotAllowed          403  base_not_allowed
├── AdapterUnavailable      503  adapter_unavailable   (reason: the load failure's code)
├── AdapterRefused          422  adapter_refused       (reason: the check that failed)
├── AdapterTooLarge         413  adapter_too_large
├── VersionConflict         412  version_conflict
├── AdapterInUse            409  adapter_in_use
├── OutOfMemoryBudget       507  memory_budget
├── StoreBusy               503  store_busy            (Retry-After)
├── StoreFull               507  store_full
├── StoreReadOnly           503  store_read_only       (Retry-After)
├── StoreFault              503  store_fault           (Retry-After)
├── QueueFull               503  queue_full            (Retry-After)
├── TaskQuotaExceeded       429  task_quota            (Retry-After)
├── KeyQuotaExceeded        429  key_quota             (Retry-After; reason: requests, tokens, rows)
├── Draining                503  draining              (Retry-After)
├── DeadlineExceeded        504  timeout
├── Unauthorized            401  unauthorized
├── Forbidden               403  forbidden
└── GenerationFailed        500  generation
"""

from __future__ import annotations

from typing import ClassVar


class ServerError(Exception):
    """An error with an answer. `message` says what was given and what is allowed.

    `narrow` is what a key of some tasks reads in its place, where the message names what such a key
    may not see: tasks of others, folders of the server.
    """

    status: ClassVar[int] = 500
    code: ClassVar[str] = "internal"

    def __init__(
        self,
        message: str,
        *,
        reason: str | None = None,
        retry_after: float | None = None,
        narrow: str | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.narrow = narrow
        self.reason = reason
        self.retry_after = retry_after


class InvalidInput(ServerError):
    """A field is missing, of the wrong type, out of range or contradicts another."""

    status = 422
    code = "validation"


class InputTooLong(ServerError):
    """The prompt has more tokens than the limit and `truncate` was not asked."""

    status = 413
    code = "input_too_long"


class UnknownTask(ServerError):
    """No adapter of that task is registered. Never answered by the base model."""

    status = 404
    code = "unknown_task"

    def __init__(
        self,
        message: str,
        *,
        reason: str | None = None,
        retry_after: float | None = None,
        task: str | None = None,
    ) -> None:
        super().__init__(message, reason=reason, retry_after=retry_after)
        self.task = task


class UnknownVersion(ServerError):
    """The task exists, the version asked for does not (or the prefix is ambiguous)."""

    status = 404
    code = "unknown_version"


class PathNotFound(ServerError):
    """Nothing that can be read lies at a path that a client named."""

    status = 404
    code = "path_not_found"


class BaseNotAllowed(ServerError):
    """The bare backbone was asked for and the operator did not allow it."""

    status = 403
    code = "base_not_allowed"


class AdapterUnavailable(ServerError):
    """The task is known but none of its versions could be loaded."""

    status = 503
    code = "adapter_unavailable"


class AdapterRefused(ServerError):
    """An adapter did not pass its checks; of an upload nothing is kept."""

    status = 422
    code = "adapter_refused"


class AdapterTooLarge(ServerError):
    """An uploaded adapter exceeds the size limit of its route."""

    status = 413
    code = "adapter_too_large"


class VersionConflict(ServerError):
    """If-Match named another version than the current one."""

    status = 412
    code = "version_conflict"


class AdapterInUse(ServerError):
    """The version is an ancestor of another task's lineage and cannot be removed."""

    status = 409
    code = "adapter_in_use"


class OutOfMemoryBudget(ServerError):
    """The adapter does not fit the byte budget even after evicting everything evictable."""

    status = 507
    code = "memory_budget"


class StoreBusy(ServerError):
    """The adapter store took longer than a request waits: other changes, or a hung disk.

    Where its disk hung during a change, that change is finished later; else nothing was changed.
    """

    status = 503
    code = "store_busy"


class StoreFull(ServerError):
    """The adapter store's disk or quota is full; nothing was changed."""

    status = 507
    code = "store_full"


class StoreReadOnly(ServerError):
    """The server may not write into the adapter store; nothing was changed."""

    status = 503
    code = "store_read_only"


class StoreFault(ServerError):
    """The adapter store is not as it should be; nothing was changed."""

    status = 503
    code = "store_fault"


class QueueFull(ServerError):
    """The server holds as many waiting requests or tokens as it may."""

    status = 503
    code = "queue_full"


class TaskQuotaExceeded(ServerError):
    """The task holds its whole share of the queue."""

    status = 429
    code = "task_quota"


class KeyQuotaExceeded(ServerError):
    """The key has used its quota of requests or tokens a minute, or of rows at a time."""

    status = 429
    code = "key_quota"


class Draining(ServerError):
    """The server is shutting down and takes no new work."""

    status = 503
    code = "draining"


class DeadlineExceeded(ServerError):
    """The request's deadline passed before it was finished."""

    status = 504
    code = "timeout"


class Unauthorized(ServerError):
    """A key is required and none, or an unknown one, was given."""

    status = 401
    code = "unauthorized"


class Forbidden(ServerError):
    """The key does not carry the scope, or the route is switched off."""

    status = 403
    code = "forbidden"


class GenerationFailed(ServerError):
    """The engine failed on the batch that held this sequence."""

    status = 500
    code = "generation"
