"""One request below its dialect: who asks, what for, what is known of it, what came of it.

All that a dialect makes of a request, and is given to answer with. Knows no schema, and of HTTP
only what the log line of a request needs.
"""

from __future__ import annotations

import logging
import re
import secrets
from collections.abc import Mapping, MutableMapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from jumplora_server import errors
from jumplora_server.access.caller import ANYBODY, Caller
from jumplora_server.access.gate import RefusedFor
from jumplora_server.core import AdapterRef, Answer, Role, Timing, Wanted
from jumplora_server.errors import ServerError

if TYPE_CHECKING:
    from jumplora_server.api.audit import Change
    from jumplora_server.metrics.tasks import Late, Outcome
    from jumplora_server.tracing.tracer import RequestTrace

SCOPE_KEY = "jumplora.record"
_REQUEST_ID = re.compile(r"[A-Za-z0-9._:-]{1,64}", re.ASCII)
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class FieldNames:
    """How a dialect calls what a message is about: `prompts` as a whole, and each parameter.

    `whole` says how a whole prompt is given where an adapter has no template, `sampled` how answers
    are drawn.
    """

    prompts: str
    prefix: str = ""
    renamed: Mapping[str, str] = field(default_factory=dict)
    whole: str = "give the whole prompt as inputs"
    sampled: str = "set do_sample to true"

    def parameter(self, name: str) -> str:
        """Where a client wrote the parameter that is `name` here."""
        return self.prefix + self.plain(name)

    def plain(self, name: str) -> str:
        """The same without what stands before all of them."""
        return self.renamed.get(name, name)

    def prompt(self, index: int, count: int) -> str:
        """One of `count` prompts."""
        return self.prompts if count == 1 else f"{self.prompts}[{index}]"


@dataclass(frozen=True, slots=True)
class ChoicesAsked:
    """That one of some options is to be the answer, with the probabilities of all.

    `options` are texts; None: those of the adapter's manifest. Where the best one's probability, or
    the share of all answers that the options make up, is less than asked, none is the answer. None
    asks for what the manifest says, and for nothing where it is silent.
    """

    options: tuple[str, ...] | None = None
    min_probability: float | None = None
    min_mass: float | None = None


@dataclass(frozen=True, slots=True)
class Ask:
    """Prompts for one task, all with the same wishes.

    `task` is "task" or "task@version", None for the bare backbone. `form` says whether the
    prompts are whole, or texts for the adapter's template. `parameters` has what was asked, by
    the names of a manifest's `generation` section, and `do_sample` and `seed`. `truncate` is in
    tokens. `shape` says whether one answer is expected or a list, `streamed` how many sequences one
    stream may show.
    """

    caller: Caller
    task: str | None
    prompts: Sequence[str]
    form: Literal["prompts", "texts"]
    shape: Literal["one", "list"]
    wants: Wanted
    names: FieldNames
    parameters: Mapping[str, Any] = field(default_factory=dict)
    logprobs: Literal["none", "chosen"] = "none"
    streamed: Literal["no", "one", "several"] = "no"
    choices: ChoicesAsked | None = None
    truncate: int | None = None
    timeout_seconds: float | None = None

    def name(self, index: int) -> str:
        """What the client called the prompt at `index`."""
        return self.names.prompt(index, len(self.prompts))


@dataclass(frozen=True, slots=True)
class Origin:
    """Which version answers (None: the bare backbone), and how many tokens all prompts have. `role`
    is what the version is for its task."""

    ref: AdapterRef | None
    prompt_tokens: int
    role: Role | None = None


class RankedOption(NamedTuple):
    """One of the options that were given, and how likely it is."""

    text: str
    probability: float  # among the options, at the temperature
    logprob: float | None  # as the model has it; None where it is too small to count


@dataclass(frozen=True, slots=True)
class Ranking:
    """All options of one prompt, the likeliest first; of equals in the order that they were given.

    `mass` is the options' share of all that the model could answer. An option's probability is its
    softmax over the options of log-probabilities / `temperature`, which changes no order.
    """

    options: tuple[RankedOption, ...]
    mass: float
    temperature: float
    calibrated_by: Literal["manifest", "nothing"]
    is_abstained: bool  # the best probability or the mass was less than asked


@dataclass(frozen=True, slots=True)
class Result:
    """What became of one prompt: what it was answered with, the best first, and all ended well.

    `timing` is that of the sequence that took longest. `ranking` is there where choices were asked.
    The one answer's text is then its best option, or "" where it abstained.
    """

    answers: Sequence[Answer]
    prompt_tokens: int
    timing: Timing
    ranking: Ranking | None = None


@dataclass(slots=True)
class RequestRecord:
    """What is known of one HTTP request while it runs: for the log line and for counting.

    Lives in the ASGI scope, made by the access log. Never holds a prompt or a key. `task` is what a
    metric may be labelled with: set once it was routed, else "". `refused_for` says why the key, or
    having none, was not enough. `late` is how it ends when its deadline passes. `counted_by` says
    who counts the end: the sequences once there are some, before that the access log. `client` is
    an address, `error` the code of what went wrong, also in a stream that had begun well, `change`
    what a request changes, and `trace` is there where traces are on.
    """

    request_id: str
    client: str = "-"
    caller: Caller = ANYBODY
    task: str | None = ""
    version: str | None = None
    asked_version: str | None = None  # by a header
    prompt_tokens: int = 0
    generated_tokens: int = 0
    outcome: Outcome | None = None
    late: Late = "timeout"
    refused_for: RefusedFor | None = None
    counted_by: Literal["middleware", "sequences"] = "middleware"
    error: str | None = None
    is_fault: bool = False  # what went wrong is of the server's doing
    change: Change | None = None
    trace: RequestTrace | None = None

    def failed(self, error: ServerError) -> None:
        """Note how the request ended."""
        outcome = outcome_of(error)
        self.outcome = self.late if outcome == "timeout" else outcome
        self.went_wrong(error.code, error.status)

    def refused(self, status: int, code: str) -> None:
        """Note that the framework or the HTTP server ended the request, with this status."""
        self.went_wrong(code, status)
        if status == 503:
            self.outcome = "shed"
        else:
            self.outcome = "client_invalid" if status < 500 else "error"

    def went_wrong(self, code: str, status: int) -> None:
        """Note an error that the client was given, also behind a good status."""
        self.error, self.is_fault = code, status >= 500

    def log_failure(self, error: Exception) -> None:
        """Log what the client does not see."""
        _log.error("request %s failed: %s", self.request_id, error, exc_info=error)


def outcome_of(error: ServerError) -> Outcome:
    """The closed set that metrics count by. Only the server's own failures burn its budget.

    A deadline counts as the server's: only its request knows who gave it.
    """
    match error:
        case errors.UnknownTask() | errors.UnknownVersion():
            return "client_unknown_task"
        case errors.Unauthorized() | errors.Forbidden() | errors.BaseNotAllowed():
            return "client_auth"
        case errors.KeyQuotaExceeded():
            return "client_quota"
        case errors.QueueFull() | errors.TaskQuotaExceeded() | errors.Draining():
            return "shed"
        case errors.DeadlineExceeded():
            return "timeout"
        case _:
            return "client_invalid" if error.status < 500 else "error"


def new_record(given_id: str | None, client: str = "-") -> RequestRecord:
    """A record with the client's request id if it is a harmless one, else a random one."""
    if given_id is not None and _REQUEST_ID.fullmatch(given_id):
        return RequestRecord(given_id, client)
    return RequestRecord(secrets.token_hex(8), client)


def record_of(scope: MutableMapping[str, Any]) -> RequestRecord:
    """The scope's record; a new one where the middleware did not run."""
    record = scope.get(SCOPE_KEY)
    if not isinstance(record, RequestRecord):
        record = scope[SCOPE_KEY] = new_record(None)
    return record
