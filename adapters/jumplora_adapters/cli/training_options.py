"""Options that the commands which train share: of the gate, the update and the optimizer."""

from __future__ import annotations

from typing import Annotated, Literal, get_args

import typer

from jumplora_adapters.network import ALL_LINEAR, HEAD, Role

_Option = typer.Option

ThresholdScope = Annotated[
    Literal["global", "block"], _Option(help="One threshold, or one a transformer block.")
]
Estimator = Annotated[
    Literal["mean", "sum"], _Option(help="Estimator of the threshold's gradient; published: mean.")
]
Bandwidth = Annotated[float, _Option(help="Bandwidth of the straight-through gradient.")]
SetAt = Annotated[float, _Option(help="Share of the steps after which tau is set.")]
ClosedAt = Annotated[float, _Option(help="Share of the steps after which the gate is closed.")]
Rank = Annotated[int, _Option(help="Inner dimension of the factors.")]
Alpha = Annotated[float, _Option(help="The update is scaled by alpha / rank.")]
Targets = Annotated[
    str,
    _Option(
        help=f'Linear layers to adapt, as "q,v,wo": {", ".join(get_args(Role))}; {ALL_LINEAR} '
        f"(all but {HEAD}); ends of names; patterns of names."
    ),
]
LearningRate = Annotated[float, _Option("--lr", help="AdamW's learning rate.")]
Decay = Annotated[Literal["constant", "linear"], _Option(help="Decay of the learning rate.")]
WarmUp = Annotated[int, _Option(help="Steps of linear warm-up.")]
WeightDecay = Annotated[float, _Option(help="AdamW's weight decay, on the factors.")]
Clip = Annotated[float, _Option(help="Largest gradient norm.")]
Dropout = Annotated[float, _Option(help="The backbone's dropout while training.")]
LoraDropout = Annotated[
    float, _Option(help="Dropout of plain LoRA's input; a gated update has none.")
]
Epochs = Annotated[int, _Option(help="Passes over the training rows.")]
MaxSteps = Annotated[int | None, _Option(help="Optimizer steps a task, instead of epochs.")]
BatchSize = Annotated[int, _Option(help="Rows computed at once.")]
Accumulate = Annotated[int, _Option(help="Batches in one optimizer step.")]
SourceLength = Annotated[int, _Option(help="Prompt limit in tokens; the text is cut.")]
TargetLength = Annotated[int, _Option(help="Answer limit in tokens; a longer answer is an error.")]
Values = Annotated[
    Literal["float32", "float16", "bfloat16"] | None,
    _Option(help="Type of the saved values. Default float16; float32 without the gate."),
]
Precision = Annotated[
    Literal["float32", "bfloat16"], _Option(help="Type of the frozen backbone while training.")
]
Threads = Annotated[int | None, _Option(help="CPU threads; default: torch's choice.")]
Device = Annotated[Literal["cpu", "cuda"] | None, _Option(help="Default: cuda if torch sees it.")]
Created = Annotated[str | None, _Option(help="Date for the manifest, part of its digest.")]


def names(listed: str) -> tuple[str, ...]:
    """Names that are separated by commas; blanks around them are dropped."""
    return tuple(name.strip() for name in listed.split(",") if name.strip())
