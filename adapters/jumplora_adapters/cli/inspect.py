"""`jumplora inspect`: what an adapter says of itself."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated

import typer

from jumplora_adapters.cli import options
from jumplora_adapters.cli.completion import stored_tasks
from jumplora_adapters.cli.output import (
    print_facts,
    print_json,
    print_table,
    reported_errors,
    share,
    short,
    size,
)
from jumplora_adapters.cli.sources import SPEC_HELP, find_source, read_head
from jumplora_adapters.network import kind_of
from jumplora_adapters.printable import shown
from jumplora_adapters.threshold_move import threshold_moves

MAX_FACT_CHARS = 2000

if TYPE_CHECKING:
    from jumplora_adapters.manifest import Manifest


def inspect(
    spec: Annotated[str, typer.Argument(help=SPEC_HELP, autocompletion=stored_tasks)],
    store: options.StoreOrNone = None,
    modules: Annotated[bool, typer.Option("--modules", help="One row a module.")] = False,
    as_json: options.AsJson = False,
) -> None:
    """Show an adapter's manifest. Its numbers are not read: `verify` does that.

    Long texts are cut; --json has all of them.
    """
    with reported_errors():
        from jumplora_adapters.convert.draft import file_digest

        source = find_source(spec, store)
        manifest = read_head(source.path, follow_links=source.digest is None)
        version = file_digest(source.path)
        file_bytes = source.path.stat().st_size
    if as_json:
        print_json(
            {
                "path": str(source.path),
                "task_id": manifest.task,
                "version": version,
                "file_bytes": file_bytes,
                "manifest": manifest.model_dump(mode="json"),
            }
        )
        return
    place = ("file", f"{source.path} ({size(file_bytes)})")
    show(manifest, version, place, modules=modules)


def show(manifest: Manifest, version: str, place: tuple[str, str], *, modules: bool) -> None:
    """Print a manifest, and where it lies as the fact `place`."""
    from jumplora_adapters.density import density_of

    facts = _facts(manifest, place, version)
    print_facts([(name, shown(value, MAX_FACT_CHARS)) for name, value in facts])
    density = {name: manifest.density[name] for name in manifest.targets}  # the network's order
    rows = (
        [(name, "1", share(value), "", "") for name, value in density.items()]
        if modules
        else [*_site_rows(density), _whole_row(density, density_of(manifest))]
    )
    print_table(
        [
            ("modules", "fold"),
            ("number", "right"),
            ("density", "right"),
            ("least", "right"),
            ("most", "right"),
        ],
        rows,
    )


def _facts(manifest: Manifest, place: tuple[str, str], version: str) -> list[tuple[str, str]]:
    """The manifest in reading order; what is absent is left out."""
    facts = [
        ("task", manifest.task),
        ("version", version),
        place,
        ("format", f"version {manifest.format_version}"),
        ("kind", manifest.kind),
        ("method", manifest.method),
        (
            "backbone",
            f"{short(manifest.backbone.fingerprint)}, named '{shown(manifest.backbone.name, 80)}'",
        ),
        ("rank, alpha", f"{manifest.rank or '-'}, {_number(manifest.alpha)}"),
    ]
    if manifest.thresholds:
        values = sorted(manifest.thresholds.values())
        one = _number(values[0])
        facts.append(("threshold", one if len(values) == 1 else f"{one} to {_number(values[-1])}"))
    training = manifest.training
    facts += [
        (f"tau {move.group}", str(move))
        for move in threshold_moves(training.get("tau_start"), training.get("tau_end"))
    ]
    facts.append(("lineage", " ".join(map(short, manifest.lineage)) or "none"))
    if manifest.scores:
        facts.append(
            (
                "scores",
                ", ".join(f"{name} {_score(value)}" for name, value in manifest.scores.items()),
            )
        )
    if manifest.prompt is not None:
        # As JSON, where a line end and a backslash before an n look different.
        facts.append(("template", json.dumps(manifest.prompt.template, ensure_ascii=False)))
        facts.append(("instruction", manifest.prompt.instruction))
        facts.append(("options", " | ".join(manifest.prompt.options)))
    if manifest.generation:
        facts.append(
            (
                "generation",
                ", ".join(f"{key} {value}" for key, value in manifest.generation.items()),
            )
        )
    facts.append(("canaries", str(len(manifest.canaries))))
    facts += _choices(manifest)
    if (profile := manifest.profile) is not None:
        group = "" if profile.group is None else f", group {profile.group}"
        text = f"{profile.features} of {profile.texts} texts, {profile.tokens} tokens{group}"
        facts.append(("profile", text))
    facts.append(("created", manifest.created or "-"))
    warnings = training.get("warnings")  # of its conversion; a stranger's file may have anything
    if isinstance(warnings, list):
        facts += [("warning", text) for text in warnings if isinstance(text, str)]
    return facts


def _choices(manifest: Manifest) -> list[tuple[str, str]]:
    """When it abstains, and how sure it is of its choices, by dtype and form."""
    if manifest.choices is None:
        return []
    from jumplora_adapters.calibration import is_stale

    asked = manifest.choices.model_dump(include={"min_probability", "min_mass"}, exclude_none=True)
    facts = [(name, f"{least:g}") for name, least in asked.items()]
    for each in manifest.choices.calibrations:
        stale = ", of other options: not used" if is_stale(each, manifest) else ""
        facts.append(
            (
                f"calibrated {each.dtype}",
                f"{'folded' if each.is_folded else 'unfolded'}: temperature {each.temperature:.3f},"
                f" error {each.error:.3f} (before {each.error_before:.3f}) on {each.rows} rows"
                f"{stale}",
            )
        )
    return facts


_Row = tuple[str, str, str, str, str]


def _site_rows(density: dict[str, float]) -> list[_Row]:
    """Density by kind of module: all encoder self-attention q, and so on."""
    kinds: dict[str, list[float]] = {}
    for name, value in density.items():
        kinds.setdefault(kind_of(name), []).append(value)
    return [  # those of a kind have one shape
        _row(kind, values, sum(values) / len(values)) for kind, values in kinds.items()
    ]


def _whole_row(density: dict[str, float], whole: float | None) -> _Row:
    """All modules, which differ in size."""
    return _row("all", list(density.values()), whole or 0.0)


def _row(name: str, values: list[float], pooled: float) -> _Row:
    return (name, str(len(values)), share(pooled), share(min(values)), share(max(values)))


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.6g}"


def _score(value: float) -> str:
    return f"{value:.4f}" if abs(value) < 1e6 else f"{value:.6g}"
