"""Crafted uploads against a live server, beside steady traffic of other tasks.

Each must be refused with a 4xx, or accepted and then answer as the file says; and leave nothing.
"""

from __future__ import annotations

import hashlib
import random
import shutil
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

import httpx

from jumplora_adapters.backbone import read_backbone
from jumplora_adapters.errors import AdapterError
from jumplora_bench.reliability.crafted_archives import ARCHIVES, MAX_BYTES
from jumplora_bench.reliability.crafted_bytes import BYTES, Change
from jumplora_bench.reliability.crafted_manifests import MANIFESTS
from jumplora_bench.reliability.findings import Findings
from jumplora_bench.reliability.site import NoAnswer, Site, commit_of, running
from jumplora_bench.reliability.traffic import Expected, Traffic, asks_right, said_in
from jumplora_bench.reliability.versions import PARAMETERS, PROMPTS, Oracle, Version, make_versions
from jumplora_bench.reliability.vitals import Vitals, listing, vitals
from jumplora_bench.report import Grid, Report

STEADY = ("steady-a", "steady-b")
ALLOWED_REFUSALS = (503, 507)  # documented: the store or memory cannot take it now
_GREEDY = {**PARAMETERS, "do_sample": False, "repetition_penalty": 1.0}
MOST_GROWTH = 1.10  # resident memory at the end over that at two fifths, where arenas are full


@dataclass(frozen=True, slots=True)
class UploadsPlan:
    """`count` uploads, kinds in turn."""

    backbone: Path
    python: Path
    count: int
    seed: int


@dataclass(slots=True)
class _Run:
    site: Site
    findings: Findings
    oracle: Oracle
    sound: dict[str, Version]
    scratch: Path
    statuses: Counter[str] = field(default_factory=Counter)
    is_answering: bool = True

    def ask(self, body: dict[str, object]) -> httpx.Response | None:
        """The answer to one request, None where there is none in time."""
        return self.site.try_request("POST", "/generate", json=body)


def measure_uploads(
    plan: UploadsPlan,
    command: str,
    on_done: Callable[[int, int], None],
    on_state: Callable[[str], None],
) -> Report:
    """All uploads, then what is left of them."""
    findings, backbone = Findings(), read_backbone(plan.backbone)
    oracle = Oracle(backbone)
    rng = random.Random(plan.seed)
    samples: list[Vitals] = []
    with TemporaryDirectory(prefix="jumplora-uploads-") as name:
        folder = Path(name)
        made = {
            task: make_versions(oracle, backbone, folder / "made", task, [seed])[0]
            for seed, task in enumerate((*STEADY, "kept", "fresh"))
        }
        settings = {
            "watch_seconds": 0.2, "metrics_max_age": 0, "canary_floor": 0,
            "max_adapter_bytes": MAX_BYTES,
        }  # fmt: skip
        site = Site(backbone, folder, settings, python=plan.python)
        site.store.mkdir()
        with running(site):
            expected = Expected()
            for version in made.values():
                if version.task != "fresh":
                    site.put(version.task, version.content).raise_for_status()
                    expected.begin(version)
            run = _Run(site, findings, oracle, made, folder)
            before = listing(site.store)
            kinds = [*(BYTES | MANIFESTS | ARCHIVES).items(), *_HEADERS.items()]
            with Traffic(site.url, STEADY, expected, findings) as traffic:
                for turn in range(plan.count):
                    kind, change = kinds[turn % len(kinds)]
                    on_state(kind)
                    findings.case = kind
                    _upload(run, change, random.Random(rng.random()), turn)
                    on_done(turn + 1, plan.count)
                    if not site.is_alive or not run.is_answering:
                        _restart(run, traffic)
                        samples.clear()
                    if turn in (0, plan.count * 2 // 5, plan.count - 1):
                        samples.append(vitals(site))
            findings.case = "after all"
            _check_after(run, before, samples)
    return _report(plan, command, run, samples, traffic)


def _upload(run: _Run, change: Change, rng: random.Random, turn: int) -> None:
    task = ("kept", "fresh")[rng.randrange(2)]
    content = change(run.sound[task].content, rng)
    headers = {}
    if content[:7] == b"HEADER ":  # a kind that spoils the request, not the file
        name, _, value = content[7:].partition(b"\n")
        headers, content = {name.decode(): value.decode("latin-1")}, run.sound[task].content
        content += bytes(rng.randrange(1, 3))  # never the sound file itself
    try:
        response = run.site.request(
            "PUT", f"/v1/adapters/{task}", content=content, headers=headers, seconds=150
        )
    except NoAnswer as error:
        run.findings.fault(f"upload: {error}; alive: {run.site.is_alive}")
        run.statuses["no answer"] += 1
        return
    code = response.status_code
    run.statuses[str(code)] += 1
    is_right = code in (200, 201, *ALLOWED_REFUSALS) or 400 <= code < 500
    run.findings.check("status", is_right, f"{code} {response.text[:150]}")
    if code in (200, 201):
        _check_accepted(run, task, _published(run, task, response, content), turn)
    elif 400 <= code < 500:
        run.findings.check("refusal says why", _says_why(response), response.text[:150])
        if task == "kept":
            wrong = asks_right(run.ask, run.sound["kept"])
            run.findings.check("refused and served as before", wrong == "", wrong)


def _published(run: _Run, task: str, response: httpx.Response, sent: bytes) -> bytes:
    """The file that was published: the one that was sent, or what the server made of it."""
    told = said_in(response)
    if not told.get("made_from"):
        return sent
    path = run.site.store / task / f"{told.get('version')}.safetensors"
    try:
        return path.read_bytes()
    except OSError as error:
        run.findings.fault(f"accepted: the file that was made is not in the store, {error}")
        return sent


def _says_why(response: httpx.Response) -> bool:
    told = said_in(response)
    return bool(told.get("error")) and bool(told.get("error_type")) and len(response.text) < 4096


def _check_accepted(run: _Run, task: str, content: bytes, turn: int) -> None:
    """An accepted file answers as the engine alone does; then the task becomes as it was."""
    digest = hashlib.sha256(content).hexdigest()
    path = run.scratch / f"accepted-{turn}.safetensors"
    path.write_bytes(content)
    if digest != run.sound[task].digest:
        try:
            texts = run.oracle.texts(path)
        except AdapterError as error:
            run.findings.fault(f"accepted: a file that cannot be read, {error}")
            texts = ()
        _check_answers(run, task, digest, texts)
    path.unlink()
    try:
        run.site.request("DELETE", f"/v1/adapters/{task}")
        if task == "kept":
            run.site.put("kept", run.sound["kept"].content)
    except NoAnswer as error:
        run.findings.fault(f"no answer: {error}; alive: {run.site.is_alive}")
        run.is_answering = False


def _check_answers(run: _Run, task: str, digest: str, texts: tuple[str | None, ...]) -> None:
    for prompt, text in zip(PROMPTS, texts, strict=False):
        response = run.ask({"task_id": task, "inputs": prompt, "parameters": _GREEDY})
        if response is None:
            run.findings.fault(f"accepted: no answer; alive: {run.site.is_alive}")
            return
        if 400 <= response.status_code < 500:
            return  # a default out of the requests' bounds: refused, and says so
        if text is None:  # numbers that are finite in the trial run and not here
            is_right = said_in(response).get("error_type") == "generation"
            run.findings.check("not finite", is_right, response.text[:150])
            continue
        said = said_in(response).get("generated_text")
        came = response.headers.get("x-adapter-version")
        is_right = (response.status_code, said, came) == (200, text, digest)
        what = f"{response.status_code} {came} {said!r}, not {text!r}"
        run.findings.check("accepted answers", is_right, what)
    # A text through its template: what the adapter multiplies, it multiplies here.
    response = run.ask({"task_id": task, "text": "a text " * 500, "parameters": _GREEDY})
    code = "no answer" if response is None else response.status_code
    is_right = isinstance(code, int) and (code < 500 or None in texts)
    run.findings.check("template", is_right, f"{code}; alive: {run.site.is_alive}")


def _restart(run: _Run, traffic: Traffic) -> None:
    if not run.site.is_alive:
        run.findings.fault(f"process: the server ended ({run.site.server.process.returncode})")
    traffic.outage_begins()
    run.site.kill()
    run.is_answering = True
    shutil.rmtree(run.site.store / "fresh", ignore_errors=True)
    run.site.start()
    run.site.put("kept", run.sound["kept"].content)
    traffic.outage_ends()


def _check_after(run: _Run, before: dict[str, int], samples: list[Vitals]) -> None:
    after = {path: size for path, size in listing(run.site.store).items() if "history" not in path}
    wanted = {path: size for path, size in before.items() if "history" not in path}
    left = sorted(after.keys() - wanted.keys())
    lost = sorted(wanted.keys() - after.keys())
    run.findings.check("no leftover", not left and not lost, f"left {left[:3]}, lost {lost[:3]}")
    run.findings.check("alive", run.site.is_alive, "the process ended")
    if len(samples) < 3:
        run.findings.note("Memory was not compared: the server was started anew in between.")
        return
    _, early, late = samples[-3:]
    growth = late.resident_bytes / early.resident_bytes
    run.findings.check("flat memory", growth <= MOST_GROWTH, f"{growth:.2f} times")
    run.findings.check("same descriptors", late.files == early.files, f"{late.files}")
    # A series may appear with a first use, such as a new reason; uploads must not multiply them.
    few = late.series <= early.series + 20
    run.findings.check("flat series", few, f"{early.series} to {late.series}")


def _promise(name: str, *values: str) -> Change:
    def change(content: bytes, rng: random.Random) -> bytes:
        del content
        return f"HEADER {name}\n{rng.choice(values)}".encode("latin-1")

    return change


_HEADERS: dict[str, Change] = {
    "wrong digest header": _promise("x-content-sha256", "0" * 64, "x", "", "g" * 64),
    "wrong content-digest": _promise("content-digest", "sha-256=:AAAA:", "md5=:x:", ""),
    "encoded body": _promise("content-encoding", "gzip", "br", "x" * 1000),
    "odd if-match": _promise("if-match", '"x"', "0" * 64, "*" * 5000),
}


def _counts(v: Vitals) -> tuple[str, str, str]:
    return str(len(v.files)), str(v.threads), str(v.series)


def _report(
    plan: UploadsPlan, command: str, run: _Run, samples: list[Vitals], traffic: Traffic
) -> Report:
    report = Report("reliability-uploads", f"{plan.count} crafted uploads", command)
    rows = [(status, str(count)) for status, count in sorted(run.statuses.items())]
    moments = ("first", "at two fifths", "last")
    report.grids = [
        Grid("Answers to the uploads", ("status", "times"), rows),
        Grid(
            "The process",
            ("upload", "resident MB", "files open", "threads", "series"),
            [
                (name, f"{v.resident_bytes / 1e6:.0f}", *_counts(v))
                for name, v in zip(moments, samples, strict=False)
            ],
        ),
        *run.findings.grids(),
    ]  # fmt: skip
    server = f"Server: commit {commit_of(plan.python)}, started {run.site.starts} times"
    report.notes = [
        f"{server}; seed {plan.seed}.",
        f"Traffic beside it: {traffic.answered} answers, the slowest {traffic.slowest:.1f} s.",
        *run.findings.notes,
    ]
    report.data = {
        **run.findings.data(), "statuses": dict(run.statuses),
        "vitals": [asdict(each) for each in samples],
    }  # fmt: skip
    return report
