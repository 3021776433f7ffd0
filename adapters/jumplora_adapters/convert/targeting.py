"""Which modules a PEFT configuration promises, matched as PEFT's check_target_module_exists does.

Names are those of the model that was trained, so a wrapper's own components are part of them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from jumplora_adapters.backbone import Backbone
from jumplora_adapters.convert.expressions import Expression, match_all
from jumplora_adapters.network import ALL_LINEAR, LINEAR, embeddings

# The first number below a module of any name; int() refuses thousands of digits.
_FIRST_LAYER = re.compile(r".*?\.[^.]*\.(?P<idx>\d{1,9})\.")


@dataclass(frozen=True, slots=True)
class Targeting:
    """The fields that choose modules: a text is an expression, a tuple holds names or their ends.

    `layers` empty means all of them; `layers_patterns` empty means a list of any name.
    """

    targets: str | tuple[str, ...]
    excluded: str | tuple[str, ...] = ()
    layers: frozenset[int] = frozenset()
    layers_patterns: tuple[str, ...] = ()

    def promised(self, names: Sequence[str]) -> frozenset[str]:
        """The names that get factors. Raises ConvertError for an expression that cannot be used."""
        excluded = _chosen("exclude_modules", self.excluded, names) if self.excluded else set()
        if isinstance(self.targets, str):
            if self.targets.lower() == ALL_LINEAR:
                return frozenset(name for name in names if _is_linear(name)) - excluded
            return frozenset(_chosen("target_modules", self.targets, names)) - excluded
        found = _chosen("target_modules", self.targets, names) - excluded
        if not self.layers:
            return frozenset(found)
        # A module that the list names in full is taken, whatever its layer.
        layer_of = self._layers_of([name for name in names if name in found])
        whole = found.intersection(self.targets)
        return frozenset(whole | {n for n, layer in layer_of.items() if layer in self.layers})

    def _layers_of(self, names: Sequence[str]) -> dict[str, int]:
        """The number of each name's layer, without those that have none."""
        if not self.layers_patterns:
            found = {name: _FIRST_LAYER.match(name) for name in names}
            return {name: int(match["idx"]) for name, match in found.items() if match}
        expressions = [
            Expression("layers_pattern", pattern, rf"(?:^|.*?\.){pattern}\.(?P<idx>\d{{1,9}})\.")
            for pattern in self.layers_patterns
        ]
        layers: dict[str, int] = {}
        for matched in match_all(expressions, names):  # the first pattern that matches counts
            for name, layer in matched.items():
                if layer is not None:
                    layers.setdefault(name, int(layer))
        return layers


def modules_of(backbone: Backbone) -> tuple[str, ...]:
    """The modules that PEFT can give factors to: those with a weight, but for the norms."""
    return tuple(sorted({*backbone.sites, *embeddings(backbone.architecture)}))


def _is_linear(name: str) -> bool:
    return name.rpartition(".")[2] in LINEAR


def _chosen(field: str, chosen: str | tuple[str, ...], names: Sequence[str]) -> set[str]:
    """The names that an expression matches as a whole, or that are, or end with, one of a list."""
    if isinstance(chosen, str):
        return set(match_all([Expression(field, chosen, chosen, whole=True)], names)[0])
    wanted = frozenset(chosen)
    return {name for name in names if not wanted.isdisjoint(_ends(name))}


def _ends(name: str) -> Iterator[str]:
    """The name itself and what follows each of its dots."""
    yield name
    for dot in re.finditer(r"\.", name):
        yield name[dot.end() :]
