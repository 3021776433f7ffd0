"""What a task is charged for its work, in units of one encoded prompt token.

Rounded from measurements of T5-base on a CPU (server/DECISIONS.md, 2026-11-27); what
counts is that no kind of work is much cheaper for its task than for the server.
"""

from __future__ import annotations

from jumplora_server.core import Encoding, Sequence

OUTPUT_TOKEN = 3.0  # a row's part of a decode step, with short prompts
KEY = 0.005  # each position that attention reads again for every output token
ANCESTOR = 0.1  # share of the work that each version of a lineage adds


def prompt_cost(encoding: Encoding) -> float:
    """Of encoding a prompt."""
    return len(encoding.prompt) * _lineage(encoding)


def token_cost(sequence: Sequence) -> float:
    """Of its next token."""
    keys = len(sequence.encoding.prompt) + len(sequence.output)
    return (OUTPUT_TOKEN + KEY * keys) * _lineage(sequence.encoding)


def _lineage(encoding: Encoding) -> float:
    return 1.0 + ANCESTOR * len(encoding.slots)
