"""What is wrong with an observation that comes from outside of a run, before a policy sees it."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from rlvla3.instructions import instruction_fault
from rlvla3.simulators.contract import array_words
from rlvla3.types import Observation, Spaces


def misfits(observation: object, spaces: Spaces) -> Iterator[str]:
    """All that keeps a policy with these spaces from seeing `observation`, in words, one sentence each."""
    if not isinstance(observation, Observation):
        yield f"it is a {type(observation).__name__}: give rlvla3.Observation(images={{...}}, state=..., instruction=...), or a list of them"
        return
    if set(observation.images) != set(spaces.cameras):
        yield f"images: given cameras {sorted(observation.images)}, the policy sees {sorted(spaces.cameras)}: give exactly these"
    for camera in spaces.cameras.keys() & observation.images.keys():
        image, shape = observation.images[camera], spaces.cameras[camera]
        if not isinstance(image, np.ndarray) or image.dtype != np.uint8 or image.shape != tuple(shape):
            yield f"images[{camera!r}]: given {array_words(image)}, the policy sees uint8 {list(shape)}, height, width and channels with values from 0 to 255"
    state = np.asarray(observation.state)
    if state.dtype.kind not in "fiu" or state.shape != (spaces.state,):
        yield f"state: given {array_words(state)}, the policy sees float32 [{spaces.state}]"
    elif not np.isfinite(state).all():
        yield f"state: {np.count_nonzero(~np.isfinite(state))} of {spaces.state} numbers are nan or infinite"
    if fault := instruction_fault(observation.instruction):
        yield fault
    if not 0 <= observation.elapsed <= 1:
        yield f"elapsed: given {observation.elapsed}, expected the share of the episode's steps that are gone, from 0 to 1"
