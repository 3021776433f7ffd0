"""A calibration out of answers: for the version, the dtype and the form that gave them.

Knows what a server said of itself, never an adapter's file.
"""

from __future__ import annotations

from typing import get_args

from jumplora_adapters.calibration import (
    LEAST_TEMPERATURE,
    calibration_error,
    fit_temperature,
)
from jumplora_adapters.errors import DataError
from jumplora_adapters.manifest import Calibration, Manifest, PromptSpec, options_digest
from jumplora_server.api.adapter_schemas import AdapterDetail
from jumplora_server.api.schemas import Info
from jumplora_server.evaluation.certainty import Rankings
from jumplora_server.evaluation.interview import Transcript

_DTYPES: tuple[str, ...] = get_args(Calibration.model_fields["dtype"].annotation)
_DIGITS = 6


def check_enough(rows: int, least: int) -> None:
    """Raise DataError for fewer rows than a temperature is worth fitting on."""
    if rows < least:
        raise DataError(
            f"{rows} rows given; a temperature needs at least {least}, and 500 or more are better"
            " (--min-rows demands fewer)"
        )


def prompt_with_options(manifest: Manifest, spec: str) -> PromptSpec:
    """The manifest's prompt section. Raises DataError where it has fewer than two options."""
    prompt = manifest.prompt
    if prompt is None or len(prompt.options) < 2:
        given = "no options" if prompt is None or not prompt.options else "one option"
        raise DataError(
            f"{spec} has {given} in its manifest, so there is nothing to be sure of: it needs at"
            " least two (they are given in training or convert, by --options or a task file)"
        )
    return prompt


def check_dtype(info: Info) -> None:
    """Raise DataError where a manifest has no calibration for what the server computes with."""
    if info.model_dtype not in _DTYPES:
        raise DataError(
            f"the server computes with {info.model_dtype}; a calibration is for"
            f" {', '.join(_DTYPES)}"
        )


def is_folded(status: AdapterDetail, version: str, manifest: Manifest) -> bool:
    """Whether the server computes the version with merged ancestors.

    A server says it of the version that a task answers with. Raises DataError for another one that
    has ancestors.
    """
    if not manifest.lineage:
        return False
    if status.version != version or status.folded_depth is None:
        raise DataError(
            f"the server answers {status.task_id} with {(status.version or 'no version')[:12]}, so"
            f" it does not say whether it folds the ancestors of {version[:12]}: publish this"
            " version, or roll back to it"
        )
    return status.folded_depth > 0


def check_version(transcript: Transcript, version: str) -> None:
    """Raise DataError where another version answered."""
    for answer in transcript.answers:
        answered = answer.response.details.adapter_version
        if answered != version:
            raise DataError(
                f"line {answer.question.line} was answered by version {answered}; a calibration of"
                f" {version} needs its own answers"
            )


def fit(rankings: Rankings, prompt: PromptSpec, info: Info, *, folded: bool) -> Calibration:
    """The calibration. Raises DataError where every row is right: no temperature is likeliest."""
    rated = rankings.logprobs
    if rated.is_right.all():
        raise DataError(
            f"all {len(rated.right)} rows are answered right, so the likeliest temperature is the"
            f" least one, {LEAST_TEMPERATURE}, at which every answer seems certain: give rows that"
            " are as hard as those that clients send, until some are answered wrong"
        )
    temperature = round(fit_temperature(rated), _DIGITS)
    return Calibration.model_validate(
        {
            "dtype": info.model_dtype,
            "is_folded": folded,
            "options": options_digest(prompt),
            "temperature": temperature,
            "rows": len(rated.right),
            "error": round(calibration_error(rated.at(temperature)), _DIGITS),
            "error_before": round(calibration_error(rated.at(1.0)), _DIGITS),
        }
    )
