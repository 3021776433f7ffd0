"""A hub with one repository, in a few lines: what huggingface_hub asks for a snapshot."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from small_http import Asked, Said, http_server

COMMIT = "c" * 40


@dataclass
class SmallHub:
    """The files of `folder` as the repository `repo`; `asked` has the files that were fetched."""

    repo: str
    folder: Path
    asked: list[str] = field(default_factory=list)

    def answer(self, asked: Asked) -> Said:
        """What the hub says."""
        path = asked.path.partition("?")[0]
        api = f"/api/models/{self.repo}"
        if path == f"{api}/revision/main":
            return Said.of({"id": self.repo, "sha": COMMIT, "siblings": []})
        if path == f"{api}/tree/{COMMIT}":
            return Said.of([self._entry(file) for file in sorted(self.folder.iterdir())])
        front = f"/{self.repo}/resolve/{COMMIT}/"
        file = self.folder / path.removeprefix(front)
        if not path.startswith(front) or not file.is_file():
            return Said.of({"error": "not found"}, 404, x_error_code="EntryNotFound")
        content = file.read_bytes()
        headers = {"x-repo-commit": COMMIT, "etag": f'"{hashlib.sha1(content).hexdigest()}"'}
        if asked.method == "GET":
            self.asked.append(file.name)
        return Said(body=content, headers=headers)

    def _entry(self, file: Path) -> dict[str, object]:
        content = file.read_bytes()
        oid = hashlib.sha1(content).hexdigest()
        return {"type": "file", "path": file.name, "size": len(content), "oid": oid}


@contextmanager
def small_hub(
    repo: str, folder: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[SmallHub]:
    """huggingface_hub asks this hub, and keeps what it fetched below `cache`."""
    from huggingface_hub import constants

    hub = SmallHub(repo, folder)
    with http_server(hub.answer) as url:
        template = constants.HUGGINGFACE_CO_URL_TEMPLATE.replace(constants.ENDPOINT, url)
        monkeypatch.setattr(constants, "ENDPOINT", url)
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        yield hub
