"""What of a metrics page a caller of some tasks sees: a page that is cut once, for all of them.

A page is cut into runs of samples that name the same tasks, each with its text, so that a view of
it is put together without writing a line anew. A label that is not listed here may hold anything:
its samples are in no view.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import groupby

from prometheus_client import Metric, generate_latest
from prometheus_client.registry import Collector
from prometheus_client.samples import Sample

from jumplora_server.access.caller import Caller
from jumplora_server.metrics.tasks import RESERVED

OF_A_TASK = ("task_id", "other_task_id", "adapter_name")
OF_A_KEY = ("key",)
LISTS = frozenset({"running_lora_adapters", "waiting_lora_adapters"})  # of tasks, with commas
# What names neither a task nor a key, or says more of the task that stands beside it.
OF_NO_TASK = frozenset(
    {
        "cause", "code", "device", "digest", "ending", "generation", "implementation", "le",
        "level", "major", "max_lora", "minor", "model_name", "outcome", "patchlevel", "phase",
        "pinned", "reason", "result", "role", "score", "stage", "state", "thread", "tier", "torch",
        "version",
    }
)  # fmt: skip
_KNOWN = OF_NO_TASK | LISTS | {*OF_A_TASK, *OF_A_KEY}


@dataclass(frozen=True, slots=True)
class Names:
    """The tasks and the keys that a sample names."""

    tasks: tuple[str, ...] = ()
    keys: tuple[str, ...] = ()


_NONE = Names()
Run = tuple[Names, bytes]


class CutPage:
    """One page, whose whole is `text`."""

    def __init__(self, families: Iterable[Metric]) -> None:
        self._pieces: list[Run | Metric] = []  # a family with lists is written for each view
        texts: list[bytes] = []
        for family in families:
            text = _written(family)
            texts.append(text)
            self._pieces.extend(_cut(family, text))
        self.text = b"".join(texts)

    def seen_by(self, caller: Caller) -> bytes:
        """The page as a caller of some tasks sees it."""
        sees = _Sight(caller)
        parts: list[bytes] = []
        for piece in self._pieces:
            if isinstance(piece, Metric):
                parts.append(_written(_narrowed(piece, sees)))
            elif sees.all_of(piece[0]):
                parts.append(piece[1])
        return b"".join(parts)


class _Sight:
    """Which names a caller sees, each looked up once: patterns take a while."""

    def __init__(self, caller: Caller) -> None:
        self._caller = caller
        self._tasks: dict[str, bool] = {}

    def task(self, task: str) -> bool:
        found = self._tasks.get(task)
        if found is None:
            found = self._tasks[task] = task in RESERVED or self._caller.may_see(task)
        return found

    def all_of(self, names: Names) -> bool:
        return all(map(self.task, names.tasks)) and all(
            key == self._caller.key_id for key in names.keys
        )


def _cut(family: Metric, text: bytes) -> Iterator[Run | Metric]:
    """What a view may have of a family. Its text has two lines, then one for each sample."""
    lines = text.splitlines(keepends=True) if b"\r" not in text else []
    if len(lines) != len(family.samples) + 2:  # written in another way than it was here
        return
    if any(sample.labels.keys() & LISTS for sample in family.samples):
        yield family
        return
    yield _NONE, lines[0] + lines[1]
    named = zip(map(_names_of, family.samples), lines[2:], strict=True)
    for names, run in groupby(named, key=lambda pair: pair[0]):
        if names is not None:
            yield names, b"".join(line for _, line in run)


def _names_of(sample: Sample) -> Names | None:
    """None where a label is not known here."""
    labels: Mapping[str, str] = sample.labels
    if not labels.keys() <= _KNOWN:
        return None
    tasks = tuple(labels[name] for name in OF_A_TASK if name in labels)
    keys = tuple(labels[name] for name in OF_A_KEY if name in labels)
    return Names(tasks, keys) if tasks or keys else _NONE


def _narrowed(family: Metric, sees: _Sight) -> Metric:
    """A family with lists of tasks, with those that are seen in each."""
    narrowed = Metric(family.name, family.documentation, family.type)
    for sample in family.samples:
        names = _names_of(sample)
        if names is None or not sees.all_of(names):
            continue
        labels = {
            name: ",".join(filter(sees.task, value.split(","))) if name in LISTS else value
            for name, value in sample.labels.items()
        }
        narrowed.samples.append(sample._replace(labels=labels))
    return narrowed


def _written(family: Metric) -> bytes:
    return generate_latest(_One(family))


class _One(Collector):
    """One family alone."""

    def __init__(self, family: Metric) -> None:
        self._family = family

    def collect(self) -> Iterator[Metric]:
        yield self._family
