"""`jumplora calibrate`: a new version of an adapter that knows how sure it is of its choices."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from jumplora_adapters.cli import options
from jumplora_adapters.cli.output import (
    fail,
    print_facts,
    print_json,
    reported_errors,
    share,
    short,
    warn,
)
from jumplora_adapters.cli.sources import SPEC_HELP, Source, find_source, open_store
from jumplora_server.cli import place
from jumplora_server.cli.certainty import chance_fact
from jumplora_server.cli.completion import task_ids
from jumplora_server.variables import DEFAULT_URL

if TYPE_CHECKING:
    from jumplora_adapters.backbone import Backbone
    from jumplora_adapters.calibration import Rated
    from jumplora_adapters.format import Adapter
    from jumplora_adapters.manifest import Calibration, Manifest
    from jumplora_server.evaluation.certainty import Rankings
    from jumplora_server.evaluation.questions import Sheet

_Option = typer.Option
_LEAST_ROWS = 50


@dataclass(frozen=True, slots=True)
class _Asking:
    """How the server is asked."""

    server: str
    key: str | None
    batch: int
    concurrency: int
    quiet: bool


@dataclass(frozen=True, slots=True)
class _Written:
    """The version that has the calibration, and where it lies."""

    version: str
    where: dict[str, str]


def calibrate(
    spec: Annotated[
        str, typer.Argument(metavar="ADAPTER", help=SPEC_HELP, autocompletion=task_ids)
    ],
    rows: Annotated[
        Path,
        _Option(help="JSONL (or .gz) of text/label or input/target rows, not of training."),
    ],
    backbone: options.Backbone,
    server: place.ServerOrDefault = DEFAULT_URL,
    key: place.ApiKey = None,
    store: options.StoreOrNone = None,
    out: Annotated[
        Path | None,
        _Option(
            callback=lambda path: path and options.adapter_file(path),
            help="Adapter file to write instead of publishing into --store.",
        ),
    ] = None,
    min_probability: Annotated[
        float | None,
        _Option(
            min=0.0,
            max=1.0,
            help="For the manifest: where the best option has less, the task abstains.",
        ),
    ] = None,
    min_mass: Annotated[
        float | None,
        _Option(
            min=0.0, max=1.0, help="For the manifest: nor where all options together have less."
        ),
    ] = None,
    min_rows: Annotated[int, _Option(min=1, help="Fewer rows are refused.")] = _LEAST_ROWS,
    batch: Annotated[int, _Option(min=1, help="Rows sent in one request.")] = 8,
    concurrency: Annotated[int, _Option(min=1, max=64, help="Requests at a time.")] = 4,
    quiet: Annotated[bool, _Option("--quiet", help="No progress bar.")] = False,
    as_json: options.AsJson = False,
) -> None:
    """Fit the temperature of an adapter's choices on rows, as a running server answers them.

    It belongs to the version that answers, the server's dtype and whether it folds ancestors. The
    result is another version: the same values, with the calibration in its manifest. It is
    published into --store, where the version has to be current, or written with --out.
    """
    with reported_errors():
        from jumplora_adapters.backbone import read_backbone, resolve_backbone
        from jumplora_adapters.calibration import calibrated
        from jumplora_adapters.format import read_adapter
        from jumplora_adapters.rows import read_rows
        from jumplora_server.evaluation.fitting import check_enough, prompt_with_options
        from jumplora_server.evaluation.questions import check_labels, make_sheet

        source = find_source(spec, store)
        _check_place(source, store, out)
        network = read_backbone(resolve_backbone(backbone))
        adapter = read_adapter(
            source.path, network, expect_digest=source.digest, follow_links=source.digest is None
        )
        prompt = prompt_with_options(adapter.manifest, spec)
        sheet = make_sheet(read_rows(rows))
        check_labels(sheet, prompt.options)
        check_enough(len(sheet.questions), min_rows)
        ask = _Asking(server, key, batch, concurrency, quiet)
        rankings, made = _fit(adapter, sheet, ask)
        manifest, stale = calibrated(
            adapter.manifest, made, min_probability=min_probability, min_mass=min_mass
        )
        written = _write(adapter, manifest, network, out=out, store=store)
    _warn(made, stale)
    if as_json:
        print_json(
            {
                "task_id": adapter.manifest.task,
                "version": written.version,
                "calibrated": adapter.digest,
                "accuracy": rankings.logprobs.accuracy,
                "calibration": made.model_dump(mode="json"),
                "dropped": [each.model_dump(mode="json") for each in stale],
                **written.where,
            }
        )
    else:
        _print(adapter, rankings.logprobs, made, written)


def _check_place(source: Source, store: Path | None, out: Path | None) -> None:
    """Before any request, that there is a place for the result."""
    if out is not None:
        return
    if source.digest is None or store is None:
        fail(f"{source.spec} is a file: give --out FILE for the calibrated one, to be published")
    current = open_store(store).current(source.spec.partition("@")[0])
    if source.digest != current:
        fail(
            f"{source.spec} is not the current version ({short(current)}), and its calibrated copy"
            " would become it: give --out FILE, or roll back first"
        )


def _fit(adapter: Adapter, sheet: Sheet, ask: _Asking) -> tuple[Rankings, Calibration]:
    """Ask for each row and fit."""
    from jumplora_adapters.cli.progress import counted
    from jumplora_server.evaluation import fitting
    from jumplora_server.evaluation.certainty import Rankings
    from jumplora_server.evaluation.interview import Interview

    manifest, version = adapter.manifest, adapter.digest
    prompt = fitting.prompt_with_options(manifest, manifest.task)
    with place.asking(ask.server, ask.key, retries=0) as client:  # an interview tries again
        info = client.info()
        fitting.check_dtype(info)
        interview = Interview(
            client,
            f"{manifest.task}@{version}",
            sheet,
            prompt_tokens=info.max_input_tokens,
            parameters={"choices": True},
        )
        with counted(manifest.task, len(sheet.questions), quiet=ask.quiet) as on_answers:
            transcript = interview.run(
                batch=min(ask.batch, info.max_client_batch_size),
                concurrency=ask.concurrency,
                on_answers=on_answers,
            )
        folded = fitting.is_folded(client.adapter(manifest.task), version, manifest)
    fitting.check_version(transcript, version)
    rankings = Rankings.of(transcript, prompt.options)
    return rankings, fitting.fit(rankings, prompt, info, folded=folded)


def _write(
    adapter: Adapter, manifest: Manifest, network: Backbone, *, out: Path | None, store: Path | None
) -> _Written:
    """The file, at `out` or as its task's version in `store`."""
    from jumplora_adapters.convert.draft import read_back
    from jumplora_adapters.format import write_adapter

    described = manifest.model_copy(update={"backbone": network.ref()})

    def write_to(path: Path) -> str:
        return write_adapter(path, described, adapter.deltas, adapter.factors, adapter.profile)

    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        return _Written(read_back(out, write_to(out), network).digest, {"file": str(out)})
    assert store is not None, "checked before the first request"
    opened = open_store(store)
    with opened.staging() as folder:
        file = folder / f"{manifest.task}.safetensors"
        write_to(file)
        published = opened.publish(file, network, if_match=adapter.digest)
    return _Written(published.digest, {"store": str(store)})


def _print(adapter: Adapter, rated: Rated, made: Calibration, written: _Written) -> None:
    from jumplora_adapters.calibration import error_by_chance

    form = "folded ancestors" if made.is_folded else "unfolded"
    (place,) = written.where.values()
    print_facts(
        [
            ("task", adapter.manifest.task),
            ("calibrated", f"{short(adapter.digest)} in {made.dtype}, {form}"),
            ("rows", str(made.rows)),
            ("accuracy", share(rated.accuracy)),
            ("calibration error", f"{made.error:.3f}, before {made.error_before:.3f}"),
            ("error by chance", chance_fact(error_by_chance(rated.at(made.temperature)))),
            ("temperature", f"{made.temperature:.3f}"),
            ("new version", f"{written.version} in {place}"),
        ]
    )


def _warn(made: Calibration, stale: tuple[Calibration, ...]) -> None:
    from jumplora_adapters.calibration import LEAST_TEMPERATURE, MOST_TEMPERATURE

    if made.temperature in (LEAST_TEMPERATURE, MOST_TEMPERATURE):
        warn(
            f"the temperature ran to its bound, {made.temperature:g}: the probabilities say little"
            " about which of these rows are right"
        )
    for each in stale:
        form = "folded" if each.is_folded else "unfolded"
        warn(
            f"the calibration for {each.dtype}, {form}, was dropped: it was fitted with other"
            " options, another instruction or template"
        )
