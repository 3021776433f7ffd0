"""A whole server in a few lines, on a store of plain files, for the reliability parts' judges.

It does right unless a test spoils it: a judge that finds nothing wrong with a spoilt one is broken.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import httpx

from jumplora_bench.reliability.odd_entries import remove
from jumplora_bench.reliability.site import NoAnswer, Site
from jumplora_bench.reliability.versions import PROMPTS, Version
from small_http import Asked, Said, http_server

Spoil = Callable[[Asked, Said], Said]


def version_of(folder: Path, task: str, name: str) -> Version:
    """A file of a few bytes, and answers that tell it apart."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{task}-{name}"
    path.write_bytes(f"{task} {name}".encode())
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    return Version(task, digest, path, tuple(f"{name} {turn}" for turn in range(len(PROMPTS))))


class SmallSite(Site):
    """What the parts use of a site; its server answers from `store`, while it is not ended."""

    def __init__(self, folder: Path, versions: list[Version]) -> None:
        self.folder = folder
        self.store = folder / "store"
        self.log = folder / "server.log"
        self.python = Path(sys.executable)
        self.starts = 0
        self.known = {version.digest: version for version in versions}
        self.spoil: Spoil = lambda asked, said: said
        self.before_answer: Callable[[Asked], object] = lambda asked: None
        self.on_start: Callable[[], object] = lambda: None
        self.is_up = False
        self.store.mkdir()
        (self.store / ".lock").touch()

    @property
    def is_alive(self) -> bool:
        """Whether it was started and not ended."""
        return self.is_up

    def start(self) -> None:
        """Answer from now on, tidied up as a start does."""
        for left in self.store.rglob(".*"):
            if left.name != ".lock":
                left.unlink()
        self.on_start()
        self.is_up = True
        self.starts += 1

    def kill(self) -> None:
        """No answer from now on."""
        self.is_up = False

    def stop(self) -> int | None:
        """The same."""
        self.is_up = False
        return 0

    def close(self) -> None:
        """The same."""
        self.is_up = False

    def request(
        self, method: str, path: str, *, seconds: float = 5.0, **more: Any
    ) -> httpx.Response:
        """Over HTTP, as all others."""
        if not self.is_up:
            raise NoAnswer(f"{method} {path}: it was ended")
        try:
            return self._http.request(method, path, timeout=seconds, **more)
        except httpx.TransportError as error:
            raise NoAnswer(f"{method} {path}: {error}") from error

    def publish(self, version: Version) -> None:
        """As a publisher does, past the server."""
        home = self.store / version.task
        home.mkdir(exist_ok=True)
        remove(home / f"{version.digest}.safetensors")
        (home / f"{version.digest}.safetensors").write_bytes(version.content)
        (home / "current").write_text(f"{version.digest}\n")

    def current(self, task: str) -> str:
        """The pointer, empty without one."""
        try:
            return (self.store / task / "current").read_text().strip()
        except OSError:
            return ""

    def answer(self, asked: Asked) -> Said:
        """What the server says."""
        self.before_answer(asked)
        if not self.is_up:
            return Said(500, missing=1)
        return self.spoil(asked, self._right(asked))

    def _right(self, asked: Asked) -> Said:
        name = unquote(asked.path.rpartition("/")[2])
        if asked.path in ("/livez", "/readyz"):
            return Said.of("fine" if self.store.is_dir() else "the store is gone")
        if asked.path == "/metrics":
            fault = 0 if self.store.is_dir() and any(self.store.iterdir()) else 1
            return Said(body=f"jumplora_store_fault {fault}\n".encode())
        if asked.path == "/v1/adapters":
            tasks = sorted(path.name for path in self.store.iterdir() if path.is_dir())
            return Said.of({"adapters": [{"task": task, "state": "READY"} for task in tasks]})
        if asked.path == "/generate":
            return self._generate(asked)
        if asked.method == "PUT":
            digest = hashlib.sha256(asked.body).hexdigest()
            if digest not in self.known:
                return Said.of({"error": "no adapter", "error_type": "format"}, 422)
            self.publish(self.known[digest])
            return Said.of({}, 201)
        digest = self.current(name)
        if asked.method == "DELETE":
            (self.store / name / "current").unlink(missing_ok=True)
            return Said.of({}, 200 if digest else 404)
        return Said.of({"version": digest, "failure": None}, 200 if digest else 404)

    def _generate(self, asked: Asked) -> Said:
        task, _, named = asked.json["task_id"].partition("@")
        digest = named or self.current(task)
        path = self.store / task / f"{digest}.safetensors"
        if not path.is_file():
            return Said.of({"error": f"no {task}", "error_type": "unknown_task"}, 404)
        asked_for = asked.json.get("inputs", PROMPTS[0])  # a text through its template, else
        text = self.known[digest].texts[PROMPTS.index(asked_for)]
        return Said.of({"generated_text": text}, x_adapter_version=digest)


@contextmanager
def small_site(
    folder: Path, *versions: Version, kind: type[SmallSite] = SmallSite
) -> Iterator[SmallSite]:
    """Started, with the first version of each task published."""
    site = kind(folder, list(versions))
    with http_server(site.answer) as url:
        site.url = url
        limits = httpx.Limits(max_keepalive_connections=0)
        with httpx.Client(base_url=url, limits=limits) as site._http:
            site.start()
            for version in versions:
                if not site.current(version.task):
                    site.publish(version)
            yield site
