"""A whole server around the fake engine, over a real HTTP connection or without one."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
from fastapi import FastAPI
from tokenizers import Regex, Tokenizer, pre_tokenizers, processors
from tokenizers.models import WordLevel

from factories import random_adapter, toy_backbone
from fakes import EOS, LIMITS, ByteDetokenizer, FakeDetokenizer, FakeEngine
from jumplora_adapters.backbone import Backbone
from jumplora_adapters.format import write_adapter
from jumplora_adapters.manifest import Canary, ChoicesSpec, PromptSpec
from jumplora_server.app import Parts, build, connect, traffic
from jumplora_server.binds import Bind, BindName
from jumplora_server.core import Batch, EngineLimits
from jumplora_server.engine import tokenizer as engine_tokenizer
from jumplora_server.http.connections import Traffic
from jumplora_server.http.exchange import App
from jumplora_server.http.server import HttpServer, bound_sockets, http_server
from jumplora_server.settings import Settings

ADMIN_KEY = "admin-key-of-tests"
PROMPT = PromptSpec(template="{instruction}|{text}>", instruction="do {text}")
BACKBONE = toy_backbone()


def character_tokenizer(
    *, special: Sequence[str] = (), added: Sequence[str] = (), rows: int | None = None
) -> engine_tokenizer.Tokenizer:
    """One token a character, its code point as id, as the fake engine reads prompts.

    `special` and other `added` tokens have the ids from 0x250 on.
    """
    vocab = {chr(code): code for code in range(2, 0x250)} | {"<pad>": 0, "</s>": EOS}
    raw = Tokenizer(WordLevel(vocab, unk_token="?"))
    raw.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
    raw.post_processor = processors.TemplateProcessing(
        single="$A </s>", special_tokens=[("</s>", EOS)]
    )
    raw.add_special_tokens(list(special))
    raw.add_tokens(list(added))
    return engine_tokenizer.Tokenizer(raw, eos_token_id=EOS, rows=rows)


@dataclass
class Site:
    """A server that was built: its app, its parts and its engine."""

    app: FastAPI
    parts: Parts
    engine: FakeEngine
    folder: Path
    backbone: Backbone = BACKBONE
    _seeds: Iterator[int] = field(default_factory=lambda: iter(range(1000)))

    def adapter(
        self,
        task: str,
        *,
        generation: Mapping[str, Any] | None = None,
        canaries: Sequence[Canary] = (),
        choices: ChoicesSpec | None = None,
        noted: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> Path:
        """Write an adapter file of random content, another one each time.

        `noted` are further fields of its manifest.
        """
        options.setdefault("prompt", PROMPT)
        seed = next(self._seeds)
        manifest, deltas = random_adapter(self.backbone, task=task, seed=seed, **options)
        path = self.folder / "files" / f"{task}-{seed}.safetensors"
        path.parent.mkdir(exist_ok=True)
        fields = {
            "generation": generation or {},
            "canaries": tuple(canaries),
            "choices": choices,
            **(noted or {}),
        }
        write_adapter(path, manifest.model_copy(update=fields), deltas)
        return path

    def publish(self, task: str, **options: Any) -> str:
        """Publish a random adapter into the store and wait until it answers; its version."""
        services = self.parts.services
        published = services.store.publish(self.adapter(task, **options), self.backbone)
        services.residency.sync(task).result(timeout=10)
        return published.digest

    def metric(self, name: str, **labels: str) -> float:
        """A value of the server's registry; 0 where there is no such series."""
        return self.parts.services.metrics.registry.get_sample_value(name, labels) or 0.0

    def outcomes(self, task: str) -> dict[str, float]:
        """Finished requests of a task label by outcome, without zeros."""
        families = self.parts.services.metrics.registry.collect()
        samples = [s for family in families for s in family.samples]
        return {
            s.labels["outcome"]: s.value
            for s in samples
            if s.name == "jumplora_requests_total" and s.labels["task_id"] == task and s.value
        }


def make_site(
    folder: Path,
    *,
    limits: EngineLimits = LIMITS,
    bytes_as_text: bool = False,
    tokenizer: engine_tokenizer.Tokenizer | None = None,
    backbone: Backbone = BACKBONE,
    **settings: Any,
) -> Site:
    """A server that is not started. `settings` override the defaults of tests."""
    chosen = Settings(
        **{
            "backbone": "toy",
            "store": folder / "store",
            "admin_keys": ADMIN_KEY,
            "watch_seconds": 0.05,
            "request_timeout": 20.0,
            "hang_exit_seconds": 0,  # a test must not end the whole run
            "metrics_max_age": 0,
            "max_source_tokens": limits.max_source_tokens,
            "max_target_tokens": limits.max_target_tokens,
            **settings,
        }
    )
    engine = FakeEngine(limits)
    detokenizer = ByteDetokenizer if bytes_as_text else FakeDetokenizer
    parts = connect(
        chosen, backbone, engine, tokenizer or character_tokenizer(), detokenizer=detokenizer
    )
    return Site(build(chosen, parts), parts, engine, folder, backbone)


@contextmanager
def listening(site: Site) -> Iterator[str]:
    """Serve over a real connection, in a thread; yields the address."""
    with serving_app(
        site.app, site.parts.services.settings, traffic(site.parts.services)
    ) as server:
        yield f"http://127.0.0.1:{server.port}"


@contextmanager
def listening_at(site: Site) -> Iterator[Mapping[BindName, str]]:
    """The same, with the address of each bind."""
    services = site.parts.services
    with serving_app(site.app, services.settings, traffic(services)) as server:
        yield {name: f"http://127.0.0.1:{port}" for name, port in server.ports.items()}


@dataclass(frozen=True)
class Listener:
    """An HTTP server that listens. `port` is the main bind's."""

    http: HttpServer
    port: int
    ports: Mapping[BindName, int]
    settings: Settings
    loop: asyncio.AbstractEventLoop


@contextmanager
def serving_app(app: App, settings: Settings, traffic: Traffic = Traffic()) -> Iterator[Listener]:
    """Serve any app with our HTTP server, in a thread."""

    def nothing() -> None:
        """Drain no app."""

    with ExitStack() as held:
        binds = (Bind("main", "127.0.0.1", 0), *settings.binds[1:])
        listeners = [held.enter_context(each) for each in bound_sockets(binds)]
        ports = {each.bind_name: each.getsockname()[1] for each in listeners}
        server = http_server(
            app, settings, traffic, on_drain=nothing, on_refuse=nothing, on_cut_off=nothing
        )
        thread = threading.Thread(target=server.run, args=([*listeners],), name="http")
        thread.start()
        try:
            wait_for(lambda: server.started or not thread.is_alive(), 20)
            assert server.started, "the server did not start"
            yield Listener(server, ports["main"], ports, settings, server.servers[0].get_loop())
        finally:
            server.should_exit = True
            thread.join(timeout=20)
            assert not thread.is_alive(), "the server did not stop"


@contextmanager
def connected(site: Site, **options: Any) -> Iterator[httpx.Client]:
    """A client of a started server."""
    with listening(site) as address, httpx.Client(base_url=address, timeout=20, **options) as http:
        yield http


def wait_for(condition: Callable[[], bool], seconds: float = 10.0) -> None:
    """Wait for what another thread does; there is nothing of it to block on."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.005)


@contextmanager
def slow_down(site: Site, seconds: float = 0.02) -> Iterator[None]:
    """Within this every step takes at least that long."""
    pause = threading.Event()

    def wait(batch: Batch) -> None:
        del batch
        pause.wait(seconds)

    site.engine.fail_step = wait
    try:
        yield
    finally:
        site.engine.fail_step = lambda batch: None
