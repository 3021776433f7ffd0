"""What a feed-forward does to each number between its products, with a row's bits its own.

On a CPU torch cuts a large elementwise operation into one piece a thread, and the tail of each
piece goes through another exponential; blocks under that size are never cut, and rows of whole
vectors leave no tail.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from jumplora_adapters.architecture import Activation

UNCUT_ELEMENTS = 16384  # largest elementwise operation that torch leaves to one thread
WHOLE_COLUMNS = 64  # numbers of a row that leave no tail of a vector, in any type


def _gelu_tanh(x: Tensor) -> Tensor:
    return F.gelu(x, approximate="tanh")


_FUNCTIONS: Mapping[Activation, Callable[[Tensor], Tensor]] = {
    "relu": F.relu,
    "gelu_tanh": _gelu_tanh,
    "gelu": F.gelu,
    "silu": F.silu,
}


def activate(activation: Activation, x: Tensor) -> Tensor:
    """The function of x [n, d_ff], with the same bits for a row in any batch."""
    function = _FUNCTIONS[activation]
    if activation == "relu" or x.device.type != "cpu":  # ReLU rounds nothing
        return function(x)
    if missing := -x.shape[1] % WHOLE_COLUMNS:
        return activate(activation, F.pad(x, (0, missing)))[:, :-missing]
    rows = max(1, UNCUT_ELEMENTS // x.shape[1])
    starts = range(0, x.shape[0], rows)
    return torch.cat([function(x[i : i + rows]) for i in starts])
