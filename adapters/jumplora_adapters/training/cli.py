"""`jumplora train`: options in, one adapter file out. torch is imported when it runs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from jumplora_adapters.cli import options
from jumplora_adapters.cli.output import fail, print_json, printable, reported_errors

if TYPE_CHECKING:
    from jumplora_adapters.training.train import Trained

app = typer.Typer(add_completion=False)

_Option = typer.Option


@app.command("train")
def train(
    backbone: options.Backbone,
    task: Annotated[str, _Option(help="Task id that the adapter will be served under.")],
    train: Annotated[Path, _Option(help="JSONL (or .gz) of text/label or input/target rows.")],
    out: options.Out,
    dev: Annotated[
        Path | None, _Option(help="Rows that choose the best state; without, the last is kept.")
    ] = None,
    test: Annotated[Path | None, _Option(help="Rows scored once, at the end.")] = None,
    instruction: Annotated[str | None, _Option(help="The prompt's instruction.")] = None,
    labels: Annotated[str | None, _Option("--options", help='Labels, as "a | b | c".')] = None,
    template: Annotated[str | None, _Option(help="Prompt template, if not the default.")] = None,
    task_file: Annotated[
        Path | None,
        _Option(help="JSON with instruction, options and template; or a file of many tasks."),
    ] = None,
    gate: Annotated[bool, _Option("--gate/--no-gate", help="JumpReLU gate, or LoRA.")] = True,
    rank: Annotated[int, _Option(help="Inner dimension of the factors.")] = 8,
    alpha: Annotated[float, _Option(help="The update is scaled by alpha / rank.")] = 32.0,
    lr: Annotated[float, _Option(help="AdamW's learning rate.")] = 1e-3,
    decay: Annotated[Literal["constant", "linear"], _Option(help="Of the rate.")] = "constant",
    warm_up: Annotated[int, _Option(help="Steps of linear warm-up.")] = 0,
    weight_decay: Annotated[float, _Option(help="AdamW's, on the factors.")] = 0.0,
    clip: Annotated[float, _Option(help="Largest gradient norm.")] = 1.0,
    dropout: Annotated[float, _Option(help="The backbone's dropout while training.")] = 0.0,
    epochs: Annotated[int, _Option(help="Passes over the training rows.")] = 1,
    max_steps: Annotated[int | None, _Option(help="Optimizer steps, instead of epochs.")] = None,
    batch_size: Annotated[int, _Option(help="Rows computed at once.")] = 32,
    accumulate: Annotated[int, _Option(help="Batches to one optimizer step.")] = 1,
    source_length: Annotated[int, _Option(help="Prompt limit in tokens; the text is cut.")] = 512,
    target_length: Annotated[int, _Option(help="Answer limit in tokens; longer: error.")] = 8,
    threshold_scope: Annotated[
        Literal["global", "block"], _Option(help="One threshold, or one a transformer block.")
    ] = "global",
    estimator: Annotated[
        Literal["mean", "sum"], _Option(help="Of the threshold's gradient; mean as published.")
    ] = "mean",
    bandwidth: Annotated[float, _Option(help="Of the straight-through gradient.")] = 0.001,
    set_at: Annotated[float, _Option(help="Share of the steps after which tau is set.")] = 0.2,
    closed_at: Annotated[
        float, _Option(help="Share of the steps after which the gate is fully closed.")
    ] = 0.8,
    targets: Annotated[str, _Option(help='Modules to adapt, as "*.q,*.v".')] = "*.q,*.v",
    values: Annotated[
        Literal["float32", "float16", "bfloat16"] | None,
        _Option(help="Type of the saved values. Default float16; float32 without the gate."),
    ] = None,
    precision: Annotated[
        Literal["float32", "bfloat16"], _Option(help="Of the frozen backbone while training.")
    ] = "float32",
    select_by: Annotated[
        Literal["exact_match", "f1", "rouge_l"], _Option(help="Score that selects on dev.")
    ] = "exact_match",
    dev_rows: Annotated[int | None, _Option(help="Only the first rows of dev.")] = None,
    ancestors: Annotated[
        str, _Option(help='Store specs merged first, oldest first: "a,b@1234abcd".')
    ] = "",
    store: options.StoreOrNone = None,
    seed: Annotated[int, _Option(help="Of factors, order and dropout.")] = 0,
    work: Annotated[Path | None, _Option(help="Checkpoint and log; default OUT.work.")] = None,
    threads: Annotated[int | None, _Option(help="CPU threads; default what torch takes.")] = None,
    device: Annotated[
        Literal["cpu", "cuda"] | None, _Option(help="Default: what there is.")
    ] = None,
    created: Annotated[str | None, _Option(help="Date for the manifest, part of its digest.")] = (
        None
    ),
    quiet: Annotated[bool, _Option("--quiet", help="No progress bar.")] = False,
    as_json: Annotated[
        bool, _Option("--json", help="The result as JSON, and nothing else.")
    ] = False,
) -> None:
    """Train an adapter for one task. Killed, the same command continues where it was."""
    try:
        from jumplora_adapters.training.config import (
            GateConfig,
            Lengths,
            Optimisation,
            TrainConfig,
        )
        from jumplora_adapters.training.progress import shown
        from jumplora_adapters.training.task_file import prompt_of
        from jumplora_adapters.training.train import train as run
    except ImportError as error:
        fail(f"training needs the train extra: {options.INSTALL_TRAIN} ({error})")

    with reported_errors():
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
            targets=tuple(name.strip() for name in targets.split(",") if name.strip()),
            optimisation=Optimisation(
                learning_rate=lr,
                weight_decay=weight_decay,
                decay=decay,
                warm_up=warm_up,
                clip=clip,
                dropout=dropout,
                epochs=epochs,
                max_steps=max_steps,
                batch_size=batch_size,
                accumulate=accumulate,
            ),
            lengths=Lengths(source_length, target_length),
            values=values,
            precision=precision,
            select_by=select_by,
            dev_rows=dev_rows,
            seed=seed,
            ancestors=tuple(name.strip() for name in ancestors.split(",") if name.strip()),
            store=store,
            work=work,
            created=created,
            threads=threads,
            device=device,
        )
        with shown(task, quiet=quiet) as on_step:
            trained = run(config, on_step)
    _report(trained, as_json=as_json)


def _report(trained: Trained, *, as_json: bool) -> None:
    if as_json:
        result = {
            "path": str(trained.path),
            "version": trained.digest,
            "density": trained.density,
            "thresholds": {move.group: move.numbers() for move in trained.tau},
            "prompts_cut": trained.prompts_cut,
            "selected_step": trained.progress.best_step,
            "scores": trained.scores,
        }
        print_json(result)
        return
    typer.echo(f"{printable(str(trained.path))}  version {trained.digest[:12]}")
    typer.echo(f"density {trained.density:.2%}, state of step {trained.progress.best_step}")
    for move in trained.tau:
        typer.echo(f"  tau {move.group}: {move}")
    for split, count in trained.prompts_cut.items():
        typer.echo(f"  {split}: {count} prompts were longer than the source length, ends cut off")
    for name, value in trained.scores.items():
        typer.echo(f"  {name:18} {100 * value:6.2f} %")


if __name__ == "__main__":
    app()
