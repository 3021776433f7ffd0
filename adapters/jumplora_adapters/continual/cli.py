"""`jumplora continual run`: options in, one run folder out. torch is imported when it runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from jumplora_adapters.cli import options
from jumplora_adapters.cli.output import fail, print_json, printable, reported_errors
from jumplora_adapters.continual.config_file import read_config

_Option = typer.Option

Method = Literal["seqlora", "inclora", "ella", "olora", "independent", "joint"]


def run(
    backbone: options.Backbone,
    data: Annotated[Path, _Option(help="Folder with tasks.json and a folder for each task.")],
    order: Annotated[str, _Option(help='An order of tasks.json, or tasks: "a,b,c".')],
    method: Annotated[Method, _Option(help="How a task stands to the ones before it.")],
    out: Annotated[Path, _Option(help="The run's folder; an unfinished run in it goes on.")],
    gate: Annotated[bool, _Option("--gate/--no-gate", help="JumpReLU gate, or LoRA.")] = False,
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
    prune: Annotated[
        str | None,
        _Option(
            help="Cut each finished update to this density, by magnitude: a number, one for each "
            "task (a,b,c), or a gated run's folder to take its densities from."
        ),
    ] = None,
    rank: Annotated[int, _Option(help="Inner dimension of the factors.")] = 8,
    alpha: Annotated[float, _Option(help="The update is scaled by alpha / rank.")] = 32.0,
    targets: Annotated[str, _Option(help='Modules to adapt, as "*.q,*.v".')] = "*.q,*.v",
    ella_lambda: Annotated[float, _Option(help="Strength of ELLA's term.")] = 3e4,
    olora_lambda: Annotated[float, _Option(help="Strength of O-LoRA's term.")] = 0.5,
    lr: Annotated[float, _Option(help="AdamW's learning rate.")] = 1e-3,
    decay: Annotated[Literal["constant", "linear"], _Option(help="Of the rate.")] = "constant",
    warm_up: Annotated[int, _Option(help="Steps of linear warm-up.")] = 0,
    weight_decay: Annotated[float, _Option(help="AdamW's, on the factors.")] = 0.0,
    clip: Annotated[float, _Option(help="Largest gradient norm.")] = 1.0,
    dropout: Annotated[float, _Option(help="The backbone's dropout while training.")] = 0.0,
    epochs: Annotated[int, _Option(help="Passes over the training rows.")] = 1,
    max_steps: Annotated[
        int | None, _Option(help="Optimizer steps a task, instead of epochs.")
    ] = None,
    batch_size: Annotated[int, _Option(help="Rows computed at once.")] = 32,
    accumulate: Annotated[int, _Option(help="Batches to one optimizer step.")] = 1,
    source_length: Annotated[int, _Option(help="Prompt limit in tokens; the text is cut.")] = 512,
    target_length: Annotated[int, _Option(help="Answer limit in tokens, scored ones too.")] = 8,
    train_rows: Annotated[int | None, _Option(help="Rows a task trains on; default all.")] = None,
    score_rows: Annotated[int | None, _Option(help="Rows a task is scored on; default all.")] = (
        None
    ),
    split: Annotated[
        Literal["test", "dev"], _Option(help="What is scored; dev while settings are chosen.")
    ] = "test",
    canaries: Annotated[
        Path | None, _Option(help="Folder of <task>.jsonl rows for the adapters' canaries.")
    ] = None,
    merged_task: Annotated[str, _Option(help="Task id of the merged model.")] = "merged",
    values: Annotated[
        Literal["float32", "float16", "bfloat16"] | None,
        _Option(help="Type of the saved values. Default float16; float32 without the gate."),
    ] = None,
    precision: Annotated[
        Literal["float32", "bfloat16"], _Option(help="Of the frozen backbone while training.")
    ] = "float32",
    seed: Annotated[int, _Option(help="Of factors and order of rows.")] = 0,
    created: Annotated[
        str | None, _Option(help="Date for the manifests, part of their digests.")
    ] = (None),
    threads: Annotated[int | None, _Option(help="CPU threads; default what torch takes.")] = None,
    device: Annotated[
        Literal["cpu", "cuda"] | None, _Option(help="Default: what there is.")
    ] = None,
    config_file: Annotated[
        Path | None,
        _Option(
            "--config",
            is_eager=True,
            callback=read_config,
            help="TOML file with options of this command; flags win over it.",
        ),
    ] = None,
    quiet: Annotated[bool, _Option("--quiet", help="No progress bars.")] = False,
    as_json: Annotated[
        bool, _Option("--json", help="The result as JSON, and nothing else.")
    ] = False,
) -> None:
    """Train a sequence of tasks and score every state. Killed, the same command continues.

    The defaults are the published protocol. Several GPUs: start it with `accelerate launch -m
    jumplora_server continual run ...`.
    """
    del config_file  # its values have come as those of the other options
    try:
        from jumplora_adapters.continual.config import ContinualConfig
        from jumplora_adapters.continual.densities import read_densities
        from jumplora_adapters.continual.run import run as run_all
        from jumplora_adapters.continual.watch import watching
        from jumplora_adapters.training.config import GateConfig, Lengths, Optimisation
    except ImportError as error:
        fail(f"training needs the train extra: {options.INSTALL_TRAIN} ({error})")

    with reported_errors():
        config = ContinualConfig(
            backbone=backbone,
            data=data,
            order=order,
            method=method,
            out=out,
            gate=(
                GateConfig(threshold_scope, estimator, bandwidth, set_at, closed_at)
                if gate
                else None
            ),
            prune=None if prune is None else read_densities(prune),
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
            ella_lambda=ella_lambda,
            olora_lambda=olora_lambda,
            values=values,
            precision=precision,
            split=split,
            train_rows=train_rows,
            score_rows=score_rows,
            canaries=canaries,
            merged_task=merged_task,
            seed=seed,
            created=created,
            threads=threads,
            device=device,
        )
        with watching(quiet=quiet) as watch:
            finished = run_all(config, watch)
    if as_json:
        print_json(
            {
                "folder": str(finished.folder),
                "run": finished.run,
                "versions": list(finished.versions),
            }
        )
        return
    typer.echo(f"run {finished.run} is finished: {printable(str(finished.folder))}")
    typer.echo(f"jumplora continual report {printable(str(finished.folder))}")
