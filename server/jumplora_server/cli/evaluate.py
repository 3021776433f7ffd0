"""`jumplora evaluate`: measure what a running server answers, on a file of rows."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
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
from jumplora_server.cli.generate import DEFAULT_SERVER
from jumplora_server.cli.place import asking

if TYPE_CHECKING:
    from jumplora_adapters.manifest import PromptSpec
    from jumplora_server.evaluation.questions import Fit, Sheet
    from jumplora_server.evaluation.report import Report

_Option = typer.Option
_BARE = "the bare backbone"


def evaluate(
    task: Annotated[str, _Option(help='"task" or "task@version".')],
    data: Annotated[Path, _Option(help="JSONL (or .gz) of text/label or input/target rows.")],
    server: Annotated[
        str, _Option("--server", envvar="JUMPLORA_SERVER", help="Address of the server.")
    ] = DEFAULT_SERVER,
    key: Annotated[str | None, _Option(envvar="JUMPLORA_KEY", help="An api key.")] = None,
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
    template: Annotated[str | None, _Option(help="Prompts made here: template.")] = None,
    backbone: Annotated[
        str | None,
        _Option(
            envvar="JUMPLORA_BACKBONE",
            help="Prompts made here: the T5 whose tokenizer shows where to cut long texts.",
        ),
    ] = None,
    batch: Annotated[int, _Option(min=1, help="Rows sent in one request.")] = 8,
    concurrency: Annotated[int, _Option(min=1, max=64, help="Requests at a time.")] = 4,
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
        from jumplora_adapters.rows import read_rows
        from jumplora_adapters.training.task_file import prompt_of
        from jumplora_server.evaluation.interview import Interview
        from jumplora_server.evaluation.questions import make_sheet
        from jumplora_server.evaluation.report import report_of

        if entry is not None and task_file is None:
            raise typer.BadParameter("--as names an entry of --task-file: give --task-file too")
        name = task.partition("@")[0] if entry is None else entry
        prompt = prompt_of(name, task_file, instruction, labels, template)
        file = read_rows(data, () if prompt is None else prompt.options)
        sheet = make_sheet(file, prompt, rows=rows)  # its faults show before any request
        with asking(server, key) as client:
            limits = client.info()
            if batch > limits.max_client_batch_size:
                fail(
                    f"--batch is {batch}; this server takes at most"
                    f" {limits.max_client_batch_size} texts a request"
                )
            if prompt is not None and backbone is not None:
                fit = _fit(backbone, limits.max_input_tokens)
                sheet = make_sheet(file, prompt, rows=rows, fit=fit)
            interview = Interview(client, task, sheet, prompt_tokens=limits.max_input_tokens)
            with _shown(task, sheet, quiet=quiet) as on_answers:
                transcript = interview.run(
                    batch=batch, concurrency=concurrency, on_answers=on_answers
                )
    report = report_of(transcript, is_labelled=file.is_labelled)
    if as_json:
        print_json({"task_id": task, "data": str(data), "sha256": file.sha256, **report.as_json()})
    else:
        _print(report, task, sheet, prompt)
    _warn(report, limits.max_input_tokens)
    if floor is not None and report.scores["exact_match"] < floor:
        fail(f"exact match {report.scores['exact_match']:.6g} is below the floor {floor:g}")


def _fit(backbone: str, limit: int) -> Fit:
    from jumplora_adapters.backbone import resolve_backbone
    from jumplora_adapters.prompt import Frame, render_truncated
    from jumplora_adapters.tokenizer import read_tokenizer

    tokenizer = read_tokenizer(resolve_backbone(backbone))  # the prompts are sent whole
    return lambda spec, text: render_truncated(Frame.of(spec), text, tokenizer, limit)


@contextmanager
def _shown(task: str, sheet: Sheet, *, quiet: bool) -> Iterator[Callable[[int], None]]:
    """Yields what to call with each number of new answers.

    The bar appears with the first of them, so that an error before stands alone.
    """
    if quiet:
        yield lambda count: None
        return
    from jumplora_adapters.cli.progress import progress_bar

    bar = progress_bar()
    line = bar.add_task(task, total=len(sheet.questions), state="")
    with ExitStack() as running:

        def on_answers(count: int) -> None:
            if not bar.live.is_started:
                running.enter_context(bar)
            bar.advance(line, count)

        yield on_answers


def _print(report: Report, task: str, sheet: Sheet, prompt: PromptSpec | None) -> None:
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
            + f" of {report.requests} requests",
        ),
        ("time", f"{report.seconds:.2f} s, {report.rows_per_second:.1f} rows per second"),
    ]
    if report.retries:
        facts.append(("sent again", f"{report.retries} times, because the server was busy"))
    print_facts(facts)
    if report.labels:
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
