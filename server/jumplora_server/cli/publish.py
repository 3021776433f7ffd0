"""`jumplora publish`: make an adapter, a PEFT folder or a run live, in a store or on a server."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from jumplora_adapters.cli import options
from jumplora_adapters.cli.output import change_name, fail, print_json, reported_errors, short, warn
from jumplora_adapters.cli.progress import sending
from jumplora_adapters.cli.sources import read_head
from jumplora_adapters.errors import ConvertError, WrongFile
from jumplora_adapters.file_kind import HEAD_BYTES, FileKind, kind_of
from jumplora_adapters.hub import Fetch, resolve_folder
from jumplora_adapters.peft_files import CONFIG_FILE, WEIGHTS_FILE
from jumplora_adapters.printable import printable
from jumplora_adapters.recognise import check_is
from jumplora_adapters.regular_file import open_regular
from jumplora_server.cli import place

if TYPE_CHECKING:
    from jumplora_server.api.adapter_schemas import PutResult
    from jumplora_server.client import Client

Backbone = Annotated[
    str | None,
    typer.Option(
        "--backbone",
        envvar="JUMPLORA_BACKBONE",
        help="With --store: folder or hub id of the T5 that the adapter is for.",
    ),
]
FILE_SUFFIXES = (".safetensors", ".zip", ".tar", ".gz", ".tgz")  # of files: no hub id ends so


@dataclass(frozen=True, slots=True)
class Condition:
    """Publish only if that version is current, or only if there is no such task; stage it with a
    share instead."""

    if_match: str | None = None
    new: bool = False
    stage: float | None = None


@dataclass(frozen=True, slots=True)
class Result:
    """What a publish came to. `peft_type` is None for an adapter file."""

    task_id: str
    version: str
    outcome: str
    where: dict[str, str]
    peft_type: str | None = None
    warnings: tuple[str, ...] = ()

    def as_json(self) -> dict[str, object]:
        """For --json."""
        facts = {"task_id": self.task_id, "version": self.version, "outcome": self.outcome}
        if self.peft_type is None:
            return {**facts, **self.where}
        made = {"format": "peft", "peft_type": self.peft_type, "warnings": list(self.warnings)}
        return {**facts, "made_from": made, **self.where}


def publish(
    context: typer.Context,
    source: Annotated[
        str,
        typer.Argument(
            help="Adapter file (.safetensors), or a PEFT folder, as a folder, a zip, a tar, a "
            "tar.gz or a hub id."
        ),
    ],
    server: place.Server = None,
    store: place.Store = None,
    key: place.Key = None,
    backbone: Backbone = None,
    task: Annotated[
        str | None,
        typer.Option(
            "--task",
            help="Task of a PEFT folder; an adapter file of another task is refused.",
        ),
    ] = None,
    if_match: Annotated[
        str | None, typer.Option("--if-match", help="Only if this version is current now.")
    ] = None,
    new: Annotated[bool, typer.Option("--new", help="Only if there is no such task yet.")] = False,
    stage: Annotated[
        float | None,
        typer.Option(
            "--stage",
            min=0,
            max=1,
            metavar="SHARE",
            help="Keep the current version, and give this one a share of the requests.",
        ),
    ] = None,
    quiet: Annotated[
        bool, typer.Option("--quiet", help="No progress bar of a large file's upload.")
    ] = False,
    as_json: options.AsJson = False,
) -> None:
    """Publish an adapter: with --server it returns once the version answers requests."""
    if new and if_match is not None:
        raise typer.BadParameter("give --new or --if-match, not both: a new task has no version")
    if new and stage is not None:
        raise typer.BadParameter("give --new or --stage, not both: a new task has no version yet")
    condition = Condition(if_match, new, stage)
    with reported_errors():
        where = place.place_of(context, server, store)
        result = _put(find_source(source), where, key, backbone, task, condition, quiet=quiet)
    for text in result.warnings:
        warn(f"{result.task_id}: {text}")
    if as_json:
        print_json(result.as_json())
    else:
        typer.echo(printable(_told(result)))


def publish_run(
    context: typer.Context,
    run: Annotated[Path, typer.Argument(help="Folder of a finished continual run.")],
    server: place.Server = None,
    store: place.Store = None,
    key: place.Key = None,
    backbone: Backbone = None,
    as_json: options.AsJson = False,
) -> None:
    """Publish a run: each task as its prefix snapshot, through its lineage, and the merged model.

    Task by task in the order of training. Where one is refused, those before it stay published.
    """
    from jumplora_adapters.continual.shipment import parcels_of

    results: list[Result] = []
    try:
        with reported_errors():
            where = place.place_of(context, server, store)
            for parcel in parcels_of(run):
                results.append(_put(parcel.path, where, key, backbone, parcel.task, Condition()))
                if not as_json:
                    typer.echo(printable(_told(results[-1])))
    finally:  # those before a refusal are live
        if as_json:
            print_json([result.as_json() for result in results])


def find_source(source: str, *, fetch: Fetch | None = None) -> Path:
    """The file or folder that is meant; of a hub id its snapshot. Raises ConvertError."""
    path = Path(source)
    if path.exists() or path.suffix in FILE_SUFFIXES or "/" not in source:
        return path  # where nothing is there, opening it says so
    return resolve_folder(source, (CONFIG_FILE, WEIGHTS_FILE), error=ConvertError, fetch=fetch)


def _put(
    path: Path,
    where: str | Path,
    key: str | None,
    backbone: str | None,
    task: str | None,
    condition: Condition,
    *,
    quiet: bool = False,
) -> Result:
    kind = _kind_at(path)
    if kind != "adapter" and task is None:
        fail("a PEFT folder does not name its task: give --task TASK")
    if isinstance(where, str):
        named = task or read_head(path).task
        return _to_server(path, where, key, backbone, named, condition, quiet=quiet)
    if backbone is None:
        fail("--store needs --backbone (or JUMPLORA_BACKBONE): the adapter is checked for it")
    return _into_store(path, kind, where, backbone, task, condition)


def _kind_at(path: Path) -> Literal["folder"] | FileKind:
    """What lies at a path. Raises WrongFile for what another command takes, and OSError."""
    if path.is_dir():
        check_is(path, "peft", error=WrongFile)
        return "folder"
    with open(open_regular(path, follow_links=True), "rb") as file:
        head = file.read(HEAD_BYTES)
    try:
        kind = kind_of(head)
    except WrongFile:
        check_is(path, error=WrongFile)
        raise
    if kind == "adapter":
        check_is(path, "adapter", error=WrongFile)
    return kind


def _told(result: Result) -> str:
    made = f" (made from a PEFT folder, {result.peft_type})" if result.peft_type else ""
    return f"{result.task_id}: {change_name(result.outcome)} {short(result.version)}{made}"


def _into_store(
    path: Path,
    kind: Literal["folder"] | FileKind,
    root: Path,
    backbone: str,
    task: str | None,
    condition: Condition,
) -> Result:
    from jumplora_adapters.backbone import read_backbone, resolve_backbone
    from jumplora_adapters.peft_upload import make_from_archive, make_from_folder
    from jumplora_adapters.store import Store

    known, store = read_backbone(resolve_backbone(backbone)), Store(root)
    if kind == "adapter" or task is None:
        published = store.publish(
            path,
            known,
            expect_task=task,
            if_match=condition.if_match,
            only_new=condition.new,
            stage=condition.stage,
        )
        return Result(published.task, published.digest, published.outcome, {"store": str(root)})
    store.prepare()
    if kind == "folder":
        made = make_from_folder(store, path, task, known)
    else:
        with path.open("rb") as archive:
            made = make_from_archive(store, archive, kind, task, known)
    with made.incoming as incoming:
        published = store.adopt(
            incoming,
            known,
            expect_task=task,
            if_match=condition.if_match,
            only_new=condition.new,
            stage=condition.stage,
        )
    source = made.made_from
    return Result(
        task,
        published.digest,
        published.outcome,
        {"store": str(root)},
        peft_type=source.peft_type,
        warnings=source.warnings,
    )


def _to_server(
    path: Path,
    server: str,
    key: str | None,
    backbone: str | None,
    task: str,
    condition: Condition,
    *,
    quiet: bool,
) -> Result:
    with place.asking(server, key, timeout=600.0) as client:
        if path.is_dir() and backbone is not None and Path(backbone).is_dir():
            _check_base_model(path, Path(backbone), client)
        with sending(task, quiet=quiet) as on_sent:
            put = client.publish(
                task,
                path,
                if_match=condition.if_match,
                new=condition.new,
                stage=condition.stage,
                on_sent=on_sent,
            )
    source = put.made_from
    return Result(
        put.task_id,
        _version_of(put, condition),
        put.outcome,
        {"server": server},
        peft_type=None if source is None else source.peft_type,
        warnings=() if source is None else tuple(source.warnings),
    )


def _version_of(put: PutResult, condition: Condition) -> str:
    if condition.stage is not None:
        return "" if put.staged is None else put.staged.version
    return put.version or put.desired or ""


def _check_base_model(folder: Path, backbone: Path, client: Client) -> None:
    """Refuse a PEFT folder of another backbone that lies here too. The server compares names alone.

    Raises ConvertError.
    """
    from jumplora_adapters.backbone import read_backbone
    from jumplora_adapters.convert.base_model import compare_base_model
    from jumplora_adapters.convert.config_values import text_of
    from jumplora_adapters.convert.peft_config import read_peft_config

    named = text_of(read_peft_config(folder / CONFIG_FILE), "base_model_name_or_path")
    if named is None or not Path(named).is_dir():
        return
    ours = read_backbone(backbone)
    if ours.fingerprint in client.info().backbone_fingerprints:  # else it is not about this server
        compare_base_model(named, ours)
