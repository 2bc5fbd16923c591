"""Checks of what a simulator returns: shapes, types, numbers and frames."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from rlvla3.checking.evidence import EpisodeRecord, Evidence, NotApplicable
from rlvla3.checking.finding import Finding, warning
from rlvla3.instructions import instruction_fault
from rlvla3.types import Observation, Spaces

DESCRIBE_LIMIT_S = 1.0
"""describe() must be faster than this, and should be much faster."""

MIN_FRAME_STD = 3.0
"""If the standard deviation of a frame's values is below this, hardly anything can be seen. 30 to 60 is usual."""


def describe(evidence: Evidence) -> Iterator[Finding]:
    if failure := evidence.failures.get("describe"):
        yield Finding(f"{failure}: it must return a Spaces, or raise a RecipeError that says which setting is wrong")
        return
    described, built = evidence.described, evidence.built
    if described is None:
        raise NotApplicable("it could not be described")
    if described.seconds > DESCRIBE_LIMIT_S:
        yield Finding(f"describe() took {described.seconds:.1f} s, but must take well under {DESCRIBE_LIMIT_S:g} s: build, render and load nothing in it")
    if described.imported:
        yield Finding(
            f"describe() imported {', '.join(described.imported)}: import this where the simulator is built, because a recipe must be checked in an instant"
        )
    if built is not None and built.spaces != described.spaces:
        yield Finding(f"describe() says {described.spaces}, but the built simulator says {built.spaces}: set `spaces` to what describe() returns")
    if built is not None and built.slots != evidence.config.slots:
        yield Finding(f"the built simulator has slots={built.slots}, but the recipe has simulator.slots={evidence.config.slots}: make them the same")


def calls(evidence: Evidence) -> Iterator[Finding]:
    for step in ("build", "build another"):
        if failure := evidence.failures.get(step):
            yield Finding(str(failure))
    if evidence.built is None and not evidence.failures.get("build"):
        raise NotApplicable("it could not be described")
    for name, episode in evidence.episodes.items():
        if episode.failure is not None and not name.startswith(("bounds", "beyond", "expert")):
            yield Finding(f"{episode.failure}{_hang_help(episode)}")


def _hang_help(episode: EpisodeRecord) -> str:
    return "\n(if the simulator needs longer, give --timeout SECONDS)" if episode.failure is not None and episode.failure.kind == "hung" else ""


def observations(evidence: Evidence) -> Iterator[Finding]:
    spaces = evidence.spaces
    yield from _each_once((fault, place) for place, _, observation in _observations(evidence) for fault in _observation_faults(observation, spaces))
    for name, episode in _episodes(evidence).items():
        elapsed = [(number, observation.elapsed) for number, observation in episode.observations()]
        for (_, before), (number, after) in itertools.pairwise(elapsed):
            if not after > before:
                yield Finding(f"elapsed is {after} after {number} decisions of {name!r} and was {before} before: it must rise from 0 to 1 over an episode")
                return
        if elapsed and elapsed[0] != (0, 0.0):
            yield Finding(f"elapsed is {elapsed[0][1]} at a reset: it must be 0 there, because it is the share of spaces.max_steps that has passed")
            return


def _observation_faults(observation: Any, spaces: Spaces) -> Iterator[str]:
    if set(observation.images) != set(spaces.cameras):
        yield f"images are of cameras {sorted(observation.images)}, but described are {sorted(spaces.cameras)}: return exactly these"
    for camera in observation.images.keys() & spaces.cameras.keys():
        yield from _array_faults(f"the image of {camera}", observation.images[camera], spaces.cameras[camera], np.dtype(np.uint8))
    yield from _array_faults("state", observation.state, (spaces.state,), np.dtype(np.float32))
    if not isinstance(observation.elapsed, (float, np.floating, int)) or not 0 <= observation.elapsed <= 1:
        yield f"elapsed is {observation.elapsed!r}: it must be the share of spaces.max_steps that has passed, from 0 to 1"
    if fault := instruction_fault(observation.instruction):
        yield fault


def instructions(evidence: Evidence) -> Iterator[Finding]:
    forgotten = next(_forgotten_instructions(evidence), None)
    known = evidence.spaces.instructions
    if forgotten:
        yield warning(forgotten)
    elif not known:
        raise NotApplicable("describe() names no instructions")
    if known:
        others = sorted({seen.instruction for _, _, seen in _observations(evidence) if isinstance(seen.instruction, str) and seen.instruction not in known})
        if others:
            more = f" (and {len(others) - 1} more)" if len(others) > 1 else ""
            yield warning(
                f"instruction {others[0]!r:.80}{more} is not among spaces.instructions: add it, because a policy reserves room for the longest of these"
            )


def _forgotten_instructions(evidence: Evidence) -> Iterator[str]:
    """What is wrong with each episode whose first observation alone has an instruction."""
    for name, episode in _episodes(evidence).items():
        given = [observation.instruction for _, observation in episode.observations()]
        if len(given) > 1 and given[0] and not any(given[1:]):
            yield (
                f"only the reset of {name!r} gives an instruction, {given[0]!r:.80}: a decision reads that of its own observation, "
                f"so give every observation its instruction"
            )


def outcomes(evidence: Evidence) -> Iterator[Finding]:
    size, chunk = evidence.spaces.action.size, evidence.chunk
    yield from _each_once(
        (fault, f"decision {number + 1} of {name!r}")
        for name, episode in _episodes(evidence).items()
        for number, outcome in enumerate(episode.outcomes)
        for fault in _outcome_faults(outcome, episode.chunks[number], (chunk, size))
    )


def _outcome_faults(outcome: Any, asked: Any, shape: tuple[int, int]) -> Iterator[str]:
    rewards, done = outcome.rewards, bool(outcome.terminated or outcome.truncated)
    if not isinstance(rewards, np.ndarray) or rewards.dtype != np.float32 or rewards.ndim != 1:
        yield f"rewards are {_array_words(rewards)}, expected float32 [executed]: np.asarray(rewards, np.float32)"
    elif not (len(rewards) == shape[0] or (done and 0 < len(rewards) < shape[0])):
        limit = "1 to " if done else ""
        yield f"{len(rewards)} rewards for a chunk of {shape[0]} actions, expected {limit}{shape[0]}: one for each environment step that was executed"
    for flag in ("success", "terminated", "truncated"):
        if not isinstance(getattr(outcome, flag), (bool, np.bool_)):
            yield f"{flag} is {getattr(outcome, flag)!r:.40}, a {type(getattr(outcome, flag)).__name__}: make it a bool"
    if outcome.terminated and outcome.truncated:
        yield "terminated and truncated at once: a terminal state is not a time limit, so set truncated only if terminated is not set"
    if outcome.observation is None and not outcome.terminated:
        yield "no observation, but the episode is not terminated: return the observation for the next decision, or at a time limit the last observation"
    if outcome.observation is not None and not isinstance(outcome.observation, Observation):
        yield f"the observation is a {type(outcome.observation).__name__}: make it an rlvla3.types.Observation"
    if asked is None:
        yield from _array_faults("the expert's actions", outcome.actions, shape, np.dtype(np.float32))
    elif not isinstance(outcome.actions, np.ndarray) or not np.array_equal(outcome.actions, asked):
        yield "actions are not the chunk that was given: return that chunk, even if the environment clips it or the episode ends"


def numbers(evidence: Evidence) -> Iterator[Finding]:
    in_states = ((_not_finite("state", observation.state), place) for place, _, observation in _observations(evidence))
    in_rewards = (
        (_not_finite("rewards", outcome.rewards), f"decision {number + 1} of {name!r}")
        for name, episode in _episodes(evidence).items()
        for number, outcome in enumerate(episode.outcomes)
    )
    yield from _each_once((fault, place) for found in (in_states, in_rewards) for fault, place in found if fault)


def _not_finite(name: str, values: Any) -> str:
    array = np.asarray(values)
    if array.dtype.kind != "f" or np.isfinite(array).all():
        return ""
    what = "NaN" if np.isnan(array).any() else "infinity"
    return f"{what} in {name}: a simulator must return finite numbers; end the episode if its physics become unstable"


def frames(evidence: Evidence) -> Iterator[Finding]:
    if not evidence.spaces.cameras:
        raise NotApplicable("it has no cameras")
    shown = {camera: list(_frames(evidence, camera)) for camera in evidence.spaces.cameras}
    if not any(shown.values()):
        raise NotApplicable("no frame was seen")
    for camera, seen in shown.items():
        single = [image for image in seen if image.min() == image.max()]
        if single:
            colour = "black" if single[0].max() == 0 else f"of a single colour, value {single[0].max()}"
            yield Finding(
                f"{len(single)} of {len(seen)} frames of {camera} are {colour}: does the renderer work in a process of its own, and is anything in view?"
            )
        elif flat := [image for image in seen if image.std() < MIN_FRAME_STD]:
            yield warning(
                f"{len(flat)} of {len(seen)} frames of {camera} are nearly flat (standard deviation {flat[0].std():.1f}): look at them with --frames FOLDER"
            )
        else:
            yield from _frozen(evidence, camera)


def _frozen(evidence: Evidence, camera: str) -> Iterator[Finding]:
    """A finding if the camera's frames stay the same in every episode although something moves; a warning if nothing moves at all."""
    state_changes, has_later_frames = False, False
    for episode in _episodes(evidence).values():
        seen = [observation for _, observation in episode.observations() if isinstance(observation.images.get(camera), np.ndarray)]
        has_later_frames |= len(seen) > 1
        if any(not np.array_equal(seen[0].images[camera], later.images[camera]) for later in seen[1:]):
            return
        state_changes |= any(not np.array_equal(seen[0].state, later.state) for later in seen[1:])
    if not has_later_frames:
        return
    if state_changes or evidence.spaces.state == 0:
        what = "although the state changes" if state_changes else "for any actions"
        yield Finding(f"frames of {camera} never change within an episode, {what}: render after each chunk, and return a new array or the updated one")
    else:
        yield warning(f"frames of {camera} and the state never change within an episode, for random actions and for actions at the bounds: does anything move?")


def _frames(evidence: Evidence, camera: str) -> Iterator[Any]:
    return (
        image
        for _, _, observation in _observations(evidence)
        if isinstance(image := observation.images.get(camera), np.ndarray) and image.size and image.dtype == np.uint8
    )


def _episodes(evidence: Evidence) -> dict[str, EpisodeRecord]:
    if not evidence.episodes:
        raise NotApplicable("it could not be built")
    return evidence.episodes


def _observations(evidence: Evidence) -> Iterator[tuple[str, EpisodeRecord, Observation]]:
    """Every observation, with its place in words and the record of its episode."""
    for name, episode in _episodes(evidence).items():
        for number, observation in episode.observations():
            yield (f"decision {number} of {name!r}" if number else f"the reset of {name!r}"), episode, observation


def _array_faults(name: str, value: Any, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Iterator[str]:
    if not isinstance(value, np.ndarray) or value.shape != tuple(shape) or value.dtype != dtype:
        yield f"{name} is {_array_words(value)}, expected {dtype} {list(shape)}: return what describe() says"


def _array_words(value: Any) -> str:
    return f"{value.dtype} {list(value.shape)}" if isinstance(value, np.ndarray) else f"a {type(value).__name__}"


def _each_once(found: Iterable[tuple[str, str]]) -> Iterator[Finding]:
    """One finding for each fault, with the first place where it was found and the number of places."""
    places: dict[str, list[str]] = {}
    for fault, place in found:
        places.setdefault(fault, []).append(place)
    for fault, where in places.items():
        yield Finding(f"{fault} (first at {where[0]}; {len(where)} times in all)")
