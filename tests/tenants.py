"""A server of two tenants, and a caller that is given its tasks by a header.

The names of the other tenant's tasks have a mark that stands nowhere else, and the tasks are in
every state that names them: served, staged, failed, degraded, below and above an adapter of ours,
noted in our manifests, pinned, damaged, and in files where ours belong.
"""

from __future__ import annotations

import json
import os
import re
from dataclasses import dataclass, field, replace
from pathlib import Path

import httpx
from starlette.datastructures import Headers
from starlette.middleware import Middleware
from starlette.types import ASGIApp, Receive, Send
from starlette.types import Scope as AsgiScope

from adapter_requests import ADMIN
from jumplora_adapters.manifest import Canary
from jumplora_server.access.caller import ADMIN_SCOPES, Caller, Scope, TaskPatterns
from jumplora_server.api.ask import record_of
from serving import Site, make_site

THEIRS, OURS = "zqtheirs", "zqours"  # the marks
# Digits, which no other name has: a name is as close to ours as any of them.
HIDDEN = tuple(f"{THEIRS}-{digit}" for digit in "12345678")
NOBODYS = f"{THEIRS}-9"  # not there, and named as those
ALIAS = f"{THEIRS}-alias"  # of the staged version of the first
BASE, CHILD, BROKEN, ODD, WORSE, BLAMED, NEW = (
    f"{OURS}-{name}" for name in ("base", "child", "broken", "odd", "worse", "blamed", "new")
)
SERVER_BASE = "bare"  # the task id that means the backbone
CALLER = "x-caller-of-tests"
_NAME = re.compile(rb"(?:%s|%s)[A-Za-z0-9._-]*" % (THEIRS.encode(), OURS.encode()))


class AsCaller:
    """Callers are what a header says of them; as the server has it without one."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: AsgiScope, receive: Receive, send: Send) -> None:
        given = Headers(scope=scope).get(CALLER) if scope["type"] == "http" else None
        if given is not None:
            asked = json.loads(given)
            tasks = None if asked["tasks"] is None else TaskPatterns.of(asked["tasks"])
            record = record_of(scope)
            key_id = asked["key"]
            record.caller = Caller(key_id, frozenset(asked["scopes"]), tasks)
        await self._app(scope, receive, send)


@dataclass(frozen=True)
class Who:
    """A caller, and the marks of what it may not see."""

    name: str
    tasks: tuple[str, ...] | None
    unseen: tuple[str, ...] = (THEIRS,)
    scopes: frozenset[Scope] = field(default=ADMIN_SCOPES)

    @property
    def headers(self) -> dict[str, str]:
        """What makes a request one of this caller's."""
        asked = {"key": f"key-{self.name}", "tasks": self.tasks, "scopes": sorted(self.scopes)}
        return {**ADMIN, CALLER: json.dumps(asked)}

    def of(self, *scopes: Scope) -> Who:
        """The same with other scopes."""
        return replace(self, scopes=frozenset(scopes))


ANY = Who("any", None, unseen=())
LISTED = Who("listed", (BASE, CHILD, BROKEN, ODD, WORSE, BLAMED, NEW))
PATTERN = Who("pattern", (f"{OURS}-*",))
STRANGER = Who("stranger", ("third-*",), unseen=(THEIRS, OURS))
NARROW = (LISTED, PATTERN, STRANGER)


def two_tenants(folder: Path) -> Site:
    """The server, not started. `fill` it once it is."""
    load_folder = folder / "loadable"
    load_folder.mkdir()
    site = make_site(
        folder,
        load_folder=load_folder,
        watch_seconds=60.0,
        canary_floor=0.0,
        default_task=HIDDEN[0],
        base_name=SERVER_BASE,
        allow_base="yes",
    )
    site.app.user_middleware.append(Middleware(AsCaller))  # the innermost
    return site


def fill(site: Site, http: httpx.Client) -> dict[str, str]:
    """Publish the tasks of both; the version by task of those that have one."""
    store, residency = site.parts.services.store, site.parts.services.residency
    order = [*HIDDEN[:3], BASE, CHILD]
    note = {
        "run": "r", "order": order, "position": 4, "method": "jumplora", "gate": "jumprelu",
        "split": "dev", "accuracy": dict.fromkeys(order, 0.5), "backward_transfer": -0.1,
        "accuracy_when_learned": dict.fromkeys(order, 0.5), "notes": {"of": HIDDEN[0]},
    }  # fmt: skip
    noted = {"training": {"continual": note}}
    made: dict[str, str] = {}
    failing: dict[str, Exception] = {}
    site.engine.fail_pack = failing.get

    def publish(task: str, **options: object) -> str:
        file = site.adapter(task, **options)  # type: ignore[arg-type]
        made[task] = store.publish(file, site.backbone).digest
        return made[task]

    def settle(*tasks: str) -> None:
        for task in tasks:
            residency.sync(task).exception(timeout=10)

    a, b, c, d, e, f, g, h = HIDDEN
    canary = Canary(prompt="x", expected="y")
    older = publish(a)
    publish(a, canaries=[canary], noted=noted)
    publish(BASE, canaries=[canary], noted=noted)
    for task in (c, WORSE):
        publish(task)
        settle(task)
        failing[publish(task)] = ValueError(f"{a} is odd")
    failing[publish(b)] = MemoryError()
    publish(d, lineage=[made[BASE]])
    publish(CHILD, lineage=[publish(e)], noted=noted)
    publish(BROKEN, lineage=[publish(f)])
    failing[made[f]] = OSError(f"{f} cannot be read")
    for task in (g, BLAMED):
        publish(task)
        (store.root / task / "current").write_text("garbage")
    (store.root / h).symlink_to(store.root / a)
    odd = store.root / ODD
    odd.mkdir()
    os.link(store.root / a / f"{made[a]}.safetensors", odd / f"{made[a]}.safetensors")
    (odd / "current").write_text(made[a])
    publish(SERVER_BASE)
    settle(a, BASE, c, WORSE, b, d, e, CHILD, f, BROKEN, g, BLAMED, h, ODD)
    http.post(f"/v1/adapters/{a}/pin").raise_for_status()
    for change, body in (
        ("alias", {"name": ALIAS, "version": older}),
        ("stage", {"version": ALIAS, "share": 0.5}),
        ("unstage", {"note": f"{THEIRS} are too slow"}),
        ("stage", {"version": ALIAS, "share": 0.25}),
    ):
        http.post(f"/v1/adapters/{a}/{change}", json=body).raise_for_status()
    loadable = site.parts.services.settings.load_folder
    assert loadable is not None
    for name in (NEW, a):
        (loadable / name).write_bytes((store.root / a / f"{made[a]}.safetensors").read_bytes())
    return made


def without_asked(answer: bytes, *asked: bytes) -> bytes:
    """An answer, in which names that its request had itself stand as one word."""
    for name in sorted({name for text in asked for name in _NAME.findall(text)}, key=len)[::-1]:
        answer = answer.replace(name, b"ASKED")
    return answer
