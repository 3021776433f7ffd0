"""`jumplora generate`: ask a running server from the shell."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from jumplora_adapters.cli.output import fail, print_facts, print_json, print_table, warn
from jumplora_adapters.printable import printable
from jumplora_server.cli import place
from jumplora_server.cli.completion import task_ids
from jumplora_server.variables import DEFAULT_URL

if TYPE_CHECKING:
    from jumplora_server.api.schemas import GenerateResponse

_ADVICE = {"no_template": "with --raw each text is a whole prompt"}


def generate(
    task: Annotated[str, typer.Argument(help='"task" or "task@version".', autocompletion=task_ids)],
    text: Annotated[
        list[str] | None, typer.Argument(help="Texts; default, or -: one from each line of stdin.")
    ] = None,
    server: place.ServerOrDefault = DEFAULT_URL,
    key: place.ApiKey = None,
    raw: Annotated[
        bool, typer.Option("--raw", help="The texts are whole prompts: no template.")
    ] = False,
    max_new_tokens: Annotated[
        int | None, typer.Option("--max-new-tokens", help="Default: the adapter's.")
    ] = None,
    choices: Annotated[
        bool, typer.Option("--choices", help="Choose from the options of the adapter's prompt.")
    ] = False,
    choice: Annotated[
        list[str] | None,
        typer.Option("--choice", help="Choose from these; once for each.", show_default=False),
    ] = None,
    min_probability: Annotated[
        float | None,
        typer.Option(min=0.0, max=1.0, help="No answer where the likeliest option has less."),
    ] = None,
    min_mass: Annotated[
        float | None,
        typer.Option(min=0.0, max=1.0, help="No answer where all options together have less."),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the answers with their details.")
    ] = False,
) -> None:
    """Answer each text with a task's adapter, one line each.

    With --choices or --choice, a table for each: the options, the likeliest first.
    """
    if choices and choice:
        raise typer.BadParameter("give --choices or --choice, not both")
    floors = {"min_probability": min_probability, "min_mass": min_mass}
    for name, floor in floors.items():
        if floor is not None and not (choices or choice):
            option = f"--{name.replace('_', '-')}"
            raise typer.BadParameter(f"{option} needs --choices or --choice")
    if choice and len(choice) == 1 and "," in choice[0]:
        warn(f'one option was given, "{choice[0]}"; for several, give --choice once for each')
    texts = (
        text
        if text and text != ["-"]
        else [line.rstrip("\n") for line in sys.stdin if line.strip()]
    )
    if not texts:
        fail("give at least one text, as an argument or a line of stdin")
    parameters: dict[str, object] = {}
    if max_new_tokens is not None:
        parameters["max_new_tokens"] = max_new_tokens
    if choices or choice:
        parameters["choices"] = choice or True
        parameters |= {name: floor for name, floor in floors.items() if floor is not None}
    with place.asking(server, key, advice=_ADVICE) as client:
        if raw:
            answers = client.generate_all(task, inputs=texts, parameters=parameters)
        else:
            answers = client.generate_all(task, text=texts, parameters=parameters)
    if as_json:
        print_json([answer.model_dump(mode="json") for answer in answers])
        return
    for answer in answers:
        if answer.details.choices is None:
            # A model's text may move the cursor or recolour; in a pipe or file it is as it is.
            is_shown = sys.stdout.isatty()
            lines = answer.generated_text.split("\n")
            typer.echo("\n".join(map(printable, lines) if is_shown else lines), color=True)
        else:
            _print_ranking(answer)


def _print_ranking(answer: GenerateResponse) -> None:
    """What was chosen, then all options."""
    details = answer.details
    is_abstained = details.finish_reason == "abstained"
    facts = [("answer", "none: too unlikely" if is_abstained else answer.generated_text)]
    if details.mass is not None:
        facts.append(("mass", f"{details.mass:.4f}"))
    if details.calibrated_by == "manifest":
        facts.append(("temperature", f"{details.temperature} (calibrated)"))
    print_facts(facts)
    print_table(
        [("option", "fold"), ("probability", "right"), ("log p", "right")],
        [
            [o.text, f"{o.probability:.4f}", "" if o.logprob is None else f"{o.logprob:.2f}"]
            for o in details.choices or ()
        ],
    )
