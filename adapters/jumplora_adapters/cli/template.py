"""`--template`: what it is, and what of it a user may not have meant."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from jumplora_adapters.cli.output import note, warn

if TYPE_CHECKING:
    from jumplora_adapters.manifest import PromptSpec

FIELDS = "{text}, {options} and {instruction}"

Template = Annotated[
    str | None,
    typer.Option(
        "--template",
        help=f"The prompt around each text, as in training, with {FIELDS} in it; bash writes a "
        "line end in it as $'...\\n...'. Default: JumpLoRA's own.",
    ),
]


def warn_of_backslashes(template: str | None) -> None:
    """Warn of a line end that a shell left as two characters."""
    if template is not None and "\\n" in template:
        warn(
            "--template contains \\n as two characters, not a line end; in bash write "
            "--template $'...\\n...'"
        )


def note_default(prompt: PromptSpec | None, template: str | None) -> None:
    """Say which template stands around the texts of an adapter that was trained elsewhere."""
    from jumplora_adapters.prompt import DEFAULT_TEMPLATE

    if prompt is None or template is not None or prompt.template != DEFAULT_TEMPLATE:
        return
    # Not the template itself: this is one line, and `inspect` shows it.
    note(
        "texts get JumpLoRA's own template, Task Instruction: ... Options: ... Text: ... Answer:, "
        "which an adapter of another training has not seen and may answer badly; give the prompt "
        f"of its training by --template, with {FIELDS} in it"
    )
