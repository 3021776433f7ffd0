"""What of the settings has no effect as things are at the start: no fault, so the log says it."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator

from jumplora_server.services import Services

_DIGITS = re.compile(r"[0-9a-f]{8,64}", re.ASCII)  # what names mean is read after the start
_log = logging.getLogger(__name__)


def log_without_effect(services: Services) -> None:
    """Warn of each such setting. Looks at the disk; the store has been read."""
    for message in (*_of_default_task(services), *_of_load_folder(services)):
        _log.warning("%s", message)


def _of_default_task(services: Services) -> Iterator[str]:
    spec = services.settings.default_task
    if spec is None:
        return
    refused = f"JUMPLORA_DEFAULT_TASK is {spec}, and requests that name no task are refused"
    task, _, version = spec.partition("@")
    if spec in services.backbone_names:
        if services.settings.allow_base == "no":
            yield f"{refused}: this means the bare backbone, which JUMPLORA_ALLOW_BASE=no forbids"
    elif not services.residency.knows(task):
        yield f"{refused}: no adapter of that task is published yet"
    elif _DIGITS.fullmatch(version) and not any(
        digest.startswith(version) for digest in services.residency.status(task).history
    ):
        yield f"{refused}: the task has no version that begins with {version}"


def _of_load_folder(services: Services) -> Iterator[str]:
    folder = services.settings.load_folder
    if folder is None:
        return
    if not folder.is_dir():
        yield f"JUMPLORA_LOAD_FOLDER {folder} is not a folder: nothing can be loaded from it"
    if not services.keys.keyring.has("admin"):
        yield (
            "JUMPLORA_LOAD_FOLDER has no effect without JUMPLORA_ADMIN_KEYS or a key of "
            "JUMPLORA_KEYS_FILE with the scope admin: loading needs one"
        )
