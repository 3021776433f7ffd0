"""How often int8 chooses float32's token: lineages folded into trunks, and unfolded.

    .venv/bin/python -m jumplora_bench.agreement --out benchmarks/results

Each row is fed what float32 chose, so that one other token does not decide on all that follow.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence as Rows
from pathlib import Path

import torch

from jumplora_adapters.backbone import Backbone, read_backbone
from jumplora_bench.backbone import write_backbone
from jumplora_bench.cases.case import Tokens
from jumplora_bench.folds import trunk_depth
from jumplora_bench.masked import Family, draw_family
from jumplora_bench.names import LINEAGES
from jumplora_bench.prompts import random_prompts
from jumplora_bench.report import Grid, Report, console
from jumplora_bench.shapes import SHAPE_NAMES, config_of
from jumplora_server.core import Batch, Encoding, NoText, Sampling, Sequence
from jumplora_server.engine.engine import Engine

_ROWS = 24
Steps = list[list[int]]  # a step's tokens, one a row


def main(given: list[str] | None = None) -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--shape", default="base", choices=SHAPE_NAMES)
    parser.add_argument("--batches", type=int, default=4, help=f"of {_ROWS} prompts")
    parser.add_argument("--source", type=int, default=48)
    parser.add_argument("--new", type=int, default=16)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args(given)
    command = f"python -m jumplora_bench.agreement --shape {options.shape}"
    title = f"int8 beside float32: T5-{options.shape} shape, random weights and prompts"
    report = Report("agreement", title, command)
    with tempfile.TemporaryDirectory(prefix="jumplora-bench-") as scratch:
        backbone = read_backbone(write_backbone(Path(scratch) / "backbone", options.shape))
        prompts = random_prompts(
            _ROWS * options.batches, options.source, config_of(options.shape)["vocab_size"]
        )
        rows = [
            row
            for slots, density, union in LINEAGES
            for row in _compare(
                backbone, Family(slots - 1, 1, density, union), prompts, options.new
            )
        ]
    report.grids = [
        Grid("Tokens that agree with float32", ("lineage", "in int8", "same", "of"), rows)
    ]
    report.data = {"agreement": rows}
    report.show(console())
    if options.out is not None:
        report.write(options.out)


def _compare(
    backbone: Backbone, family: Family, prompts: Tokens, new: int
) -> list[tuple[str, str, str, str]]:
    lineage = draw_family(backbone, family, seed=7)
    exact, coarse = (
        Engine(
            backbone.path,
            dtype=dtype,
            max_rows=_ROWS,
            max_source_tokens=max(map(len, prompts)),
            max_target_tokens=new,
        )
        for dtype in ("float32", "int8")
    )
    depth = trunk_depth(coarse, lineage)
    plain = tuple(coarse.install(coarse.pack(each)) for each in lineage)
    forms = {
        "unfolded": plain,
        f"trunk of {depth}": (coarse.install(coarse.fold(lineage[:depth])), *plain[depth:]),
    }
    slots = tuple(exact.install(exact.pack(each)) for each in lineage)
    same = dict.fromkeys(forms, 0)
    for start in range(0, len(prompts), _ROWS):
        batch = prompts[start : start + _ROWS]
        expected = _chosen(exact, slots, batch, new)
        for name, own in forms.items():
            found = _chosen(coarse, own, batch, new, fed=expected)
            same[name] += sum(
                a == b
                for ours, theirs in zip(found, expected, strict=True)
                for a, b in zip(ours, theirs, strict=True)
            )
    total = str(len(prompts) * new)
    return [(str(family.length), name, str(count), total) for name, count in same.items()]


def _chosen(
    engine: Engine, slots: tuple[int, ...], prompts: Tokens, new: int, fed: Rows[Rows[int]] = ()
) -> Steps:
    """What each step chooses for all prompts; they are fed that, or `fed`."""
    sequences = tuple(
        Sequence(
            id=row,
            encoding=Encoding(None, prompt, slots, place=row),
            sampling=Sampling(new),
            detokenizer=NoText(),
            arrived=0.0,
            row=row,
        )
        for row, prompt in enumerate(prompts)
    )
    engine.step(Batch(tuple(sequence.encoding for sequence in sequences), ()))
    steps: Steps = []
    with torch.inference_mode():
        for step in range(new):
            tokens = list(engine.step(Batch((), sequences)).token_ids)
            steps.append(tokens)
            for sequence, token in zip(sequences, fed[step] if fed else tokens, strict=True):
                sequence.output.append(token)
    return steps


if __name__ == "__main__":
    main()
