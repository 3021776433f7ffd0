"""`jumplora convert official | peft | dense`: adapters from what other programs saved."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from jumplora_adapters.cli import options
from jumplora_adapters.cli.draft import make_drafts, value_type
from jumplora_adapters.cli.output import (
    print_json,
    print_table,
    reported_errors,
    share,
    short,
    size,
    warn,
)
from jumplora_adapters.cli.template import Template, note_default
from jumplora_adapters.errors import ConvertError
from jumplora_adapters.printable import printable
from jumplora_adapters.recognise import check_is

if TYPE_CHECKING:
    from jumplora_adapters.backbone import Backbone
    from jumplora_adapters.convert.draft import Converted

app = typer.Typer(
    no_args_is_help=True, help="Make an adapter from a checkpoint of another program."
)

Task = Annotated[str, typer.Option("--task", help="Task id under which it is served.")]
Instruction = Annotated[str | None, typer.Option("--instruction", help="The prompt's instruction.")]
Labels = Annotated[str | None, typer.Option("--options", help='Labels, as "a | b | c".')]
TaskFile = Annotated[
    Path | None,
    typer.Option("--task-file", help="JSON with instruction, options, template; or many tasks'."),
]
MaxNewTokens = Annotated[
    int | None, typer.Option("--max-new-tokens", min=1, help="Default for requests.")
]
KindOption = Annotated[
    Literal["masked", "lowrank"] | None,
    typer.Option("--kind", help="masked expands plain LoRA; default: the checkpoint's kind."),
]
Density = Annotated[
    float | None,
    typer.Option("--density", help="Keep this share of each module's largest entries."),
]
Keep = Annotated[
    bool, typer.Option("--keep-factors", help="Store A and B beside the masks, for study.")
]


@app.command("official")
def official(
    checkpoints: Annotated[
        list[Path], typer.Argument(help="jumplora_weights.pt; several with --chain.")
    ],
    backbone: options.Backbone,
    tasks: Annotated[
        list[str], typer.Option("--task", help="Task id; with --chain one for each checkpoint.")
    ],
    out: Annotated[
        Path, typer.Option("--out", help="Adapter file to write; with --chain the folder.")
    ],
    alpha: Annotated[
        float | None, typer.Option("--alpha", help="LoRA alpha of the training, 32 as published.")
    ] = None,
    scale: Annotated[
        float | None, typer.Option("--scale", help="The factor itself, instead of --alpha.")
    ] = None,
    rank_scaling: Annotated[
        Literal["r", "sqrt-r"], typer.Option("--rank-scaling", help="Divisor of alpha.")
    ] = "r",
    chain: Annotated[
        bool, typer.Option("--chain", help="The checkpoints are one run's, in training order.")
    ] = False,
    ancestors: Annotated[
        str,
        typer.Option("--ancestors", help='Versions trained before: "a,b@1234abcd".'),
    ] = "",
    store: options.StoreOrNone = None,
    kind: KindOption = None,
    density: Density = None,
    keep_factors: Keep = False,
    values: options.Values = "float32",
    instruction: Instruction = None,
    labels: Labels = None,
    template: Template = None,
    task_file: TaskFile = None,
    max_new_tokens: MaxNewTokens = None,
    created: options.Created = None,
    as_json: options.AsJson = False,
) -> None:
    """Convert checkpoints of the official JumpLoRA code; --alpha or --scale must be given."""
    if not chain and (len(checkpoints) > 1 or len(tasks) > 1):
        raise typer.BadParameter("several checkpoints or tasks need --chain")
    if not chain:
        options.adapter_file(out)
    if len(tasks) > 1 and (instruction is not None or labels is not None):
        raise typer.BadParameter("give the prompts of several tasks in --task-file")
    with reported_errors():
        from jumplora_adapters.convert.form import Form
        from jumplora_adapters.convert.official import convert_chain, convert_official
        from jumplora_adapters.convert.scaling import Scaling
        from jumplora_adapters.training.lineage import read_ancestors

        for checkpoint in checkpoints:
            check_is(checkpoint, "official", error=ConvertError)
        scaling = Scaling(alpha=alpha, scale=scale, rank_scaling=rank_scaling)
        form = Form(
            dtype=value_type(values),
            kind=kind,
            density=density,
            factors="keep" if keep_factors else "drop",
        )
        network = _backbone(backbone)
        specs = [spec.strip() for spec in ancestors.split(",") if spec.strip()]
        drafts = make_drafts(
            tasks,
            task_file=task_file,
            instruction=instruction,
            labels=labels,
            template=template,
            max_new_tokens=max_new_tokens,
            created=created,
            lineage=tuple(link.digest for link in read_ancestors(specs, store, network)),
        )
        written: Sequence[Converted] = (
            convert_chain(checkpoints, out, drafts, network, scaling, form)
            if chain
            else (convert_official(checkpoints[0], out, drafts[0], network, scaling, form),)
        )
    report(written, as_json=as_json)


@app.command("peft")
def peft(
    folder: Annotated[
        str, typer.Argument(help="Folder with adapter_config.json, or the hub id of one.")
    ],
    backbone: options.Backbone,
    task: Task,
    out: options.Out,
    kind: KindOption = None,
    density: Density = None,
    keep_factors: Keep = False,
    values: options.Values = "float32",
    instruction: Instruction = None,
    labels: Labels = None,
    template: Template = None,
    task_file: TaskFile = None,
    max_new_tokens: MaxNewTokens = None,
    created: options.Created = None,
    as_json: options.AsJson = False,
) -> None:
    """Convert what PEFT saved: LoRA, SHiRA, Super-Tuning, RoSA or SFT, of any linear layers.

    Factors stay factors and masks stay masks, unless --kind masked is asked.
    """
    with reported_errors():
        from jumplora_adapters.convert.form import Form
        from jumplora_adapters.convert.peft import convert_peft
        from jumplora_adapters.convert.peft_folder import resolve_peft_folder

        check_is(Path(folder).expanduser(), "peft", error=ConvertError)
        form = Form(
            dtype=value_type(values),
            kind=kind,
            density=density,
            factors="keep" if keep_factors else "drop",
        )
        (draft,) = make_drafts(
            [task],
            task_file=task_file,
            instruction=instruction,
            labels=labels,
            template=template,
            max_new_tokens=max_new_tokens,
            created=created,
        )
        found = resolve_peft_folder(folder)
        note_default(draft.prompt, template)
        written = convert_peft(found, out, draft, _backbone(backbone), form)
    report([written], as_json=as_json)


@app.command("dense")
def dense(
    file: Annotated[Path, typer.Argument(help="safetensors of module -> W - W0.")],
    backbone: options.Backbone,
    task: Task,
    out: options.Out,
    density: Density = None,
    values: options.Values = "float32",
    instruction: Instruction = None,
    labels: Labels = None,
    template: Template = None,
    task_file: TaskFile = None,
    max_new_tokens: MaxNewTokens = None,
    created: options.Created = None,
    as_json: options.AsJson = False,
) -> None:
    """Convert dense deltas of linear layers; zeros are dropped, --density prunes by magnitude."""
    with reported_errors():
        from jumplora_adapters.convert.dense import convert_dense

        check_is(file, "dense", error=ConvertError)
        (draft,) = make_drafts(
            [task],
            task_file=task_file,
            instruction=instruction,
            labels=labels,
            template=template,
            max_new_tokens=max_new_tokens,
            created=created,
        )
        note_default(draft.prompt, template)
        written = convert_dense(
            file, out, draft, _backbone(backbone), dtype=value_type(values), density=density
        )
    report([written], as_json=as_json)


def report(written: Sequence[Converted], *, as_json: bool) -> None:
    """Print what was written, and the warnings of each adapter on stderr."""
    for adapter in written:
        for text in adapter.warnings:
            warn(f"{adapter.manifest.task}: {text}")
    if as_json:
        print_json({"adapters": [_entry(adapter) for adapter in written]})
        return
    print_table(
        [
            ("task", "left"),
            ("version", "left"),
            ("kind", "left"),
            ("non-zeros", "right"),
            ("density", "right"),
            ("lineage", "right"),
            ("size", "right"),
        ],
        [
            (
                adapter.manifest.task,
                short(adapter.digest),
                adapter.manifest.kind,
                f"{adapter.nonzeros:,}",
                share(adapter.density),
                str(len(adapter.manifest.lineage)),
                size(adapter.path.stat().st_size),
            )
            for adapter in written
        ],
    )
    for adapter in written:
        typer.echo(f"wrote {printable(str(adapter.path))}")


def _entry(adapter: Converted) -> dict[str, object]:
    manifest = adapter.manifest
    return {
        "task_id": manifest.task,
        "version": adapter.digest,
        "path": str(adapter.path),
        "kind": manifest.kind,
        "method": manifest.method,
        "lineage": list(manifest.lineage),
        "modules": len(manifest.targets),
        "nonzeros": adapter.nonzeros,
        "density": adapter.density,
        "file_bytes": adapter.path.stat().st_size,
        "warnings": list(adapter.warnings),
    }


def _backbone(name: str) -> Backbone:
    from jumplora_adapters.backbone import read_backbone, resolve_backbone

    return read_backbone(resolve_backbone(name))
