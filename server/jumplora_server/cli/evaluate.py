"""`jumplora evaluate`: measure what a running server answers, on a file of rows."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from jumplora_adapters.cli.output import (
    fail,
    print_facts,
    print_json,
    print_table,
    reported_errors,
    share,
    short,
    warn,
)
from jumplora_adapters.cli.plot_file import png_file
from jumplora_adapters.cli.template import FIELDS, warn_of_backslashes
from jumplora_server.cli import place
from jumplora_server.cli.certainty import (
    certainty_facts,
    print_confusion,
    write_plot,
)
from jumplora_server.cli.completion import task_ids
from jumplora_server.variables import DEFAULT_URL

if TYPE_CHECKING:
    from jumplora_adapters.manifest import PromptSpec
    from jumplora_server.client import Client
    from jumplora_server.evaluation.certainty import Certainty
    from jumplora_server.evaluation.questions import Fit, Sheet
    from jumplora_server.evaluation.report import Report

_Option = typer.Option
_BARE = "the bare backbone"
_ADVICE = {
    "no_template": 'give the rows as {"input", "target"}, whole prompts, or make the prompts here: '
    "--template, --task-file"
}


def evaluate(
    task: Annotated[str, _Option(help='"task" or "task@version".', autocompletion=task_ids)],
    data: Annotated[Path, _Option(help="JSONL (or .gz) of text/label or input/target rows.")],
    server: place.ServerOrDefault = DEFAULT_URL,
    key: place.ApiKey = None,
    rows: Annotated[int | None, _Option(min=1, help="Only the first rows of the file.")] = None,
    task_file: Annotated[
        Path | None,
        _Option(
            help="Make the prompts here, of this JSON's instruction, options and template (or of "
            "its entry in a file of many tasks), instead of by the template of the version that "
            "answers."
        ),
    ] = None,
    entry: Annotated[
        str | None, _Option("--as", help="With --task-file: the entry's name, default the task.")
    ] = None,
    instruction: Annotated[str | None, _Option(help="Prompts made here: instruction.")] = None,
    labels: Annotated[
        str | None, _Option("--options", help='Prompts made here: labels, as "a | b | c".')
    ] = None,
    template: Annotated[
        str | None, _Option(help=f"Prompts made here: template, with {FIELDS} in it.")
    ] = None,
    backbone: Annotated[
        str | None,
        _Option(
            envvar="JUMPLORA_BACKBONE",
            help="Prompts made here: the T5 whose tokenizer shows where to cut long texts.",
        ),
    ] = None,
    batch: Annotated[int, _Option(min=1, help="Rows sent in one request.")] = 8,
    concurrency: Annotated[int, _Option(min=1, max=64, help="Requests at a time.")] = 4,
    choices: Annotated[
        bool,
        _Option(
            "--choices",
            help="Ask for one of the options (the version's, or those of prompts made here): how "
            "sure the answers are, and which options are mistaken for which.",
        ),
    ] = False,
    plot: Annotated[
        Path | None,
        _Option(callback=png_file, help="With --choices: the mistaken options as a PNG file."),
    ] = None,
    floor: Annotated[
        float | None,
        _Option(
            min=0.0, max=1.0, help="Exit code 1 if the exact match is below this, such as 0.8."
        ),
    ] = None,
    quiet: Annotated[bool, _Option("--quiet", help="No progress bar.")] = False,
    as_json: Annotated[bool, _Option("--json", help="Print JSON, for programs.")] = False,
) -> None:
    """Score a task's answers on a file, as clients get them, with the latencies they see."""
    with reported_errors():
        from jumplora_adapters.cli.progress import counted
        from jumplora_adapters.rows import read_rows
        from jumplora_adapters.training.task_file import prompt_of
        from jumplora_server.evaluation.certainty import Certainty, Rankings
        from jumplora_server.evaluation.interview import Interview
        from jumplora_server.evaluation.questions import check_labels, make_sheet
        from jumplora_server.evaluation.report import report_of

        if entry is not None and task_file is None:
            raise typer.BadParameter("--as names an entry of --task-file: give --task-file too")
        if plot is not None and not choices:
            raise typer.BadParameter("--plot needs --choices")
        warn_of_backslashes(template)
        name = task.partition("@")[0] if entry is None else entry
        prompt = prompt_of(name, task_file, instruction, labels, template)
        file = read_rows(data)
        sheet = make_sheet(file, prompt, rows=rows)  # its faults show before any request
        if prompt is not None and prompt.options:
            check_labels(sheet, prompt.options)
        with place.asking(
            server, key, retries=0, advice=_ADVICE
        ) as client:  # an interview tries again, and counts
            limits = client.info()
            if batch > limits.max_client_batch_size:
                fail(
                    f"--batch is {batch}; this server takes at most"
                    f" {limits.max_client_batch_size} texts a request"
                )
            if prompt is not None and backbone is not None:
                fit = _fit(backbone, limits.max_input_tokens)
                sheet = make_sheet(file, prompt, rows=rows, fit=fit)
            parameters: dict[str, object] = {}
            options: tuple[str, ...] = ()
            if sheet.form == "text" and not choices:
                _check_options(client, task, sheet)
            if choices:
                options = () if prompt is None else prompt.options
                parameters = {"choices": list(options) or True}
                options = options or _options(client, task, sheet, limits.max_input_tokens)
                check_labels(sheet, options)
            interview = Interview(
                client,
                task,
                sheet,
                prompt_tokens=limits.max_input_tokens,
                parameters=parameters,
            )
            with counted(task, len(sheet.questions), quiet=quiet) as on_answers:
                transcript = interview.run(
                    batch=batch, concurrency=concurrency, on_answers=on_answers
                )
        report = report_of(transcript, is_labelled=file.is_labelled)
        certainty = Certainty.of(Rankings.of(transcript, options)) if choices else None
    if as_json:
        facts = {"task_id": task, "data": str(data), "sha256": file.sha256, **report.as_json()}
        print_json(facts if certainty is None else {**facts, "choices": certainty.as_json()})
    else:
        _print(report, certainty, task, sheet, prompt)
    _warn(report, limits.max_input_tokens)
    if plot is not None and certainty is not None:
        write_plot(certainty, plot, f"{task}, {report.rows} rows")
    if floor is not None and report.scores["exact_match"] < floor:
        fail(f"exact match {report.scores['exact_match']:.6g} is below the floor {floor:g}")


def _check_options(client: Client, task: str, sheet: Sheet) -> None:
    """Warn of labels that the task cannot answer; end the command where it can answer none.

    Nothing is known of a version that does not answer for its task now.
    """
    from jumplora_adapters.folding import folded
    from jumplora_server.client import TaskUnknown
    from jumplora_server.evaluation.questions import find_strangers

    name, _, version = task.partition("@")
    try:
        found = client.adapter(name)
    except TaskUnknown:  # the bare backbone; of any other name the first request says it
        return
    prompt = None if found.manifest is None else found.manifest.prompt
    if prompt is None or not prompt.options or not (found.version or "").startswith(version):
        return
    strangers = find_strangers(sheet, prompt.options, folded)
    if strangers is None:
        return
    if strangers.rows == strangers.all_rows:
        fail(
            f"{strangers.text}; no row has a label that {task} answers, so nothing was asked: give "
            "the rows of this task, or --task of these rows"
        )
    warn(
        f"{strangers.text}; these {strangers.rows:,} of {strangers.all_rows:,} rows can only be "
        "wrong"
    )


def _fit(backbone: str, limit: int) -> Fit:
    from jumplora_adapters.backbone import resolve_backbone
    from jumplora_adapters.prompt import Frame, render_truncated
    from jumplora_adapters.tokenizer import read_tokenizer

    tokenizer = read_tokenizer(resolve_backbone(backbone))  # the prompts are sent whole
    return lambda spec, text: render_truncated(Frame.of(spec), text, tokenizer, limit)


def _options(client: Client, task: str, sheet: Sheet, prompt_tokens: int) -> tuple[str, ...]:
    """Those of the version that answers, as it ranks them for the first row."""
    from jumplora_server.evaluation.certainty import options_of
    from jumplora_server.evaluation.interview import Interview

    first = replace(sheet, questions=sheet.questions[:1])
    interview = Interview(
        client, task, first, prompt_tokens=prompt_tokens, parameters={"choices": True}
    )
    return options_of(interview.run(batch=1, concurrency=1))


def _print(
    report: Report,
    certainty: Certainty | None,
    task: str,
    sheet: Sheet,
    prompt: PromptSpec | None,
) -> None:
    made = "sent as text" if sheet.form == "text" else "whole prompts"
    scores, latency = report.scores, report.latency
    facts = [
        ("task", task),
        ("rows", f"{report.rows} of {sheet.file.path}, {'prompts made here' if prompt else made}"),
        ("version", _versions(report)),
        ("exact match", share(scores["exact_match"])),
        ("F1", share(scores["f1"])),
        ("ROUGE-L", share(scores["rouge_l"])),
        (
            "latency",
            ", ".join(f"{name} {1000 * seconds:.0f} ms" for name, seconds in latency.items())
            + f" of {report.requests} requests ({report.rows} rows)",
        ),
        ("time", f"{report.seconds:.2f} s, {report.rows_per_second:.1f} rows per second"),
    ]
    if report.retries:
        facts.append(("sent again", f"{report.retries} times, because the server was busy"))
    if certainty is not None:
        facts += certainty_facts(certainty)
    print_facts(facts)
    if certainty is not None:
        print_confusion(certainty)
    elif report.labels:
        print_table(
            [("label", "fold"), ("rows", "right"), ("correct", "right"), ("accuracy", "right")],
            [
                (each.label, str(each.rows), str(each.correct), share(each.accuracy))
                for each in report.labels
            ],
        )


def _versions(report: Report) -> str:
    """The whole name of the one version, or short names with their rows."""
    if len(report.versions) == 1:
        return report.versions[0].version or _BARE
    return ", ".join(
        f"{short(each.version) if each.version else _BARE} ({each.rows} rows)"
        for each in report.versions
    )


def _warn(report: Report, limit: int) -> None:
    """What a reader of the scores must know."""
    if len(report.versions) > 1:
        warn(
            f"the version changed during the run: the scores mix {len(report.versions)} versions;"
            " task@version measures one"
        )
    if report.texts_cut:
        warn(f"{report.texts_cut} texts were cut: with their prompts they exceed {limit} tokens")
    if report.prompts_cut:
        warn(
            f"{report.prompts_cut} whole prompts exceed {limit} tokens and lost their end; where"
            " they are made here, --backbone cuts the text instead"
        )
    if report.answers_cut:
        warn(f"{report.answers_cut} answers were stopped by the limit of new tokens")
