"""How large the prompts of a template get, by counting: nothing is put together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

OPTIONS_BETWEEN = " | "


@dataclass(frozen=True, slots=True)
class PromptSize:
    """UTF-8 bytes of every prompt that one template makes: a frame, and the text some times."""

    frame_bytes: int  # with an empty text
    texts: int  # how many times {text} stands in the template

    @classmethod
    def measure(cls, template: str, instruction: str, options: Sequence[str]) -> PromptSize:
        """Of a template; each of its fields may stand in it any number of times."""
        joined = sum(map(_size, options)) + _size(OPTIONS_BETWEEN) * max(0, len(options) - 1)
        frame = _size(template)
        # Fields cannot overlap, so counting each by itself finds what one pass over all replaces.
        for field, size in (("{instruction}", _size(instruction)), ("{options}", joined)):
            frame += template.count(field) * (size - len(field))
        texts = template.count("{text}")
        return cls(frame - texts * len("{text}"), texts)

    def with_text(self, text: str) -> int:
        """UTF-8 bytes of the prompt for `text`."""
        return self.frame_bytes + self.texts * _size(text)


def _size(text: str) -> int:
    return len(text.encode("utf-8", errors="surrogatepass"))
