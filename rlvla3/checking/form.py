"""Checks of what a simulator says: shapes, types, numbers, frames, and how episodes end."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from rlvla3.checking.evidence import Evidence, NotApplicable, Played
from rlvla3.checking.finding import Finding, warning
from rlvla3.types import INSTRUCTION_BYTES, Observation, Spaces

SLOWEST_S = 1.0
"""For describe(); well under it is the aim."""

FLAT = 3.0
"""Standard deviation of a frame's values, below which hardly anything can be seen; 30 to 60 is usual."""


def describe(evidence: Evidence) -> Iterator[Finding]:
    if trouble := evidence.troubles.get("describe"):
        yield Finding(f"{trouble}: it has to return a Spaces, or raise a RecipeError that says which setting is wrong")
        return
    described, built = evidence.described, evidence.built
    if described is None:
        raise NotApplicable("it could not be described")
    if described.seconds > SLOWEST_S:
        yield Finding(f"describe() took {described.seconds:.1f} s, and has to take well under {SLOWEST_S:g} s: build, render and load nothing in it")
    if described.imported:
        yield Finding(f"describe() imported {', '.join(described.imported)}: import them where the simulator is built, for a recipe is checked in an instant")
    if built is not None and built.spaces != described.spaces:
        yield Finding(f"describe() says {described.spaces}, and the built simulator {built.spaces}: set `spaces` to what describe() returns")
    if built is not None and built.slots != evidence.config.slots:
        yield Finding(f"the built simulator has slots={built.slots}, and the recipe simulator.slots={evidence.config.slots}: make them the same")


def calls(evidence: Evidence) -> Iterator[Finding]:
    for doing in ("build", "build another"):
        if trouble := evidence.troubles.get(doing):
            yield Finding(str(trouble))
    if evidence.built is None and not evidence.troubles.get("build"):
        raise NotApplicable("it could not be described")
    for name, played in evidence.plays.items():
        if played.trouble is not None and not name.startswith(("bounds", "beyond", "expert")):
            yield Finding(f"{played.trouble}{_hang_help(played)}")


def _hang_help(played: Played) -> str:
    return "\n(a simulator that needs longer gets --timeout SECONDS)" if played.trouble is not None and played.trouble.kind == "hung" else ""


def observations(evidence: Evidence) -> Iterator[Finding]:
    spaces = evidence.spaces
    yield from _each_once((fault, place) for place, _, observation in _seen(evidence) for fault in _observation_faults(observation, spaces))
    for name, played in _plays(evidence).items():
        elapsed = [(number, observation.elapsed) for number, observation in played.observations()]
        for (_, before), (number, after) in itertools.pairwise(elapsed):
            if not after > before:
                yield Finding(f"elapsed is {after} after {number} decisions of {name!r} and was {before} before: it has to rise from 0 to 1 over an episode")
                return
        if elapsed and elapsed[0] != (0, 0.0):
            yield Finding(f"elapsed is {elapsed[0][1]} at a reset: it has to be 0 there, the share of spaces.max_steps gone")
            return


def _observation_faults(observation: Any, spaces: Spaces) -> Iterator[str]:
    if set(observation.images) != set(spaces.cameras):
        yield f"images are of cameras {sorted(observation.images)}, and described are {sorted(spaces.cameras)}: give exactly these"
    for camera in observation.images.keys() & spaces.cameras.keys():
        yield from _array_faults(f"the image of {camera}", observation.images[camera], spaces.cameras[camera], np.dtype(np.uint8))
    yield from _array_faults("state", observation.state, (spaces.state,), np.dtype(np.float32))
    if not isinstance(observation.elapsed, (float, np.floating, int)) or not 0 <= observation.elapsed <= 1:
        yield f"elapsed is {observation.elapsed!r}: it is the share of spaces.max_steps gone, from 0 to 1"
    if not isinstance(observation.instruction, str):
        yield f"instruction is a {type(observation.instruction).__name__}: make it a str"
    elif len(observation.instruction.encode()) > INSTRUCTION_BYTES:
        yield f"instruction has {len(observation.instruction.encode())} bytes, at most {INSTRUCTION_BYTES} are kept: shorten {observation.instruction!r:.80}"


def instructions(evidence: Evidence) -> Iterator[Finding]:
    known = evidence.spaces.instructions
    if not known:
        raise NotApplicable("describe() names no instructions")
    told = {observation.instruction for _, _, observation in _seen(evidence)}
    for instruction in sorted(map(str, told - set(known))):
        yield warning(f"instruction {instruction!r:.80} is not among spaces.instructions: add it, for a policy makes room for the longest of these")


def outcomes(evidence: Evidence) -> Iterator[Finding]:
    size, chunk = evidence.spaces.action.size, evidence.chunk
    yield from _each_once(
        (fault, f"decision {number + 1} of {name!r}")
        for name, played in _plays(evidence).items()
        for number, outcome in enumerate(played.outcomes)
        for fault in _outcome_faults(outcome, played.chunks[number], (chunk, size))
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
        yield "terminated and truncated at once: a terminal state is not a time limit, so set truncated only where terminated is not"
    if outcome.observation is None and not outcome.terminated:
        yield "no observation, and the episode is not terminated: give what the next decision starts from, at a time limit the last thing seen"
    if outcome.observation is not None and not isinstance(outcome.observation, Observation):
        yield f"the observation is a {type(outcome.observation).__name__}: make it an rlvla3.types.Observation"
    if asked is None:
        yield from _array_faults("the expert's actions", outcome.actions, shape, np.dtype(np.float32))
    elif not isinstance(outcome.actions, np.ndarray) or not np.array_equal(outcome.actions, asked):
        yield "actions are not the chunk that was asked for: return that one, also where the environment clips it or the episode ends"


def numbers(evidence: Evidence) -> Iterator[Finding]:
    in_states = ((_not_finite("state", observation.state), place) for place, _, observation in _seen(evidence))
    in_rewards = (
        (_not_finite("rewards", outcome.rewards), f"decision {number + 1} of {name!r}")
        for name, played in _plays(evidence).items()
        for number, outcome in enumerate(played.outcomes)
    )
    yield from _each_once((fault, place) for found in (in_states, in_rewards) for fault, place in found if fault)


def _not_finite(name: str, values: Any) -> str:
    array = np.asarray(values)
    if array.dtype.kind != "f" or np.isfinite(array).all():
        return ""
    what = "NaN" if np.isnan(array).any() else "infinity"
    return f"{what} in {name}: a simulator must return finite numbers; end the episode where physics blow up"


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
        elif flat := [image for image in seen if image.std() < FLAT]:
            yield warning(
                f"{len(flat)} of {len(seen)} frames of {camera} are nearly flat (standard deviation {flat[0].std():.1f}): look at them, with --frames FOLDER"
            )
        else:
            yield from _frozen(evidence, camera)


def _frozen(evidence: Evidence, camera: str) -> Iterator[Finding]:
    """Frames that stay the same in every play, though something moves."""
    moved, looked_again = False, False
    for played in _plays(evidence).values():
        seen = [observation for _, observation in played.observations() if isinstance(observation.images.get(camera), np.ndarray)]
        looked_again |= len(seen) > 1
        if any(not np.array_equal(seen[0].images[camera], later.images[camera]) for later in seen[1:]):
            return
        moved |= any(not np.array_equal(seen[0].state, later.state) for later in seen[1:])
    if not looked_again:
        return
    if moved or evidence.spaces.state == 0:
        what = "though the state does" if moved else "whatever is done"
        yield Finding(f"frames of {camera} never change within an episode, {what}: render after each chunk, and return a new array or the updated one")
    else:
        yield warning(f"neither frames of {camera} nor the state ever change within an episode, at random actions and at the bounds: does anything move?")


def _frames(evidence: Evidence, camera: str) -> Iterator[Any]:
    return (
        image
        for _, _, observation in _seen(evidence)
        if isinstance(image := observation.images.get(camera), np.ndarray) and image.size and image.dtype == np.uint8
    )


def _plays(evidence: Evidence) -> dict[str, Played]:
    if not evidence.plays:
        raise NotApplicable("it could not be built")
    return evidence.plays


def _seen(evidence: Evidence) -> Iterator[tuple[str, Played, Observation]]:
    """Every observation, with the words for where it was seen and the play it is from."""
    for name, played in _plays(evidence).items():
        for number, observation in played.observations():
            yield (f"decision {number} of {name!r}" if number else f"the reset of {name!r}"), played, observation


def _array_faults(name: str, value: Any, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Iterator[str]:
    if not isinstance(value, np.ndarray) or value.shape != tuple(shape) or value.dtype != dtype:
        yield f"{name} is {_array_words(value)}, expected {dtype} {list(shape)}: make it what describe() says"


def _array_words(value: Any) -> str:
    return f"{value.dtype} {list(value.shape)}" if isinstance(value, np.ndarray) else f"a {type(value).__name__}"


def _each_once(found: Iterable[tuple[str, str]]) -> Iterator[Finding]:
    """Each fault once, with the first place where it was found."""
    places: dict[str, list[str]] = {}
    for fault, place in found:
        places.setdefault(fault, []).append(place)
    for fault, where in places.items():
        yield Finding(f"{fault} (first at {where[0]}; {len(where)} times in all)")
