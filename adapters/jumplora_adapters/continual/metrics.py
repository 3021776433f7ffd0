"""What a sequence of tasks did to each score: accuracy, backward and forward transfer, forgetting.

a_ij is the score on task j after task i (both from 1), a_0j that of the bare backbone, T the number
of tasks. Pure arithmetic: it knows neither files nor how a score was made. A measure of which one
cell is missing is None, never the mean of the cells that are there.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

Scores = Mapping[str, float | None]
"""Task -> score between 0 and 1; None, or no entry, where there is none."""


@dataclass(frozen=True, slots=True)
class ScoreMatrix:
    """The scores of one run under one way of scoring.

    `after[i]` is the state after the (i + 1)-th of `tasks`. It may hold any of the tasks: those
    learned so far and the next one (zero-shot) in a chain, only its own where each task has an
    adapter of its own. A joint training has one stage, with all tasks.
    """

    tasks: tuple[str, ...]
    bare: Scores
    after: tuple[Scores, ...]

    def cell(self, stage: int, task: int) -> float | None:
        """a_ij with i = `stage` and j = `task`, both from 1; stage 0 is the bare backbone."""
        if stage > len(self.after):
            return None
        row = self.bare if stage == 0 else self.after[stage - 1]
        return row.get(self.tasks[task - 1])

    @property
    def count(self) -> int:
        """T."""
        return len(self.tasks)


def overall_accuracy(matrix: ScoreMatrix) -> float | None:
    """OA = mean_j a_Tj: the last state, for all tasks."""
    return _mean(matrix.cell(matrix.count, j) for j in _all(matrix))


def joint_accuracy(matrix: ScoreMatrix) -> float | None:
    """Mean over the tasks of the only stage of a joint training."""
    return _mean(matrix.cell(1, j) for j in _all(matrix)) if len(matrix.after) == 1 else None


def own_scores(matrix: ScoreMatrix) -> dict[str, float | None]:
    """Task -> a_jj: the score right after the task was learned, the matrix's diagonal."""
    return {task: matrix.cell(j, j) for j, task in enumerate(matrix.tasks, start=1)}


def own_accuracy(matrix: ScoreMatrix) -> float | None:
    """mean_j a_jj: every task answered by the state that it was trained as."""
    return _mean(own_scores(matrix).values())


def backward_transfer(matrix: ScoreMatrix) -> float | None:
    """BWT = mean_{j<T} (a_Tj - a_jj) (Lopez-Paz and Ranzato, 2017); below 0 is loss."""
    return _mean(_less(matrix.cell(matrix.count, j), matrix.cell(j, j)) for j in _earlier(matrix))


def forgetting(matrix: ScoreMatrix) -> float | None:
    """mean_{j<T} (max_{j<=i<T} a_ij - a_Tj) (Chaudhry et al., 2018): from the best it ever was."""
    return _mean(
        _less(_best_before_last(matrix, j), matrix.cell(matrix.count, j)) for j in _earlier(matrix)
    )


def zero_shot_transfer(matrix: ScoreMatrix) -> float | None:
    """FWT = mean_{j>1} (a_{j-1,j} - a_0j) (Lopez-Paz and Ranzato, 2017), of a chain."""
    return _mean(
        _less(matrix.cell(j - 1, j), matrix.cell(0, j)) for j in range(2, matrix.count + 1)
    )


def final_over_scratch(matrix: ScoreMatrix, scratch: Scores) -> float | None:
    """FWT as JumpLoRA's official code has it: mean_j (a_Tj - scratch_j), the last state.

    `scratch` is the score of each task trained alone, on the bare backbone. What was forgotten
    enters this form as much as what was transferred.
    """
    return _mean(
        _less(matrix.cell(matrix.count, j), scratch.get(matrix.tasks[j - 1])) for j in _all(matrix)
    )


def own_over_scratch(matrix: ScoreMatrix, scratch: Scores) -> float | None:
    """The plasticity form of FWT: mean_j (a_jj - scratch_j), each task right after its training."""
    return _mean(_less(matrix.cell(j, j), scratch.get(matrix.tasks[j - 1])) for j in _all(matrix))


def _all(matrix: ScoreMatrix) -> range:
    return range(1, matrix.count + 1)


def _earlier(matrix: ScoreMatrix) -> range:
    return range(1, matrix.count)


def _best_before_last(matrix: ScoreMatrix, task: int) -> float | None:
    seen = [matrix.cell(i, task) for i in range(task, matrix.count)]
    known = [score for score in seen if score is not None]
    return max(known) if len(known) == len(seen) else None


def _less(first: float | None, second: float | None) -> float | None:
    return None if first is None or second is None else first - second


def _mean(values: Iterable[float | None]) -> float | None:
    """None if any value is missing, or there is none."""
    listed = list(values)
    known = [value for value in listed if value is not None]
    return sum(known) / len(known) if known and len(known) == len(listed) else None
