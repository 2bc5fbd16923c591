"""An episode as a viewer is given it: parts that are placed on one time line of environment steps."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rlvla3.errors import ExplainedError

Frame = NDArray[np.uint8]


class ViewError(ExplainedError, RuntimeError):
    """An episode cannot be shown. The message says what is missing or wrong and what to do."""


@dataclass(frozen=True, slots=True)
class Series:
    """Vectors over time. steps: int [N], the environment step of each. values: float [N, n]."""

    steps: NDArray[np.int64]
    values: NDArray[np.float32]

    @classmethod
    def of(cls, steps: Sequence[int] | NDArray[np.int64], values: NDArray[np.float32]) -> Series:
        """values: [N] or [N, n]."""
        array = np.asarray(values, np.float32)
        return cls(np.asarray(steps, np.int64), array[:, None] if array.ndim == 1 else array)


@dataclass(frozen=True, slots=True)
class ShownEpisode:
    """title: of the episode.

    cameras: {camera: its frames [H, W, 3], read one after another}, one for each of `frame_steps`. series: by name, such as state, action/executed,
    action/planned, value, reward, version; one that is missing is not shown. texts: (step, instruction). outcome: a sentence, for its last step.
    """

    title: str
    frame_steps: Sequence[int]
    cameras: Mapping[str, Iterable[Frame]]
    series: Mapping[str, Series]
    texts: Sequence[tuple[int, str]] = ()
    outcome: tuple[int, str] | None = None


NEEDED = ("state", "actions", "rewards", "executed", "value", "version")
"""The arrays of decisions that `decision_series` is made of."""


def decision_series(starts: NDArray[np.int64], arrays: Mapping[str, NDArray[Any]], bounds: Sequence[float]) -> dict[str, Series]:
    """The series of D decisions. starts: int [D], the step of each. arrays: NEEDED, [D, ...]. bounds: of actions that are executed."""
    planned, executed = planned_and_executed(starts, arrays["actions"], arrays["executed"], bounds)
    was_executed = np.arange(arrays["rewards"].shape[1]) < arrays["executed"][:, None]
    series = {
        "action/planned": planned,
        "action/executed": executed,
        "reward": Series.of(executed.steps, arrays["rewards"][was_executed]),
        "value": Series.of(starts, arrays["value"]),
        "version": Series.of(starts, arrays["version"]),
    }
    return series | ({"state": Series.of(starts, arrays["state"])} if arrays["state"].shape[1] else {})


def planned_and_executed(
    starts: NDArray[np.int64], actions: NDArray[np.float32], executed: NDArray[np.int64], bounds: Sequence[float]
) -> tuple[Series, Series]:
    """The actions that a policy planned, and those that were executed.

    starts: int [D], the step of each decision. actions: [D, C, A], the chunk of each. executed: int [D], how many of its actions were executed, which are those
    within `bounds`. Planned actions of a chunk that the episode did not come to are there too.
    """
    chunk, (low, high) = actions.shape[1], bounds
    planned_steps = (starts[:, None] + np.arange(chunk)).ravel()
    was_executed = (np.arange(chunk) < executed[:, None]).ravel()
    flat = actions.reshape(-1, actions.shape[2])
    return Series.of(planned_steps, flat), Series.of(planned_steps[was_executed], flat[was_executed].clip(low, high))
