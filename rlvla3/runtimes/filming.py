"""Films of the episodes of a run. Their frames are in the data plane already: a film is a copy of them, and a watcher writes it.

Invariants:
- filming never waits: an episode is copied within milliseconds, when it is handed in (LARGEST bytes at most), and nobody waits for its video;
- memory is bounded: while films of MOST_WAITING bytes are not written, nothing is filmed. Episodes that are left out so are counted and told of;
- which tickets are filmed depends on their index alone. So a resumed run films the same ones.
"""

from __future__ import annotations

import math
import weakref
from collections import Counter
from collections.abc import Callable

import numpy as np

from rlvla3.config import Recipe
from rlvla3.links.rollouts import Rollouts
from rlvla3.observability.events import EpisodeFilmed, Event
from rlvla3.observability.film import ARRAYS, LARGEST, Film
from rlvla3.observability.formatting import number_of
from rlvla3.types import Finished, Spaces

MOST_WAITING = 256 * 2**20
"""Bytes of films that wait to be written."""


def filmed_cameras(spaces: Spaces) -> list[str]:
    """The cameras whose frames a video can show: those of three channels."""
    return [camera for camera, shape in spaces.cameras.items() if shape[2] == 3]


def is_filmed(ticket: int, batch: int, videos: int) -> bool:
    """Whether a ticket of training is filmed: `videos` tickets of each update. Their places in the batch move on from update to update, so tasks take turns."""
    update, place = divmod(ticket, batch)
    return (place - update * videos) % batch < videos


def film_of(rollouts: Rollouts, finished: Finished, when: str, update: int | None = None) -> Film:
    """The film of an episode that is in `rollouts`. Frames that are too large lose every second pixel, or more."""
    index, spaces = finished.ticket.index, rollouts.spec.spaces
    seen = {camera: rollouts.episode(index, f"image.{camera}") for camera in filmed_cameras(spaces)}
    pixels = max(math.ceil(math.sqrt(sum(frames.nbytes for frames in seen.values()) / LARGEST)), 1)
    rows = np.arange(finished.decisions)
    return Film(
        when=when,
        finished=finished,
        frames={camera: frames[:, ::pixels, ::pixels].copy() for camera, frames in seen.items()},
        arrays={name: rollouts.episode(index, name).copy() for name in ARRAYS},
        instructions=rollouts.instructions(np.full(len(rows), index), rows),
        update=update,
        action_bounds=spaces.action.bounds,
    )


class Filming:
    """Films episodes of a run: `training.videos` of each update, and `evaluation.videos` of each task in an evaluation.

    spaces: of the run. emit: called with each film as an event. notify: called with a sentence for the user.
    """

    def __init__(self, recipe: Recipe, spaces: Spaces, emit: Callable[[Event], None], notify: Callable[[str], None]) -> None:
        self._emit, self._notify = emit, notify
        self._batch, seen = recipe.training.batch, bool(filmed_cameras(spaces))
        self._of_update, self._of_task = (seen * recipe.training.videos, seen * recipe.evaluation.videos)
        self._waiting: weakref.WeakSet[Film] = weakref.WeakSet()
        """Films that a watcher still has."""
        self._evaluated: Counter[tuple[str, str]] = Counter()
        self._left_out = 0

    def wants(self, finished: Finished) -> bool:
        """Whether an episode of training is to be filmed."""
        return not finished.set_aside and is_filmed(finished.ticket.index, self._batch, self._of_update)

    def take(self, rollouts: Rollouts, finished: Finished) -> None:
        """An episode of training, or of an evaluation beside it, is in `rollouts`: film it, if it is wanted and if there is room."""
        if finished.ticket.beside:
            self.take_evaluated(rollouts, finished, "during")
        elif self.wants(finished) and self._has_room():
            self._tell(film_of(rollouts, finished, "train", finished.ticket.index // self._batch + 1))

    def take_evaluated(self, rollouts: Rollouts, finished: Finished, when: str) -> None:
        """An episode of the evaluation `when` is in `rollouts`: film it, if it is one of the first of its task and if there is room."""
        of_task = (f"{when} {finished.newest}", finished.ticket.task)
        if not finished.set_aside and self._evaluated[of_task] < self._of_task:
            self._evaluated[of_task] += 1
            if self._has_room():
                self._tell(film_of(rollouts, finished, when))

    def leave_out(self, why: str) -> None:
        """An episode that is wanted cannot be filmed."""
        if not self._left_out:
            self._notify(f"some videos are left out, because {why}. The run goes on")
        self._left_out += 1

    def end(self) -> None:
        """No more episodes come: say how many were left out."""
        if self._left_out:
            self._notify(f"{number_of(self._left_out, 'video')} {'was' if self._left_out == 1 else 'were'} left out in all")
            self._left_out = 0

    def _has_room(self) -> bool:
        """Whether films that wait leave room for another one. Where they do not, this counts as one that is left out."""
        if sum(film.size for film in self._waiting) < MOST_WAITING:
            return True
        self.leave_out("they are not written as fast as they are filmed")
        return False

    def _tell(self, film: Film) -> None:
        self._waiting.add(film)
        self._emit(EpisodeFilmed(film))
