"""Where two episodes that should be the same first differ, in what, and by how much."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from rlvla3.checking.evidence import Played
from rlvla3.types import Observation


def first_difference(expected: Played, seen: Played) -> str | None:
    """In words; None where both are the same, byte for byte, as far as both go."""
    for (place, before), (_, after) in zip(_moments(expected), _moments(seen), strict=False):
        for name in before.keys() | after.keys():
            if name not in before or name not in after:
                return f"{place}, {name} is there only {'after' if name in after else 'before'}"
        for name, value in before.items():
            if not _same(value, after[name]):
                return f"{place}, {name} {_size(value, after[name])}"
    return None


def _moments(played: Played) -> Iterator[tuple[str, dict[str, Any]]]:
    """All that was seen, in order: the place in words, and values by their names."""
    yield "at the reset", _parts(played.first)
    for number, outcome in enumerate(played.outcomes, start=1):
        came = {"rewards": outcome.rewards, "success": outcome.success, "terminated": outcome.terminated, "truncated": outcome.truncated}
        yield f"after decision {number}", came | _parts(outcome.observation)


def _parts(observation: Observation | None) -> dict[str, Any]:
    if not isinstance(observation, Observation):
        return {}
    images = {f"the image of {camera}": image for camera, image in observation.images.items()}
    return {"state": observation.state, "instruction": observation.instruction, "elapsed": observation.elapsed} | images


def _same(one: Any, other: Any) -> bool:
    if not isinstance(one, np.ndarray) or not isinstance(other, np.ndarray):
        return bool(np.all(one == other))
    return (one.dtype, one.shape, one.tobytes()) == (other.dtype, other.shape, other.tobytes())


def _size(one: Any, other: Any) -> str:
    """How far two values are apart."""
    if not isinstance(one, np.ndarray) or not isinstance(other, np.ndarray):
        return f"is {other!r:.60} instead of {one!r:.60}"
    if (one.dtype, one.shape) != (other.dtype, other.shape):
        return f"is {other.dtype} {list(other.shape)} instead of {one.dtype} {list(one.shape)}"
    apart = np.abs(one.astype(np.float64) - other.astype(np.float64))
    differing = ~(apart == 0)
    if one.size <= 1:
        return f"is {other.ravel()[0]} instead of {one.ravel()[0]}"
    return f"differs in {differing.sum()} of {one.size} values, by at most {np.nanmax(apart):.3g}"
