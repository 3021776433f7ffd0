"""All instruction sets compute the same bits, and the best one that runs is chosen.

digests.cpp runs every kind of operation over the same inputs on each of them. So what the other
tests show of the best set holds for all.
"""

from __future__ import annotations

import hashlib
import json
import platform
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import get_args

import pytest
import torch

from decoding import make_sequence
from factories import tiny_t5
from jumplora_adapters.backbone import read_backbone
from jumplora_adapters.format import read_adapter
from jumplora_adapters.store import Store
from jumplora_server.core import EngineLimits, InstructionSet
from jumplora_server.engine.engine import Engine
from jumplora_server.engine.native import build, library
from jumplora_server.engine.native.forms import NativeAdapter
from jumplora_server.engine.native.library import (
    NEEDS,
    NativeUnavailable,
    built_sets,
    load_library,
    runnable_sets,
    why_unavailable,
)
from jumplora_server.engine.native.runner import NativeRunner
from jumplora_server.engine.weights import StoredTensors

native = pytest.mark.skipif(why_unavailable() is not None, reason=str(why_unavailable()))
SETS = runnable_sets()
SOURCE = Path(__file__).with_name("digests.cpp")
GOLDEN = Path(__file__).parents[3] / "golden" / "v1"
LOGITS = Path(__file__).with_name("logits.json")
CROSS_COMPILER, EMULATOR = "aarch64-linux-gnu-g++", "qemu-aarch64-static"
MINUTES = 600  # seconds that a compiler may take on a busy machine


def compile_digests(compiler: str, folder: Path) -> Path:
    program = folder / "digests"
    include = str(build.HERE / "src")
    command = [compiler, "-std=c++20", "-O1", "-ffp-contract=off", "-I", include, str(SOURCE)]
    subprocess.run([*command, "-o", str(program), "-ldl"], check=True, timeout=MINUTES)
    return program


def digests(command: Sequence[str]) -> list[str]:
    done = subprocess.run(command, capture_output=True, text=True, timeout=MINUTES, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    lines = done.stdout.splitlines()
    assert len(lines) > 100
    assert [line for line in lines if ": 0 " not in line] == [], "operations that failed"
    return lines


@pytest.fixture(scope="module")
def best_digests(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """The program for this processor, and what it prints of the best set."""
    compiler = shutil.which("g++") or shutil.which("clang++")
    if compiler is None:
        pytest.skip("no C++ compiler was found")
    program = compile_digests(compiler, tmp_path_factory.mktemp("digests"))
    return program, digests([str(program), str(build.library_path(SETS[0]))])


@native
def test_every_set_that_runs_here_computes_the_same_bits(
    best_digests: tuple[Path, list[str]],
) -> None:
    program, expected = best_digests
    for name in SETS[1:]:
        found = digests([str(program), str(build.library_path(name))])
        assert differences(found, expected) == [], name


@native
@pytest.mark.slow
@pytest.mark.skipif(platform.machine() == "aarch64", reason="this is an ARM processor")
def test_arm_computes_the_same_bits(best_digests: tuple[Path, list[str]], tmp_path: Path) -> None:
    """Cross-compiled and emulated; CONTRIBUTING.md says how to install what that takes."""
    for command in (CROSS_COMPILER, EMULATOR):
        if shutil.which(command) is None:
            pytest.skip(f"{command} was not found; CONTRIBUTING.md has the packages")
    made = build.compile_sets(CROSS_COMPILER, build.SETS["aarch64"], tmp_path)
    program = compile_digests(CROSS_COMPILER, tmp_path)
    run = [EMULATOR, "-L", "/usr/aarch64-linux-gnu", "-cpu"]
    found = digests([*run, "max", str(program), str(made["neon"])])
    assert differences(found, best_digests[1]) == []
    # The Cortex-A57 has no dot product: the library says so before it is used.
    older = subprocess.run(
        [*run, "cortex-a57", str(program), str(made["neon"])],
        capture_output=True, text=True, timeout=MINUTES, check=False,
    )  # fmt: skip
    assert (older.returncode, older.stdout) == (3, "")
    assert "not for this processor" in older.stderr


def differences(found: list[str], expected: list[str]) -> list[str]:
    return [f"{a}, not {b}" for a, b in zip(found, expected, strict=True) if a != b]


# -- a whole backbone


def logits_of(dtype: str, name: InstructionSet) -> str:
    """A digest of the logits of three steps, of a row for each task of the golden store.

    All that goes in was written to files once. What torch draws differs between processors.
    """
    backbone, store = read_backbone(GOLDEN / "backbone"), Store(GOLDEN / "store")
    limits = EngineLimits(max_rows=8, max_source_tokens=32, max_target_tokens=8, end_token_ids=(1,))
    runner = NativeRunner(
        backbone.architecture, StoredTensors(backbone.checkpoint), start_token_id=0, dtype=dtype,
        limits=limits, library=load_library(name),
    )  # fmt: skip
    lineages: list[tuple[NativeAdapter, ...]] = [()]
    for task in sorted(store.tasks()):
        current = store.current(task)
        versions = [*store.manifest(current).lineage, current]
        adapters = (read_adapter(store.path_of(version), backbone) for version in versions)
        lineages.append(tuple(map(runner.pack, adapters)))
    rows = [make_sequence([*range(3, 9 + 5 * i), 1], row=i) for i in range(len(lineages))]
    digest = hashlib.sha256()
    with torch.inference_mode():
        runner.encode([row.encoding for row in rows], lineages)
        for token in (7, 11, 5):
            digest.update(runner.logits(rows, lineages).numpy().tobytes())
            for row in rows:
                row.output.append(token)
    return digest.hexdigest()


@native
@pytest.mark.parametrize("dtype", ["float32", "int8"])
def test_logits_have_the_recorded_bits_on_every_set(dtype: str) -> None:
    """CONTRIBUTING.md says how they are recorded anew, which a change of a sum's order needs."""
    found = {name: logits_of(dtype, name) for name in SETS}
    recorded: dict[str, str] = json.loads(LOGITS.read_text(encoding="utf-8"))
    assert found == dict.fromkeys(SETS, recorded[dtype])


# -- which one is chosen


def test_the_names_are_those_of_the_builder() -> None:
    assert tuple(NEEDS) == get_args(InstructionSet)
    assert {name for sets in build.SETS.values() for name in sets} == set(NEEDS)


@native
def test_the_best_one_is_chosen_and_another_one_can_be_forced(tmp_path: Path) -> None:
    folder = tiny_t5(tmp_path)
    assert Engine(folder, max_rows=1, max_source_tokens=8, max_target_tokens=8).kernels == SETS[0]
    for name in SETS:
        engine = Engine(folder, max_rows=1, max_source_tokens=8, max_target_tokens=8, kernels=name)
        assert engine.kernels == name


def test_one_of_another_processor_is_refused_with_what_there_is(tmp_path: Path) -> None:
    other: InstructionSet = "avx2" if platform.machine() == "aarch64" else "neon"
    has = ", ".join(built_sets()) or "no native kernels"
    with pytest.raises(NativeUnavailable, match=f"kernels for {other} were not built.*{has}"):
        Engine(tiny_t5(tmp_path), kernels=other)


@native
def test_a_library_of_another_version_or_none_is_said_to_be_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = SETS[-1]
    load_library.cache_clear()
    monkeypatch.setattr(library, "ABI", 1)
    with pytest.raises(NativeUnavailable, match=r"interface \d+, this code has 1: install again"):
        load_library(name)
    (tmp_path / f"_kernels_{name}.so").write_bytes(b"no library")
    monkeypatch.setattr(library, "library_path", lambda name: build.library_path(name, tmp_path))
    with pytest.raises(NativeUnavailable, match=f"kernels for {name} cannot be loaded.*install"):
        load_library(name)
    assert str(tmp_path) in str(library.why_unavailable())


# -- what is built


def copy_of_the_builder(folder: Path) -> Path:
    """build.py with one source beside it that compiles in no time."""
    source = 'extern "C" int jl_answer() { return JL_ANSWER; }\n'
    (folder / "src").mkdir()
    (folder / "src" / "support.cpp").write_text(source.replace("JL_ANSWER", "42"))
    return Path(shutil.copy(build.__file__, folder / "build.py"))


def fake_compiler(folder: Path, knows_not: str) -> str:
    """g++, but one that is too old for a flag."""
    compiler = folder / "older-g++"
    compiler.write_text(
        f'#!/bin/sh\nfor flag; do [ "$flag" != {knows_not} ] || exit 1; done\nexec g++ "$@"\n'
    )
    compiler.chmod(0o755)
    return str(compiler)


def run_builder(script: Path, *sets: str, compiler: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(script), *sets],
        env={"PATH": "/usr/bin:/bin", "CXX": compiler},
        capture_output=True, text=True, timeout=MINUTES, check=False,
    )  # fmt: skip


x86 = pytest.mark.skipif(
    platform.machine() != "x86_64" or shutil.which("g++") is None, reason="for g++ on x86-64"
)


@x86
def test_a_compiler_that_knows_a_set_not_leaves_it_out(tmp_path: Path) -> None:
    script = copy_of_the_builder(tmp_path)
    for stale in ("_kernels.so", "_kernels_avx2_vnni.so"):  # of other checkouts and compilers
        (tmp_path / stale).write_bytes(b"")
    older = fake_compiler(tmp_path, "-mavxvnni")
    done = run_builder(script, compiler=older)
    assert done.returncode == 0, done.stderr
    left = sorted(path.name for path in tmp_path.glob("_kernels*"))
    assert left == ["_kernels_avx2.so", "_kernels_avx512.so"]
    assert f"{older} does not know -mavx2 -mfma -mf16c -mavxvnni: no avx2_vnni" in done.stderr
    only = run_builder(script, "avx2_vnni", compiler=older)
    assert only.returncode == 1
    assert "knows none of the instruction sets avx2_vnni" in only.stderr
    wrong = run_builder(script, "sse9", compiler="g++")
    assert "sse9: not an instruction set of x86_64; these are avx512, avx2_vnni, avx2" in (
        wrong.stderr
    )


@x86
def test_libraries_stay_as_they_are_where_the_compiler_fails(tmp_path: Path) -> None:
    script = copy_of_the_builder(tmp_path)
    assert run_builder(script, compiler="g++").returncode == 0
    before = {path.name: path.read_bytes() for path in tmp_path.glob("_kernels*")}
    assert len(before) == 3
    (tmp_path / "src" / "broken.cpp").write_text("#error broken\n")
    done = run_builder(script, compiler="g++")
    assert done.returncode != 0
    assert "broken" in done.stderr
    assert {path.name: path.read_bytes() for path in tmp_path.glob("_kernels*")} == before


if __name__ == "__main__":
    bits = {dtype: logits_of(dtype, SETS[0]) for dtype in ("float32", "int8")}
    LOGITS.write_text(json.dumps(bits, indent=1) + "\n", encoding="utf-8")
