"""Kinds of modules, for people: where in the network a target is, whatever its block."""

from __future__ import annotations


def site_of(module: str) -> str:
    """ "encoder SelfAttention q" of "encoder.block.3.layer.0.SelfAttention.q"."""
    parts = module.split(".")
    return f"{parts[0]} {parts[-2]} {parts[-1]}"
