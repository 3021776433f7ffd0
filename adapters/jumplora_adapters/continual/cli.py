"""`jumplora continual run`: options in, one run folder out. torch is imported when it runs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Literal

import typer

from jumplora_adapters.cli import options
from jumplora_adapters.cli import training_options as shared
from jumplora_adapters.cli.output import fail, print_json, reported_errors
from jumplora_adapters.continual.config_file import read_config
from jumplora_adapters.continual.methods import Method
from jumplora_adapters.printable import printable

_Option = typer.Option


def run(
    backbone: options.Backbone,
    data: Annotated[Path, _Option(help="Folder with tasks.json and a folder for each task.")],
    order: Annotated[str, _Option(help='An order of tasks.json, or tasks: "a,b,c".')],
    method: Annotated[Method, _Option(help="How a task builds on the ones before it.")],
    out: Annotated[Path, _Option(help="The run's folder; an unfinished run in it is continued.")],
    gate: Annotated[bool, _Option("--gate/--no-gate", help="JumpReLU gate, or LoRA.")] = False,
    threshold_scope: shared.ThresholdScope = "global",
    estimator: shared.Estimator = "mean",
    bandwidth: shared.Bandwidth = 0.001,
    set_at: shared.SetAt = 0.2,
    closed_at: shared.ClosedAt = 0.8,
    prune: Annotated[
        str | None,
        _Option(
            help="Cut each finished update to this density, by magnitude: a number, one for each "
            "task (a,b,c), or a gated run's folder to take its densities from."
        ),
    ] = None,
    rank: shared.Rank = 8,
    alpha: shared.Alpha = 32.0,
    targets: shared.Targets = "*.q,*.v",
    ella_lambda: Annotated[float, _Option(help="Strength of ELLA's term.")] = 3e4,
    olora_lambda: Annotated[float, _Option(help="Strength of O-LoRA's term.")] = 0.5,
    lr: shared.LearningRate = 1e-3,
    decay: shared.Decay = "constant",
    warm_up: shared.WarmUp = 0,
    weight_decay: shared.WeightDecay = 0.0,
    clip: shared.Clip = 1.0,
    dropout: shared.Dropout = 0.0,
    lora_dropout: shared.LoraDropout = 0.0,
    epochs: shared.Epochs = 1,
    max_steps: shared.MaxSteps = None,
    batch_size: shared.BatchSize = 32,
    accumulate: shared.Accumulate = 1,
    source_length: shared.SourceLength = 512,
    target_length: shared.TargetLength = 8,
    train_rows: Annotated[int | None, _Option(help="Rows a task trains on; default all.")] = None,
    score_rows: Annotated[int | None, _Option(help="Rows a task is scored on; default all.")] = (
        None
    ),
    split: Annotated[
        Literal["test", "dev"], _Option(help="Rows to score; dev while you choose settings.")
    ] = "test",
    canaries: Annotated[
        Path | None, _Option(help="Folder of <task>.jsonl rows for the adapters' canaries.")
    ] = None,
    merged_task: Annotated[str, _Option(help="Task id of the merged model.")] = "merged",
    values: shared.Values = None,
    precision: shared.Precision = "float32",
    seed: Annotated[int, _Option(help="Seed of factors and order of rows.")] = 0,
    created: shared.Created = None,
    threads: shared.Threads = None,
    device: shared.Device = None,
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

    The defaults are the published protocol but for four things, which adapters/README.md lists.
    Several GPUs: start it with `accelerate launch -m jumplora_server continual run ...`.
    """
    del config_file  # its values have come as those of the other options
    try:
        from jumplora_adapters.continual.config import ContinualConfig
        from jumplora_adapters.continual.densities import read_densities
        from jumplora_adapters.continual.run import run as run_all
        from jumplora_adapters.continual.watch import watching
        from jumplora_adapters.training.config import GateConfig, Lengths, Optimisation
        from jumplora_adapters.training.processes import is_main_process
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
            rank=rank,
            alpha=alpha,
            targets=shared.names(targets),
            optimisation=Optimisation(
                learning_rate=lr,
                weight_decay=weight_decay,
                decay=decay,
                warm_up=warm_up,
                clip=clip,
                dropout=dropout,
                lora_dropout=lora_dropout,
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
        if prune is not None:
            config = replace(config, prune=read_densities(prune, config))
        with watching(quiet=quiet or not is_main_process()) as watch:
            finished = run_all(config, watch)
    if not is_main_process():
        return
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
