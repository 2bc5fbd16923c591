"""Checks of what a simulator returns: shapes, types, numbers and frames."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from rlvla3.checking.evidence import EpisodeRecord, Evidence, NotApplicable
from rlvla3.checking.finding import Finding, warning
from rlvla3.simulators import contract
from rlvla3.types import Observation

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
        yield warning(f"describe() took {described.seconds:.1f} s, but must take well under {DESCRIBE_LIMIT_S:g} s: build, render and load nothing in it")
    if described.imported:
        yield warning(
            f"describe() imported {', '.join(described.imported)}: import this where the simulator is built, because a recipe must be checked in an instant"
        )
    if built is not None:
        yield from map(Finding, contract.built_faults(built.spaces, described.spaces, built.slots, evidence.config.slots))


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
    yield from _each_once((fault, place) for place, _, observation in _observations(evidence) for fault in contract.observation_faults(observation, spaces))
    for name, episode in _episodes(evidence).items():
        before = None
        for number, observation in episode.observations():
            if fault := contract.elapsed_fault(observation.elapsed, before):
                yield Finding(f"{fault} ({f'decision {number}' if number else 'the reset'} of {name!r})")
                return
            before = observation.elapsed


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
        for fault in contract.outcome_faults(outcome, episode.chunks[number], (chunk, size))
    )


def numbers(evidence: Evidence) -> Iterator[Finding]:
    in_states = ((contract.number_fault("state", observation.state), place) for place, _, observation in _observations(evidence))
    in_rewards = (
        (contract.reward_fault(outcome.rewards), f"decision {number + 1} of {name!r}")
        for name, episode in _episodes(evidence).items()
        for number, outcome in enumerate(episode.outcomes)
    )
    yield from _each_once((fault, place) for found in (in_states, in_rewards) for fault, place in found if fault)


def frames(evidence: Evidence) -> Iterator[Finding]:
    if not evidence.spaces.cameras:
        raise NotApplicable("it has no cameras")
    shown = {camera: list(_frames(evidence, camera)) for camera in evidence.spaces.cameras}
    if not any(shown.values()):
        raise NotApplicable("no frame was seen")
    for camera, seen in shown.items():
        if single := [image for image in seen if contract.shows_one_colour(image)]:
            colour = contract.one_colour_words(single[0])
            yield _refused_frames(evidence, f"{len(single)} of {len(seen)} frames of {camera} are {colour}: {contract.ONE_COLOUR_HELP}")
            return
        if flat := [image for image in seen if image.std() < MIN_FRAME_STD]:
            yield warning(
                f"{len(flat)} of {len(seen)} frames of {camera} are nearly flat (standard deviation {flat[0].std():.1f}): look at them with --frames FOLDER"
            )
    yield from _frozen(evidence)


def _frozen(evidence: Evidence) -> Iterator[Finding]:
    """A finding if no camera's frames change in any episode although something moves; a warning for each other camera whose frames never change."""
    cameras = contract.FrozenCameras(evidence.spaces)
    for episode in _episodes(evidence).values():
        seen = [observation for _, observation in episode.observations() if not any(contract.observation_faults(observation, evidence.spaces))]
        first = cameras.begin(seen[0]) if seen else None
        for later in seen[1:]:
            cameras.see(first, later)
    if fault := cameras.fault(len(evidence.spaces.cameras)):
        yield _refused_frames(evidence, fault)
    elif cameras.unchanged and cameras.nothing_moved:
        yield warning(
            f"frames of {', '.join(sorted(cameras.unchanged))} and the state never change within an episode, for random actions and for actions at the "
            f"bounds: does anything move?"
        )
    elif cameras.unchanged and cameras.seen_twice:
        yield warning(f"frames of {', '.join(sorted(cameras.unchanged))} never change within an episode, but those of other cameras do: is that intended?")


def _refused_frames(evidence: Evidence, fault: str) -> Finding:
    """What a run refuses unless simulator.check_frames=false."""
    return Finding(fault, "failed" if evidence.config.check_frames else "warning")


def _frames(evidence: Evidence, camera: str) -> Iterator[Any]:
    return (
        image
        for _, _, observation in _observations(evidence)
        if isinstance(image := observation.images.get(camera), np.ndarray) and image.ndim == 3 and image.size and image.dtype == np.uint8
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


def _each_once(found: Iterable[tuple[str, str]]) -> Iterator[Finding]:
    """One finding for each fault, with the first place where it was found and the number of places."""
    places: dict[str, list[str]] = {}
    for fault, place in found:
        places.setdefault(fault, []).append(place)
    for fault, where in places.items():
        yield Finding(f"{fault} (first at {where[0]}; {len(where)} times in all)")
