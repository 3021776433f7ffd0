"""What calls answer that is not the server's JSON alone: a choice, and a row of a batch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

from jumplora_server.api.schemas import GenerateResponse
from jumplora_server.client.errors import RequestFailed


@dataclass(frozen=True, slots=True)
class Choice:
    """Which of some options a text is.

    `text` is the likeliest option; None where the server abstained, because it or all options were
    too unlikely. `probability` is that of the likeliest option, given or not, among the options.
    `mass` is how likely any of the options is at all. `options` has all of them with their
    probabilities, the likeliest first. `calibrated`: whether a temperature was fitted for them.
    `version` is the SHA-256 of the adapter that answered; None: the bare backbone.
    """

    text: str | None
    probability: float
    mass: float
    options: tuple[tuple[str, float], ...]
    calibrated: bool
    version: str | None

    @classmethod
    def of(cls, answer: GenerateResponse) -> Self:
        """The choice in an answer. Raises ValueError where it has none."""
        details = answer.details
        if not details.choices or details.mass is None:
            raise ValueError("the answer has no choices; ask with the parameter choices")
        return cls(
            text=None if details.finish_reason == "abstained" else answer.generated_text,
            probability=details.choices[0].probability,
            mass=details.mass,
            options=tuple((each.text, each.probability) for each in details.choices),
            calibrated=details.calibrated_by == "manifest",
            version=details.adapter_version,
        )


@dataclass(frozen=True, slots=True)
class Row:
    """One prompt of a batch: a `text` for the task's template, or whole, as `inputs`.

    What is None is the batch's own `task` or `parameters`.
    """

    text: str | None = None
    inputs: str | None = None
    task: str | None = None
    parameters: Mapping[str, object] | None = None

    def __post_init__(self) -> None:
        if (self.text is None) == (self.inputs is None):
            raise ValueError("a row has a text or inputs, and not both")


@dataclass(frozen=True, slots=True)
class Answered:
    """A row of a batch with its answer, or with the error that it got in its place."""

    row: Row
    answer: GenerateResponse | None = None
    error: RequestFailed | None = None

    @property
    def result(self) -> GenerateResponse:
        """The answer. Raises the error, where there is one."""
        if self.answer is None:
            assert self.error is not None, "a row without an answer has an error"
            raise self.error
        return self.answer

    @property
    def text(self) -> str:
        """The generated text. Raises the error, where there is one."""
        return self.result.generated_text

    @property
    def choice(self) -> Choice:
        """The choice, of a batch with choices. Raises the error, where there is one."""
        return Choice.of(self.result)
