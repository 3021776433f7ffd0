"""`jumplora train`: options in, one adapter file out. torch is imported when it runs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from jumplora_adapters.cli import options
from jumplora_adapters.cli import training_options as shared
from jumplora_adapters.cli.output import fail, print_json, reported_errors, warn
from jumplora_adapters.cli.plot_file import drawing, png_file
from jumplora_adapters.cli.template import Template, warn_of_backslashes
from jumplora_adapters.printable import printable
from jumplora_adapters.rows import count_rows

if TYPE_CHECKING:
    from jumplora_adapters.training.train import Trained

app = typer.Typer(add_completion=False)

_Option = typer.Option


@app.command("train")
def train(
    backbone: options.Backbone,
    task: Annotated[str, _Option(help="Task id under which the adapter is served.")],
    train: Annotated[Path, _Option(help="JSONL (or .gz) of text/label or input/target rows.")],
    out: options.Out,
    dev: Annotated[
        Path | None, _Option(help="Rows that choose the best state; without, the last is kept.")
    ] = None,
    test: Annotated[Path | None, _Option(help="Rows scored once, at the end.")] = None,
    instruction: Annotated[str | None, _Option(help="The prompt's instruction.")] = None,
    labels: Annotated[str | None, _Option("--options", help='Labels, as "a | b | c".')] = None,
    template: Template = None,
    task_file: Annotated[
        Path | None,
        _Option(help="JSON with instruction, options and template; or a file of many tasks."),
    ] = None,
    gate: Annotated[bool, _Option("--gate/--no-gate", help="JumpReLU gate, or LoRA.")] = True,
    rank: shared.Rank = 8,
    alpha: shared.Alpha = 32.0,
    lr: Annotated[
        float | None,
        _Option("--lr", help="AdamW's learning rate. Default 0.001; for fewer rows 0.002."),
    ] = None,
    decay: shared.Decay = "constant",
    warm_up: shared.WarmUp = 0,
    weight_decay: shared.WeightDecay = 0.0,
    clip: shared.Clip = 1.0,
    dropout: shared.Dropout = 0.0,
    lora_dropout: shared.LoraDropout = 0.0,
    epochs: Annotated[
        int | None,
        _Option(help="Passes over the rows. Default 1; for fewer rows what makes 60 steps."),
    ] = None,
    max_steps: shared.MaxSteps = None,
    batch_size: Annotated[
        int | None, _Option(help="Rows computed at once. Default 32; for fewer rows 16.")
    ] = None,
    accumulate: shared.Accumulate = 1,
    source_length: shared.SourceLength = 512,
    target_length: shared.TargetLength = 8,
    threshold_scope: shared.ThresholdScope = "global",
    estimator: shared.Estimator = "mean",
    bandwidth: shared.Bandwidth = 0.001,
    set_at: shared.SetAt = 0.2,
    closed_at: shared.ClosedAt = 0.8,
    targets: shared.Targets = "*.q,*.v",
    values: shared.Values = None,
    precision: shared.Precision = "float32",
    select_by: Annotated[
        Literal["exact_match", "f1", "rouge_l"], _Option(help="Score that selects on dev.")
    ] = "exact_match",
    dev_rows: Annotated[int | None, _Option(help="Only the first rows of dev.")] = None,
    ancestors: Annotated[
        str, _Option(help='Versions merged first, oldest first: "a,b@1234abcd".')
    ] = "",
    store: options.StoreOrNone = None,
    seed: Annotated[int, _Option(help="Seed of factors, order and dropout.")] = 0,
    work: Annotated[Path | None, _Option(help="Checkpoint and log; default OUT.work.")] = None,
    threads: shared.Threads = None,
    device: shared.Device = None,
    created: shared.Created = None,
    plot: Annotated[
        Path | None,
        _Option(
            callback=png_file,
            help="Loss, dev score, density and thresholds over the steps, as a PNG file.",
        ),
    ] = None,
    quiet: Annotated[bool, _Option("--quiet", help="No progress bar.")] = False,
    as_json: Annotated[
        bool, _Option("--json", help="The result as JSON, and nothing else.")
    ] = False,
) -> None:
    """Train an adapter for one task. Killed, the same command continues where it was.

    Fewer than 1,920 rows, which would be under 60 steps of 32, are trained in other steps than the
    method's own; see --epochs, --batch-size and --lr.
    """
    try:
        from jumplora_adapters.training.config import (
            GateConfig,
            Lengths,
            Optimisation,
            TrainConfig,
        )
        from jumplora_adapters.training.pace import paced, told
        from jumplora_adapters.training.progress import shown
        from jumplora_adapters.training.task_file import prompt_of
        from jumplora_adapters.training.train import train as run
        from jumplora_adapters.training.work_folder import check_writable
    except ImportError as error:
        fail(f"training needs the train extra: {options.INSTALL_TRAIN} ({error})")

    warn_of_backslashes(template)
    with reported_errors():
        rows = count_rows(train)
        config = TrainConfig(
            backbone=backbone,
            task=task,
            train=train,
            dev=dev,
            test=test,
            out=out,
            prompt=prompt_of(task, task_file, instruction, labels, template),
            method="jumplora" if gate else "lora",
            gate=GateConfig(threshold_scope, estimator, bandwidth, set_at, closed_at),
            rank=rank,
            alpha=alpha,
            targets=shared.names(targets),
            optimisation=paced(
                Optimisation(
                    weight_decay=weight_decay,
                    decay=decay,
                    warm_up=warm_up,
                    clip=clip,
                    dropout=dropout,
                    lora_dropout=lora_dropout,
                    max_steps=max_steps,
                    accumulate=accumulate,
                ),
                rows,
                epochs=epochs,
                batch_size=batch_size,
                learning_rate=lr,
            ),
            lengths=Lengths(source_length, target_length),
            values=values,
            precision=precision,
            select_by=select_by,
            dev_rows=dev_rows,
            seed=seed,
            ancestors=shared.names(ancestors),
            store=store,
            work=work,
            created=created,
            threads=threads,
            device=device,
        )
        if plot is not None:
            check_writable(plot)
        pace = told(config.optimisation, rows)
        with shown(task, about=pace, quiet=quiet) as on_step:
            trained = run(config, on_step)
    _report(trained, pace if quiet else "", as_json=as_json)
    if plot is not None:
        with reported_errors(), drawing(plot, "the training"):
            from jumplora_adapters.training.plot import write_training

            step = trained.progress.best_step
            write_training(config.work_folder, plot, task, step, select_by)
    if trained.warning:
        warn(trained.warning)


def _report(trained: Trained, pace: str, *, as_json: bool) -> None:
    if as_json:
        result = {
            "path": str(trained.path),
            "version": trained.digest,
            "density": trained.density,
            "thresholds": {move.group: move.numbers() for move in trained.tau},
            "prompts_cut": trained.prompts_cut,
            "selected_step": trained.progress.best_step,
            "scores": trained.scores,
            "warning": trained.warning or None,
        }
        print_json(result)
        return
    typer.echo(f"{printable(str(trained.path))}  version {trained.digest[:12]}")
    if pace:
        typer.echo(pace)
    typer.echo(f"density {trained.density:.2%}, state of step {trained.progress.best_step}")
    for move in trained.tau:
        typer.echo(f"  tau {move.group}: {move}")
    for split, count in trained.prompts_cut.items():
        typer.echo(f"  {split}: {count} prompts were longer than the source length, ends cut off")
    for name, value in trained.scores.items():
        typer.echo(f"  {name:18} {100 * value:6.2f} %")


if __name__ == "__main__":
    app()
