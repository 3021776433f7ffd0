"""The names of our cases. Results of several commits are laid side by side by them."""

from __future__ import annotations

from jumplora_bench.cases.torch_peers import BEAMS

# T5-large's published sparsities, 94.9 and 87.6 % (arXiv 2604.16171), and what lineages of four
# and of fifteen such deltas keep together.
DENSITIES = (0.051, 0.124)
LINEAGES = ((4, 0.124, 0.41), (15, 0.051, 0.54))  # slots, density of each, of their union
CHAIN = LINEAGES[1]
MANY_ROWS = (16, 32, 64)
"""Rows at once, beside the rows of the other cases."""
_LABELS = {"float32": "fp32", "bfloat16": "bf16", "int8": "int8"}


def label_of(dtype: str) -> str:
    """The short name of a dtype in case names."""
    return _LABELS[dtype]


def bare_name(dtype: str) -> str:
    """The case of rows without adapters."""
    return f"ours bare {label_of(dtype)}"


def mixed_name(rows: int, density: float, dtype: str) -> str:
    """The case of as many tasks as rows."""
    return f"ours {rows} tasks {density:.1%} {label_of(dtype)}"


def rows_name(rows: int, dtype: str) -> str:
    """The case of as many tasks as rows, more rows than the other cases have."""
    return f"ours {rows} rows {DENSITIES[0]:.1%} {label_of(dtype)}"


def beams_name(dtype: str) -> str:
    """The case of a beam search a prompt, on the bare backbone."""
    return f"ours {BEAMS} beams {label_of(dtype)}"


def all_linear_name(rows: int, dtype: str) -> str:
    """The case of as many LoRAs as rows, on every linear layer but the head."""
    return f"ours {rows} all-linear LoRAs {label_of(dtype)}"


def lineage_name(slots: int, dtype: str) -> str:
    """The case of rows whose lineages have that many versions and differ in the last one."""
    return f"ours {lineage_measure(slots)} {label_of(dtype)}"


def depths_name(depths: int, dtype: str) -> str:
    """The case of rows at different depths of one chain."""
    return f"ours {depths_measure(depths)} {label_of(dtype)}"


def chains_name(chains: int, dtype: str) -> str:
    """The case of rows at the ends of different chains."""
    return f"ours {chains_measure(chains)} {label_of(dtype)}"


def lineage_measure(slots: int) -> str:
    """What `lineage_name` measures, without the dtype."""
    return f"lineage of {slots}"


def depths_measure(depths: int) -> str:
    """What `depths_name` measures, without the dtype."""
    return f"{depths} depths of one chain of {CHAIN[0]}"


def chains_measure(chains: int) -> str:
    """What `chains_name` measures, without the dtype."""
    return f"{chains} chains of {CHAIN[0]}"


def unfolded(name: str) -> str:
    """The same case with a slot for every version, as servers without trunks have it."""
    return f"{name} unfolded"


def ct2_name(dtype: str) -> str:
    """CTranslate2 with one merged task."""
    return f"CTranslate2 merged {label_of(dtype)}"


def ct2_avx2_name(dtype: str, *, products: bool = False) -> str:
    """The same with `CT2_FORCE_CPU_ISA=AVX2`; `products`: with those of MKL restricted too."""
    return f"{ct2_name(dtype)} AVX2{', MKL too' if products else ''}"
