"""What an adapter may multiply: bounds on its manifest, checked before it is written or published.

A version that is in a store already is read by the wider bounds of `manifest`, which protect the
process; these keep what is new well inside of them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from jumplora_adapters.errors import FormatError
from jumplora_adapters.manifest import Manifest, PromptSpec
from jumplora_adapters.prompt import measure
from jumplora_adapters.sampling_bounds import find_out_of_bounds

MAX_TEXTS = 16
MAX_FRAME_BYTES = 65_536
FREE_RANK = 64  # allowed whatever the size of the matrices
MAX_SCORES = 256
MAX_NAME_CHARS = 128
MAX_SHOWN_FAULTS = 3


def check_publishable(manifest: Manifest, shapes: Mapping[str, tuple[int, int]]) -> None:
    """Raise FormatError (manifest) for a manifest that may be read and not published.

    `shapes` has at least the targets, each with (d_out, d_in).
    """
    faults = list(_faults(manifest, shapes))
    if faults:
        more = len(faults) - MAX_SHOWN_FAULTS
        told = "; ".join(faults[:MAX_SHOWN_FAULTS]) + (f"; and {more} more" if more > 0 else "")
        raise FormatError(f"the manifest is too large to be published: {told}", code="manifest")


def highest_rank(shapes: Iterable[tuple[int, int]]) -> int:
    """Of an adapter with targets of these shapes.

    Factors of that rank take twice the memory and time of the largest matrix already.
    """
    return max(FREE_RANK, *(max(shape) for shape in shapes))


def prompt_faults(spec: PromptSpec) -> Iterator[str]:
    """What of a prompt may not be published, each fault as a text."""
    size = measure(spec)
    if size.texts > MAX_TEXTS:
        yield (
            f"prompt.template: it has {{text}} {size.texts} times; at most {MAX_TEXTS} are allowed"
        )
    if size.frame_bytes > MAX_FRAME_BYTES:
        yield (
            f"prompt: the template makes {size.frame_bytes} bytes of an empty text, instruction "
            f"and options included; at most {MAX_FRAME_BYTES} are allowed"
        )


def _faults(manifest: Manifest, shapes: Mapping[str, tuple[int, int]]) -> Iterator[str]:
    if manifest.prompt is not None:
        yield from prompt_faults(manifest.prompt)
    for fault in find_out_of_bounds(manifest.generation):
        yield f"generation.{fault}"
    highest = highest_rank(shapes[name] for name in manifest.targets)
    if manifest.rank is not None and manifest.rank > highest:
        yield (
            f"rank: {manifest.rank} given; at most {highest} is allowed: {FREE_RANK}, or the "
            "larger side of the targets' largest matrix"
        )
    if len(manifest.scores) > MAX_SCORES:
        yield f"scores: {len(manifest.scores)} given; at most {MAX_SCORES} are allowed"
    names = {
        "method": (manifest.method,),
        "created": (manifest.created,),
        "scores": tuple(manifest.scores),
        "thresholds": tuple(manifest.thresholds or ()),
    }
    for field, texts in names.items():
        longest = max(map(len, texts), default=0)
        if longest > MAX_NAME_CHARS:
            yield (
                f"{field}: a text of {longest} characters given; at most {MAX_NAME_CHARS} are "
                "allowed"
            )
