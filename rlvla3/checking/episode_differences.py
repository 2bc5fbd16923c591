"""Where two episodes that should be the same first differ, in which value, and by how much."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from rlvla3.checking.evidence import EpisodeRecord
from rlvla3.types import Observation


def first_difference(expected: EpisodeRecord, seen: EpisodeRecord) -> str | None:
    """The first difference in words. None if both episodes are the same, byte for byte, up to the end of the shorter one."""
    for (place, before), (_, after) in zip(_values(expected), _values(seen), strict=False):
        for name in before.keys() | after.keys():
            if name not in before or name not in after:
                return f"{place}, only the {'second' if name in after else 'first'} episode has {name}"
        for name, value in before.items():
            if not _same(value, after[name]):
                return f"{place}, {name} {_difference_words(value, after[name])}"
    return None


def _values(episode: EpisodeRecord) -> Iterator[tuple[str, dict[str, Any]]]:
    """All values of an episode, in order: the place in words, and the values by their names."""
    yield "at the reset", _parts(episode.first)
    for number, outcome in enumerate(episode.outcomes, start=1):
        results = {"rewards": outcome.rewards, "success": outcome.success, "terminated": outcome.terminated, "truncated": outcome.truncated}
        yield f"after decision {number}", results | _parts(outcome.observation)


def _parts(observation: Observation | None) -> dict[str, Any]:
    if not isinstance(observation, Observation):
        return {}
    images = {f"the image of {camera}": image for camera, image in observation.images.items()}
    return {"state": observation.state, "instruction": observation.instruction, "elapsed": observation.elapsed} | images


def _same(one: Any, other: Any) -> bool:
    if not isinstance(one, np.ndarray) or not isinstance(other, np.ndarray):
        return bool(np.all(one == other))
    return (one.dtype, one.shape, one.tobytes()) == (other.dtype, other.shape, other.tobytes())


def _difference_words(one: Any, other: Any) -> str:
    """By how much two values differ, in words."""
    if not isinstance(one, np.ndarray) or not isinstance(other, np.ndarray):
        return f"is {other!r:.60} instead of {one!r:.60}"
    if (one.dtype, one.shape) != (other.dtype, other.shape):
        return f"is {other.dtype} {list(other.shape)} instead of {one.dtype} {list(one.shape)}"
    distance = np.abs(one.astype(np.float64) - other.astype(np.float64))
    differing = ~(distance == 0)
    if one.size <= 1:
        return f"is {other.ravel()[0]} instead of {one.ravel()[0]}"
    return f"differs in {differing.sum()} of {one.size} values, by at most {np.nanmax(distance):.3g}"
