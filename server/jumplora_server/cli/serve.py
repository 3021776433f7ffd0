"""`jumplora serve`: settings in, a running server; every flag is a setting."""

from __future__ import annotations

import gc
import inspect
import logging
import os
from collections.abc import Callable
from contextlib import ExitStack
from types import NoneType, UnionType
from typing import Annotated, Literal, get_args, get_origin

import typer

from jumplora_adapters.printable import printable
from jumplora_server import logs
from jumplora_server.audit_file import AuditFile
from jumplora_server.http.signals import ignore_signals
from jumplora_server.setting_groups import in_panels, panel_of
from jumplora_server.settings import (
    MIN_KEY_CHARS,
    PREFIX,
    Settings,
    SettingsError,
    load_settings,
    service_keys,
)

# Other users can list a process's arguments, so keys come from the environment alone.
NOT_FLAGS = frozenset({"admin_keys", "api_keys"})
EXIT_SETTINGS = 2
EXIT_STARTUP = 3
_log = logging.getLogger(__name__)


def serve_command() -> Callable[..., None]:
    """The command, with one option for each setting: name, bounds and help are defined once."""

    def serve(**flags: str | None) -> None:
        run({name: value for name, value in flags.items() if value is not None})

    serve.__doc__ = _help()
    options = [_option(name) for name in in_panels() if name not in NOT_FLAGS]
    serve.__signature__ = inspect.Signature(options)  # type: ignore[attr-defined]
    serve.__annotations__ = {option.name: option.annotation for option in options}
    return serve


def run(flags: dict[str, str]) -> None:
    """Check the settings, build the server, run it until a signal."""
    try:
        settings = load_settings(**flags)
    except SettingsError as error:
        for line in error.lines:
            typer.secho(printable(line), fg="red", err=True)
        raise typer.Exit(EXIT_SETTINGS) from None
    logs.configure(settings.log_format, settings.log_level)
    if services := service_keys(os.environ):
        _log.info(
            "variables that Kubernetes makes for its Services are not settings, and ignored: %s; "
            "the port is %d",
            ", ".join(services),
            settings.port,
        )
    # A text is tokenized by the thread that asks for it: several would take the engine's cores.
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    ignore_signals()
    # Late: torch takes seconds, and a wrong setting should show at once.
    from jumplora_server import app
    from jumplora_server.api.audit import AUDIT_LOG
    from jumplora_server.http.server import bound_sockets

    with ExitStack() as held:
        try:
            if settings.audit_file is not None:
                held.callback(AuditFile(settings.audit_file, logging.getLogger(AUDIT_LOG)).close)
            listeners = [held.enter_context(each) for each in bound_sockets(settings.binds)]
            parts = app.assemble(settings)
        except app.STARTUP_ERRORS as error:
            typer.secho(f"the server cannot start: {printable(str(error))}", fg="red", err=True)
            raise typer.Exit(EXIT_STARTUP) from None
        server = app.server(settings, parts)
        # What was built stays: no collection walks its 200,000 objects again, 0.1 s.
        gc.collect()
        gc.freeze()
        server.run(sockets=[*listeners])
    if not server.started:
        raise typer.Exit(EXIT_STARTUP)


def _help() -> str:
    """A line of its own for each paragraph: the help keeps line ends."""
    keys = [
        f"{PREFIX}{name.upper()}: {Settings.model_fields[name].description}."
        for name in in_panels()
        if name in NOT_FLAGS
    ]
    paragraphs = (
        "Serve adapters over HTTP. Every flag is also an environment key, JUMPLORA_<NAME>.",
        "Keys come from the environment alone, separated by commas. A key has at least "
        f"{MIN_KEY_CHARS} characters, or is given as sha256: and the 64 hex digits of its SHA-256.",
        *keys,
        "Exit codes: 0 stopped by a signal; 2 a wrong setting; 3 it cannot start; 79 a thread died "
        "or a step hung, and a new start helps.",
    )
    return "\n\n".join(paragraphs)


def _option(name: str) -> inspect.Parameter:
    field = Settings.model_fields[name]
    flag = "--" + name.replace("_", "-")
    meaning = field.description or ""
    # The meaning of a setting without a default says what holds then; [] would be markup.
    has_default = not field.is_required() and field.default is not None
    shown = f" (default: {field.default})" if has_default else ""
    option = typer.Option(
        flag,
        help=f"{meaning[:1].upper()}{meaning[1:]}{shown} {PREFIX}{name.upper()}",
        metavar=_metavar(field.annotation),
        autocompletion=lambda: _choices(field.annotation),
        show_default=False,
        rich_help_panel=panel_of(name),
        envvar=None,  # the settings read the environment themselves, with the same names
    )
    return inspect.Parameter(
        name,
        inspect.Parameter.KEYWORD_ONLY,
        default=None,
        annotation=Annotated[str | None, option],
    )


def _choices(annotation: object) -> list[str]:
    return [*map(str, get_args(annotation))] if get_origin(annotation) is Literal else []


def _metavar(annotation: object) -> str:
    if choices := _choices(annotation):
        # One below the other: a wide column would leave the names of variables too little room.
        return "|\n".join(choices)
    if isinstance(annotation, UnionType):
        annotation = next(kind for kind in get_args(annotation) if kind is not NoneType)
    return getattr(annotation, "__name__", "value").upper()
