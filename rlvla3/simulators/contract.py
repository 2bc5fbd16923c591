"""What a simulator must return, as functions that say what is wrong with one returned value.

Invariants:
- `rlvla3 check` and every run call the same functions. So check refuses nothing that a run accepts, and accepts nothing that a run refuses;
- a function says what was returned, what was expected and what to do; it yields or returns nothing if all is well.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rlvla3.instructions import instruction_fault
from rlvla3.types import Observation, Outcome, Spaces

LARGEST_REWARD = 1e15
"""Returns are sums of rewards, and losses are sums of their squares. With larger rewards these leave float32."""

FLOAT32, UINT8 = np.dtype(np.float32), np.dtype(np.uint8)
FLAGS = (bool, np.bool_)


def built_faults(built: Spaces, described: Spaces, built_slots: int, slots: int) -> Iterator[str]:
    """What is wrong with a simulator as it was built. slots: those of the recipe."""
    if built != described:
        yield f"describe() says {described}, but the built simulator says {built}: set `spaces` to what describe() returns"
    if built_slots != slots:
        yield f"the built simulator has slots={built_slots}, but the recipe has simulator.slots={slots}: make them the same"


def reset_kind_fault(observation: Any) -> str:
    """What is wrong with the kind of thing that reset returned."""
    return "" if isinstance(observation, Observation) else f"reset returned a {type(observation).__name__}: return an rlvla3.types.Observation"


def step_kind_fault(outcomes: Any, stepped: Mapping[int, Any]) -> str:
    """What is wrong with the kind of thing that step returned."""
    if not isinstance(outcomes, Mapping) or set(outcomes) != set(stepped):
        return f"slots {sorted(stepped)} were stepped, but it returned {outcomes!r:.200}: return {{slot: Outcome}} for exactly these slots"
    for slot, outcome in outcomes.items():
        if not isinstance(outcome, Outcome):
            return f"step returned a {type(outcome).__name__} for slot {slot}: return an rlvla3.types.Outcome"
    return ""


def observation_faults(observation: Any, spaces: Spaces) -> Iterator[str]:
    """What is wrong with the shapes and types of one observation."""
    images = observation.images
    if images.keys() != spaces.cameras.keys():
        yield f"images are of cameras {sorted(images)}, but described are {sorted(spaces.cameras)}: return exactly these"
    for camera, shape in spaces.cameras.items():
        if camera in images:
            yield from _array_faults(f"the image of {camera}", images[camera], shape, UINT8)
    yield from _array_faults("state", observation.state, (spaces.state,), FLOAT32)
    if not isinstance(observation.elapsed, (float, np.floating, int)) or not 0 <= observation.elapsed <= 1:
        yield f"elapsed is {observation.elapsed!r}: it must be the share of spaces.max_steps that has passed, from 0 to 1"
    if fault := instruction_fault(observation.instruction):
        yield fault


def elapsed_fault(elapsed: float, before: float | None) -> str:
    """What is wrong with the time that has passed. before: at the decision before, None at a reset."""
    if before is None:
        return "" if elapsed == 0 else f"elapsed is {elapsed} at a reset: it must be 0 there, because it is the share of spaces.max_steps that has passed"
    return "" if elapsed > before else f"elapsed is {elapsed} after a decision and was {before} before: it must rise from 0 to 1 over an episode"


def outcome_faults(outcome: Any, asked: NDArray[np.float32] | None, shape: tuple[int, int]) -> Iterator[str]:
    """What is wrong with the outcome of one chunk. asked: the chunk, None where the expert acted. shape: of a chunk, [C, A]."""
    rewards, done = outcome.rewards, bool(outcome.terminated or outcome.truncated)
    if not isinstance(rewards, np.ndarray) or rewards.dtype != FLOAT32 or rewards.ndim != 1:
        yield f"rewards are {array_words(rewards)}, expected float32 [executed]: np.asarray(rewards, np.float32)"
    elif not (len(rewards) == shape[0] or (done and 0 < len(rewards) < shape[0])):
        limit = "1 to " if done else ""
        yield f"{len(rewards)} rewards for a chunk of {shape[0]} actions, expected {limit}{shape[0]}: one for each environment step that was executed"
    for flag in ("success", "terminated", "truncated"):
        if not isinstance(getattr(outcome, flag), FLAGS):
            yield f"{flag} is {getattr(outcome, flag)!r:.40}, a {type(getattr(outcome, flag)).__name__}: make it a bool"
    if outcome.terminated and outcome.truncated:
        yield "terminated and truncated at once: a terminal state is not a time limit, so set truncated only if terminated is not set"
    if outcome.observation is None:
        if not outcome.terminated:
            yield "no observation, but the episode is not terminated: return the observation for the next decision, or at a time limit the last observation"
    elif not isinstance(outcome.observation, Observation):
        yield f"the observation is a {type(outcome.observation).__name__}: make it an rlvla3.types.Observation"
    if asked is None:
        yield from _array_faults("the expert's actions", outcome.actions, shape, FLOAT32)
    elif outcome.actions is not asked and not (isinstance(outcome.actions, np.ndarray) and np.array_equal(outcome.actions, asked)):
        yield "actions are not the chunk that was given: return that chunk, even if the environment clips it or the episode ends"


def expert_fault(actions: NDArray[np.float32], spaces: Spaces) -> str:
    """What is wrong with the numbers of an expert's actions."""
    low, high = spaces.action.bounds
    if not np.isfinite(actions).all():
        return "some of the expert's actions are not finite: return finite actions, because a policy is trained to repeat them"
    if actions.size and (actions.min() < low or actions.max() > high):
        return f"the expert's actions go from {actions.min():.3g} to {actions.max():.3g}, but the space from {low:g} to {high:g}: clip what it returns"
    return ""


def success_fault(success: bool, before: bool) -> str:
    """What is wrong with an episode's success after a chunk. before: after the chunk before."""
    if before and not success:
        return "success was true and is false later in the same episode: keep it true from the first success on, because a chunk reports only its end"
    return ""


def limit_fault(steps: int, done: bool, spaces: Spaces) -> str:
    """What is wrong with the length of an episode after a chunk."""
    longest = spaces.max_steps
    if steps >= longest and not done:
        return f"no end after {steps} steps, expected an end by spaces.max_steps={longest}: set truncated there"
    if steps > longest:
        return f"an episode of {steps} steps, expected at most spaces.max_steps={longest}: execute no more of the chunk and set truncated"
    return ""


def number_fault(name: str, values: Any) -> str:
    """Whether some of `values` are not finite. Values of another type than float have nothing to be checked."""
    array = np.asarray(values)
    if array.dtype.kind != "f" or np.isfinite(array).all():
        return ""
    what = "NaN" if np.isnan(array).any() else "infinity"
    return f"{what} in {name}: a simulator must return finite numbers; end the episode if its physics become unstable"


def reward_fault(rewards: Any) -> str:
    """What is wrong with the numbers of one reward or several."""
    array = np.asarray(rewards)
    if array.dtype.kind != "f" or not array.size:
        return ""
    if fault := number_fault("rewards", array):
        return fault
    largest = float(np.abs(array).max())
    if largest > LARGEST_REWARD:
        return (
            f"a reward of size {largest:g}, expected at most {LARGEST_REWARD:g}: divide rewards by a constant, because returns and their squares "
            f"are computed in float32"
        )
    return ""


def shows_one_colour(image: NDArray[np.uint8]) -> bool:
    """Whether all pixels of an image [H, W, channels] are the same. A single pixel tells nothing."""
    height, width = image.shape[:2]
    if height * width <= 1:
        return False
    first = image[0, 0]
    # Almost every frame differs at one of these few places, and then the other pixels are not looked at.
    if (image[:: height // 4 or 1, :: width // 4 or 1] != first).any():
        return False
    return bool((image == first).all())


def one_colour_words(image: NDArray[np.uint8]) -> str:
    """The colour of a frame that shows one colour."""
    colour = image[0, 0].tolist()
    return "black" if not any(colour) else f"of a single colour, {colour}"


FRAMES_WAY_OUT = "if it is right to show that, set simulator.check_frames=false"
ONE_COLOUR_HELP = f"does the renderer work in a process of its own, and is anything in view? {FRAMES_WAY_OUT[0].upper()}{FRAMES_WAY_OUT[1:]}"


class FrozenCameras:
    """Finds out whether frames change within episodes. Once a camera's frames have changed, its frames are not looked at again.

    Feed it the observations of each episode in order. `begin` and `see` need valid observations.

    unchanged: the cameras whose frames have never changed. seen_twice: whether an episode had two observations.
    """

    def __init__(self, spaces: Spaces) -> None:
        self.unchanged = set(spaces.cameras)
        self._has_state = spaces.state > 0
        self.seen_twice = self._state_changed = False

    def begin(self, observation: Observation) -> Observation | None:
        """What to compare the later observations of an episode with: a copy of what matters. None if nothing is left to find out."""
        if not self.unchanged:
            return None
        return Observation({camera: observation.images[camera].copy() for camera in self.unchanged}, observation.state.copy())

    def see(self, first: Observation | None, later: Observation) -> None:
        """first: what `begin` returned for this episode."""
        if first is None or not self.unchanged:
            return
        self.seen_twice = True
        self._state_changed |= not np.array_equal(first.state, later.state)
        self.unchanged -= {camera for camera in self.unchanged if not np.array_equal(first.images[camera], later.images[camera])}

    def fault(self, cameras: int) -> str:
        """What is wrong if no camera has ever changed although something moved. cameras: how many there are."""
        if not self.seen_twice or not cameras or len(self.unchanged) < cameras or (self._has_state and not self._state_changed):
            return ""
        what = "although the state changes" if self._state_changed else "for any actions"
        return (
            f"frames of {', '.join(sorted(self.unchanged))} never change within an episode, {what}: render after each chunk, and return a new array "
            f"or the updated one; {FRAMES_WAY_OUT}"
        )

    @property
    def nothing_moved(self) -> bool:
        """Whether neither a frame nor the state has ever changed within an episode."""
        return self.seen_twice and not self._state_changed


def array_words(value: Any) -> str:
    """The type and shape of what should be an array."""
    return f"{value.dtype} {list(value.shape)}" if isinstance(value, np.ndarray) else f"a {type(value).__name__}"


def _array_faults(name: str, value: Any, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Iterator[str]:
    if not isinstance(value, np.ndarray) or value.shape != tuple(shape) or value.dtype != dtype:
        yield f"{name} is {array_words(value)}, expected {dtype} {list(shape)}: return what describe() says"
