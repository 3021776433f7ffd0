"""Which site of the backbone a module name of a foreign checkpoint means.

Names are compared from their end, component by component, because wrappers put their own
components in front (`base_model.model.`, `module.`) and some leave one behind (`.base_layer`).
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from jumplora_adapters.errors import ConvertError
from jumplora_adapters.printable import shown

# What wrappers append to the name of the linear layer they replaced.
WRAPPER_SUFFIXES = ("base_layer", "base", "linear", "default", "weight")
_LAYER = re.compile(r"\bblock\.\d+\.", re.ASCII)
MAX_NAME_CHARS = 1000
MAX_SHOWN = 120


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What a foreign model's name of a module has that the backbone's has not, and vice versa."""

    front: str  # "t5." where the backbone was an attribute of another module
    back: str  # ".linear" where the layer was wrapped
    cut: str  # "decoder." where only that part of the backbone was trained

    def around(self, module: str) -> str | None:
        """The foreign model's name of a module of the backbone; None if it had no such module."""
        if not module.startswith(self.cut):
            return None
        return f"{self.front}{module.removeprefix(self.cut)}{self.back}"


def match_module(name: str, targets: Iterable[str]) -> str:
    """The one target that `name` means.

    A target fits when one of the two names ends with the whole other one, at a dot. The longest
    common end wins; a tie is refused, for instance the end of a name that every block has.
    Raises ConvertError if none or several fit.
    """
    if len(name) > MAX_NAME_CHARS:
        raise ConvertError(f"module {_shown(name)}: a name has at most {MAX_NAME_CHARS} characters")
    components = _inner(name)
    best: list[str] = []
    longest = 0
    known = tuple(targets)
    for target in known:
        common = _common_end(components, target.split("."))
        if common > longest:
            best, longest = [target], common
        elif common == longest and common:
            best.append(target)
    if not best:
        # The same module of the first layer, which every backbone has.
        first = _LAYER.sub("block.0.", ".".join(components)).split(".")
        if first != components and any(_common_end(first, each.split(".")) for each in known):
            raise ConvertError(
                f"module {_shown(name)} is of a layer that the backbone does not have: the adapter"
                " belongs to another backbone, with more layers"
            )
        raise ConvertError(
            f"module {_shown(name)} is none of the backbone's linear layers, and no other module"
            " can carry a delta"
        )
    if len(best) > 1:
        raise ConvertError(
            f"module {_shown(name)} is ambiguous: {len(best)} targets end with it, such as"
            f" {best[0]!r} and {best[1]!r}"
        )
    return best[0]


def match_modules(names: Iterable[str], targets: Iterable[str]) -> dict[str, str]:
    """Name -> target for all of them; two names for one target are refused."""
    known = tuple(targets)
    matched: dict[str, str] = {}
    owner: dict[str, str] = {}
    for name in names:
        target = match_module(name, known)
        if target in owner:
            raise ConvertError(
                f"modules {_shown(owner[target])} and {_shown(name)} both mean {target!r}"
            )
        owner[target] = name
        matched[name] = target
    return matched


def surroundings(name: str, target: str) -> Surroundings:
    """How `name`, which means `target`, differs from it."""
    inner = ".".join(_inner(name))
    back = name.removeprefix(inner)
    if inner.endswith(target):
        return Surroundings(front=inner.removesuffix(target), back=back, cut="")
    return Surroundings(front="", back=back, cut=target.removesuffix(inner))


def _inner(name: str) -> list[str]:
    """The components of a name without what wrappers appended."""
    components = name.split(".")
    while len(components) > 1 and components[-1] in WRAPPER_SUFFIXES:
        components.pop()
    return components


def _common_end(left: list[str], right: list[str]) -> int:
    """Length of the shorter list if the longer one ends with it, else 0."""
    common = min(len(left), len(right))
    return common if left[-common:] == right[-common:] else 0


def _shown(name: str) -> str:
    return shown(repr(name), MAX_SHOWN)
