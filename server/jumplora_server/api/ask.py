"""What a dialect makes of a request, and what it is given to answer with: no schema, no HTTP.

Everything below the dialects knows these alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from jumplora_server.core import AdapterRef, Finish, Sampling, Token, Wanted

Scope = Literal["api", "admin"]


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks. `key_id` is the beginning of the key's SHA-256, None where no key was checked.

    `tasks` are those that the caller may see; None: all.
    """

    key_id: str | None = None
    scopes: frozenset[Scope] = frozenset()
    tasks: frozenset[str] | None = None

    def may_see(self, task: str) -> bool:
        """Whether the task exists for this caller."""
        return self.tasks is None or task in self.tasks


ANYBODY = Caller()


@dataclass(frozen=True, slots=True)
class FieldNames:
    """How a dialect calls what a message is about: `prompts` as a whole, and each parameter."""

    prompts: str
    prefix: str = ""
    renamed: Mapping[str, str] = field(default_factory=dict)

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
class Ask:
    """Prompts for one task, all with the same wishes.

    `task` is "task" or "task@version", None for the bare backbone. `form` says whether the
    prompts are whole, or texts for the adapter's template. `parameters` has what was asked, by
    the names of a manifest's `generation` section, and `do_sample` and `seed`. `truncate` is in
    tokens. `shape` says whether one answer is expected or a list.
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
    truncate: int | None = None
    timeout_seconds: float | None = None

    def name(self, index: int) -> str:
        """What the client called the prompt at `index`."""
        return self.names.prompt(index, len(self.prompts))


@dataclass(frozen=True, slots=True)
class Origin:
    """Which version answers (None: the bare backbone), and how many tokens all prompts have."""

    ref: AdapterRef | None
    prompt_tokens: int


@dataclass(frozen=True, slots=True)
class Result:
    """What became of one prompt: its tokens, and an end that went well."""

    tokens: Sequence[Token]
    finish: Finish
    sampling: Sampling
