"""How `jumplora train` paces itself over a file where no option says it: by its number of rows.

The method's own numbers, one epoch in batches of 32 at 0.001, were made for thousands of rows:
sixty would be two steps, and a gate needs five. Continual runs do not use this: they keep the
method's.
"""

from __future__ import annotations

from dataclasses import replace

from jumplora_adapters.printable import counted
from jumplora_adapters.training.batches import steps_of
from jumplora_adapters.training.config import Optimisation

LEAST_STEPS = 60
MANY_ROWS = LEAST_STEPS * Optimisation().batch_size
"""Rows of which one epoch of the method's own batches has enough steps."""
FEW_BATCH_SIZE = 16
FEW_RATE = 0.002


def paced(
    optimisation: Optimisation,
    rows: int,
    *,
    epochs: int | None,
    batch_size: int | None,
    learning_rate: float | None,
) -> Optimisation:
    """`optimisation` for a file of so many rows; what is None is chosen.

    From MANY_ROWS on that is what `optimisation` has, the method's own. Below, batches of
    FEW_BATCH_SIZE at FEW_RATE, and as many epochs as make LEAST_STEPS.
    """
    is_small = rows < MANY_ROWS
    if batch_size is None:
        batch_size = FEW_BATCH_SIZE if is_small else optimisation.batch_size
    if learning_rate is None:
        learning_rate = FEW_RATE if is_small else optimisation.learning_rate
    if epochs is None:
        # A size or a file that allows no step is an error when the settings and rows are checked.
        steps = max(1, steps_of(rows, max(1, batch_size * optimisation.accumulate)))
        epochs = -(-LEAST_STEPS // steps) if is_small else optimisation.epochs
    return replace(optimisation, epochs=epochs, batch_size=batch_size, learning_rate=learning_rate)


def told(optimisation: Optimisation, rows: int) -> str:
    """In one line."""
    a_step = optimisation.batch_size * optimisation.accumulate
    steps = steps_of(rows, a_step)
    if optimisation.max_steps is None:
        length = f"{counted(optimisation.epochs, 'epoch')} of {counted(steps, 'step')}"
    else:
        length = counted(optimisation.max_steps, "step")
    return (
        f"{counted(rows, 'row')}: {length}, {a_step} rows a step, learning rate "
        f"{optimisation.learning_rate:g}"
    )
