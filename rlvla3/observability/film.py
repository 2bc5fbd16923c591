"""A film: what the cameras of one episode saw, and what the policy decided. A run keeps it as three files of one name:

    videos/train-000012-reach-v3-768-success.mp4    the cameras beside each other, one frame for each decision
    videos/train-000012-reach-v3-768-success.json   what the episode was: task, instruction, success, and value, reward and version of each decision
    videos/train-000012-reach-v3-768-success.npz    the arrays of its decisions at full precision, for `rlvla3 view`

Nothing here needs an encoder. `FilmRecord` is the form of the JSON file.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from rlvla3.errors import RecipeError
from rlvla3.metadata import Metadata, checked, read_json
from rlvla3.observability.file_names import file_name
from rlvla3.types import BESIDE, Finished

LARGEST = 32 * 2**20
"""Bytes of the frames of one film. Larger frames lose pixels, so that copying them never holds a run up for long."""

Place = tuple[int, int, int, int]
"""Where something stands in a picture: left, top, width, height, in pixels."""

ARRAYS = ("state", "elapsed", "actions", "rewards", "executed", "dimensions", "value", "version")
"""What a film keeps of each decision beside its frames."""


@dataclass(frozen=True, slots=True, weakref_slot=True, eq=False)
class Film:
    """The film of an episode of D decisions.

    when: train, or the evaluation that the episode belongs to: before, during, after or eval. update: the update that learns from it, None in an evaluation.
    frames: {camera: uint8 [D, H, W, 3]}. arrays: ARRAYS of its decisions, [D, ...]. instructions: D texts. action_bounds: as ActionSpace.bounds.
    """

    when: str
    finished: Finished
    frames: Mapping[str, NDArray[np.uint8]]
    arrays: Mapping[str, NDArray[Any]]
    instructions: Sequence[str]
    update: int | None = None
    action_bounds: tuple[float, float] = (-1.0, 1.0)

    @property
    def size(self) -> int:
        """Bytes of its frames."""
        return sum(frames.nbytes for frames in self.frames.values())

    @property
    def name(self) -> str:
        """What its files are called, without an ending."""
        return f"{self.name_without_outcome}-{'success' if self.finished.success else 'failure'}"

    @property
    def name_without_outcome(self) -> str:
        """The same for every rerun of a ticket."""
        ticket = self.finished.ticket
        number = f"{self.update:06d}-" if self.update is not None else f"{self.finished.newest:06d}-" if self.when == "during" else ""
        return f"{self.when}-{number}{file_name(ticket.task)}-{ticket.index % BESIDE}"


class PerDecision(Metadata):
    """One entry for each decision. reward: the sum over the steps of its chunk. instruction: the number of its text in `instructions`."""

    value: list[float | None]
    reward: list[float | None]
    version: list[int]
    executed: list[int]
    instruction: list[int]


class FilmRecord(Metadata):
    """The JSON file beside a video.

    version, oldest_version: the newest and the oldest version that decided, -1 for the policy of a checkpoint. cameras: where each stands in the video, as
    [left, top, width, height] in pixels. fps: decisions a second of the video. steps: environment steps. episode_return: the undiscounted sum of rewards.
    action_bounds: the smallest and the largest number of an action that is executed.
    """

    video: str
    when: str
    update: int | None
    version: int
    oldest_version: int
    task: str
    ticket: int
    seed: int
    initial_state: int | None
    instructions: list[str]
    success: bool
    episode_return: float | None
    decisions: int
    steps: int
    fps: float
    cameras: dict[str, Annotated[list[int], Field(min_length=4, max_length=4)]]
    action_bounds: Annotated[list[float], Field(min_length=2, max_length=2)]
    per_decision: PerDecision


def film_record(film: Film, video: str, fps: float, cameras: Mapping[str, Place]) -> FilmRecord:
    """What the JSON file beside a video says. Numbers that are not finite become null."""
    finished, ticket, arrays = film.finished, film.finished.ticket, film.arrays
    texts = list(dict.fromkeys(film.instructions))
    per_decision = PerDecision(
        value=[_number(value) for value in arrays["value"]],
        reward=[_number(reward) for reward in arrays["rewards"].sum(axis=1)],
        version=arrays["version"].tolist(),
        executed=arrays["executed"].tolist(),
        instruction=[texts.index(text) for text in film.instructions],
    )
    return FilmRecord(
        video=video,
        when=film.when,
        update=film.update,
        version=finished.newest,
        oldest_version=finished.oldest,
        task=ticket.task,
        ticket=ticket.index % BESIDE,
        seed=ticket.seed,
        initial_state=ticket.initial_state,
        instructions=texts,
        success=finished.success,
        episode_return=_number(finished.return_),
        decisions=finished.decisions,
        steps=finished.steps,
        fps=fps,
        cameras={camera: list(place) for camera, place in cameras.items()},
        action_bounds=list(film.action_bounds),
        per_decision=per_decision,
    )


def read_film_record(path: Path) -> FilmRecord | None:
    """The record of one video. None where the file is damaged, or of another version of this package."""
    try:
        return checked(FilmRecord, read_json(path, ""), "", "")
    except (RecipeError, OSError):
        return None


def _number(value: float) -> float | None:
    """`value` with six digits: more say nothing, and the file stays small."""
    return float(f"{value:.6g}") if isfinite(value) else None
