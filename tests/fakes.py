"""Small deterministic stand-ins for the engine and its tokenizer. No tensors, no arithmetic.

The fake engine "generates" a text that names what produced it, so that a test can read off an
answer which versions computed it; and it refuses what the real one must never be asked to do.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from collections.abc import Sequence as Rows
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from jumplora_server.core import (
    Batch,
    Candidate,
    Encoding,
    EngineLimits,
    Pass,
    Sequence,
    StepOutput,
)

if TYPE_CHECKING:
    from jumplora_adapters.format import Adapter

EOS = 1
LIMITS = EngineLimits(max_rows=4, max_source_tokens=64, max_target_tokens=256, end_token_ids=(EOS,))


def encode(text: str) -> tuple[int, ...]:
    """One token a character, eos last."""
    return (*(ord(character) for character in text), EOS)


class FakeDetokenizer:
    """One character a token."""

    def __init__(self) -> None:
        self._held = ""

    def push(self, token_id: int) -> str:
        """The character."""
        return chr(token_id)

    def hold(self, token_id: int) -> None:
        """Kept for the flush."""
        self._held += chr(token_id)

    def flush(self) -> str:
        """What was held."""
        text, self._held = self._held, ""
        return text

    def is_special(self, token_id: int) -> bool:
        """Only eos has no text."""
        return token_id == EOS

    def fresh(self) -> FakeDetokenizer:
        """Another one."""
        return FakeDetokenizer()


class ByteDetokenizer:
    """One UTF-8 byte a token: shows a character when its last byte came, like the real one."""

    def __init__(self) -> None:
        self._bytes = b""

    def push(self, token_id: int) -> str:
        """The characters that are whole."""
        self._bytes += bytes([token_id])
        try:
            text = self._bytes.decode()
        except UnicodeDecodeError:
            return ""
        self._bytes = b""
        return text

    def hold(self, token_id: int) -> None:
        """Kept for the next push or the flush."""
        self._bytes += bytes([token_id])

    def flush(self) -> str:
        """A half character becomes a replacement character."""
        text, self._bytes = self._bytes.decode(errors="replace"), b""
        return text

    def is_special(self, token_id: int) -> bool:
        """Only eos has no text."""
        return token_id == EOS

    def fresh(self) -> ByteDetokenizer:
        """Another one."""
        return ByteDetokenizer()


def say(prompt: tuple[int, ...], versions: tuple[str, ...]) -> str:
    """What the fake engine generates: the versions of the lineage, then the prompt."""
    text = "".join(chr(token) for token in prompt if token != EOS)
    return f"{'+'.join(version[:8] for version in versions) or 'base'}:{text}"


@dataclass(frozen=True, slots=True)
class FakePacked:
    """A packed adapter or trunk that is only the names of its versions and its size."""

    versions: tuple[str, ...]
    nbytes: int
    nnz: int = 3
    density: float = 0.25


class FakeEngine:
    """Rows, slots and steps like the real engine. Everything it was asked is checked.

    `fail_step(batch)` and `fail_pack(digest)` may return an exception to raise, `nonfinite` are
    versions whose rows fail alone, `nbytes(adapter)` is the size a packed adapter takes,
    `step_seconds` how slow a step is, `encode_seconds` what of it a step that encodes says the
    encoder took, `say(prompt, versions)` what is generated.
    """

    device = "cpu"
    weight_bytes = 1_000_000
    kernels = "fake"

    def __init__(
        self, limits: EngineLimits = LIMITS, *, can_fold: bool = True, site_bytes: int = 100
    ) -> None:
        """`site_bytes` is what a trunk takes for each of its sites."""
        self.can_fold = can_fold
        self.site_bytes = site_bytes
        self.folded: list[tuple[str, ...]] = []
        self.limits = limits
        self.fail_step: Callable[[Batch], Exception | None] = lambda batch: None
        self.fail_pack: Callable[[str], Exception | None] = lambda digest: None
        self.nbytes: Callable[[Adapter], int] = lambda adapter: 100
        self.say: Callable[[tuple[int, ...], tuple[str, ...]], str] = say
        self.nonfinite: set[str] = set()
        self.step_seconds = 0.0
        self.encode_seconds = 0.0
        self.steps = 0
        self.peak_bytes = 0
        self.packed: list[str] = []
        self.slots: dict[int, FakePacked] = {}
        self._encodings: dict[Encoding, tuple[int, tuple[int, ...]]] = {}  # with place and slots
        self._started: dict[int, tuple[Sequence, int, tuple[int, ...]]] = {}  # with row and slots
        self._lock = threading.Lock()
        self._next_slot = 0
        self._may_step = _Gate()
        self._may_pack = _Gate()

    @property
    def resident_bytes(self) -> int:
        """Bytes of all installed slots."""
        with self._lock:
            return sum(packed.nbytes for packed in self.slots.values())

    @contextmanager
    def steps_held(self) -> Iterator[_Gate]:
        """Within this no step ends; the gate tells when one has begun."""
        with self._may_step.held():
            yield self._may_step

    @contextmanager
    def packs_held(self) -> Iterator[_Gate]:
        """Within this no adapter gets packed; the gate tells when one has begun."""
        with self._may_pack.held():
            yield self._may_pack

    # Adapters: any thread

    def pack(self, adapter: Adapter) -> FakePacked:
        """Note the adapter's size."""
        self._may_pack.enter()
        error = self.fail_pack(adapter.digest)
        if error is not None:
            raise error
        self.packed.append(adapter.digest)
        return FakePacked((adapter.digest,), self.nbytes(adapter))

    def trunk_bytes(self, sites: Iterable[str]) -> int:
        """The same for each site. Raises KeyError for "unknown"."""
        if "unknown" in (names := {*sites}):
            raise KeyError("unknown")
        return self.site_bytes * len(names)

    def fold(self, adapters: Rows[Adapter]) -> FakePacked:
        """Note which adapters were merged."""
        self._may_pack.enter()
        versions = tuple(adapter.digest for adapter in adapters)
        for error in map(self.fail_pack, versions):
            if error is not None:
                raise error
        self.folded.append(versions)
        sites = {site for adapter in adapters for site in adapter.manifest.targets}
        return FakePacked(versions, self.trunk_bytes(sites))

    def install(self, packed: FakePacked) -> int:
        """Slot numbers are never used again."""
        with self._lock:
            slot, self._next_slot = self._next_slot, self._next_slot + 1
            self.slots[slot] = packed
            self.peak_bytes = max(self.peak_bytes, sum(p.nbytes for p in self.slots.values()))
            return slot

    def remove(self, slot: int) -> None:
        """Refuses a slot that a live sequence uses."""
        with self._lock:
            users = [i for i, (_, slots) in self.live.items() if slot in slots]
            assert not users, f"slot {slot} is removed under sequences {users}"
            del self.slots[slot]

    # Steps: the engine thread

    def step(self, batch: Batch) -> StepOutput:
        """The next character for each sequence of the batch."""
        self._may_step.enter(self.step_seconds)
        self.steps += 1
        with self._lock:
            self._check(batch)
            lineages = [
                tuple(v for s in q.encoding.slots for v in self.slots[s].versions)
                for q in batch.decode
            ]
        error = self.fail_step(batch)
        if error is not None:
            raise error
        tokens: list[int] = []
        failed: list[int] = []
        for index, (sequence, versions) in enumerate(zip(batch.decode, lineages, strict=True)):
            text, at = self.say(sequence.encoding.prompt, versions), len(sequence.output)
            tokens.append(ord(text[at]) if at < len(text) else EOS)
            if self.nonfinite & set(versions):
                failed.append(index)
                tokens[-1] = -1
        logprobs = tuple(-0.5 if s.sampling.logprobs == "chosen" else None for s in batch.decode)
        candidates = [*map(_candidates, batch.decode, tokens)]
        passes = [self._logprobs_of(each) for each in batch.passes]
        return StepOutput(
            tuple(tokens),
            logprobs,
            failed=tuple(failed),
            encode_seconds=self.encode_seconds if batch.encode else 0.0,
            candidates=tuple(candidates) if any(candidates) else (),
            passes=tuple(passes),
        )

    def _logprobs_of(self, each: Pass) -> tuple[tuple[float, ...], ...]:
        """`say`'s next character is likely, all others are not; nothing of a nonfinite version."""
        encoding = each.sequence.encoding
        versions = tuple(v for s in encoding.slots for v in self.slots[s].versions)
        if self.nonfinite & set(versions):
            return ()
        said = self.say(encoding.prompt, versions)
        found = []
        for node in each.nodes:
            path = [each.trie.tokens[n] for n in each.trie.path(node)[1:]]
            at = len(path)
            is_on_way = [ord(c) for c in said[:at]] == path
            likely = ord(said[at]) if at < len(said) else EOS
            found.append(
                tuple(
                    -0.1 if is_on_way and edge.token == likely else -3.0
                    for edge in each.trie.edges[node]
                )
            )
        return tuple(found)

    @property
    def live(self) -> dict[int, tuple[int, tuple[int, ...]]]:
        """Row and slots of each sequence that has not ended; those that have hold no row."""
        started = [*self._started.items()]
        return {i: (row, slots) for i, (sequence, row, slots) in started if sequence.row >= 0}

    def _check(self, batch: Batch) -> None:
        for encoding in batch.encode:
            assert encoding not in self._encodings, f"{encoding} is encoded twice"
            self._encodings[encoding] = (encoding.place, encoding.slots)
        rows = [sequence.row for sequence in batch.decode]
        assert len(set(rows)) == len(rows), f"rows are shared: {rows}"
        assert all(0 <= row < self.limits.max_rows for row in rows), f"rows {rows} do not exist"
        for sequence in batch.decode:
            encoding = sequence.encoding
            kept = self._encodings.get(encoding)
            assert kept == (encoding.place, encoding.slots), f"{encoding} was moved from {kept}"
        singles = [s for s in batch.decode if s.sampling.beams is None]  # beams change their rows
        nodes = sum(len(each.nodes) for each in batch.passes)
        assert nodes <= self.limits.max_nodes, f"a step of {nodes} nodes"
        for each in batch.passes:
            encoding = each.sequence.encoding
            kept = self._encodings.get(encoding)
            assert kept == (encoding.place, encoding.slots), f"{encoding} was moved from {kept}"
            missing = [slot for slot in encoding.slots if slot not in self.slots]
            assert not missing, f"sequence {each.sequence.id} uses slots {missing} that are gone"
            parents = {each.trie.parents[node] for node in each.nodes} - {-1}
            assert parents <= {*each.nodes}, "a pass leaves out a node's parent"
        for sequence in singles:
            encoding = sequence.encoding
            if sequence.id not in self._started:
                assert not sequence.output, f"sequence {sequence.id} is started late"
                self._started[sequence.id] = (sequence, sequence.row, encoding.slots)
        live = self.live
        assert {s.id for s in singles} == live.keys(), "a live row is left out"
        for sequence in singles:
            kept = live[sequence.id]
            slots = sequence.encoding.slots
            assert kept == (sequence.row, slots), f"{sequence.id} was moved from {kept}"
            missing = [slot for slot in slots if slot not in self.slots]
            assert not missing, f"sequence {sequence.id} uses slots {missing} that are gone"


class _Gate:
    """Lets everything through unless held."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._is_held = False
        self._waiting = 0

    @contextmanager
    def held(self) -> Iterator[None]:
        """Hold it within the block."""
        with self._changed:
            self._is_held = True
        try:
            yield
        finally:
            with self._changed:
                self._is_held = False
                self._changed.notify_all()

    def enter(self, seconds: float = 0.0) -> None:
        """Go through when that is allowed, after `seconds`."""
        with self._changed:
            if seconds:
                self._changed.wait_for(lambda: self._is_held, timeout=seconds)
            self._waiting += 1
            self._changed.notify_all()
            assert self._changed.wait_for(lambda: not self._is_held, timeout=30), "held for ever"
            self._waiting -= 1

    def wait_for_someone(self) -> None:
        """Wait until somebody stands before the held gate."""
        with self._changed:
            assert self._changed.wait_for(lambda: self._waiting > 0, timeout=30), "nobody came"


def _candidates(sequence: Sequence, token: int) -> tuple[Candidate, ...]:
    """What a beam search may continue with: what is said, then the digits."""
    beams = sequence.sampling.beams
    if beams is None or token < 0:
        return ()
    tokens = [*dict.fromkeys((token, *range(ord("0"), ord("0") + beams.candidates(1))))]
    return tuple(Candidate(t, -0.5 - i) for i, t in enumerate(tokens[: beams.candidates(1)]))
