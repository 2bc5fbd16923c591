"""What a simulator of ours costs over the environment under it: the same initial states, actions and frames, asked for without us.

Each simulator is measured in a process of its own. Short episodes through the simulator and through the bare environment take turns, so that whatever else
the machine does falls on both. Measured is the processor's time, which does not grow while others have the processor, except of an environment that sleeps.
The bare environment is the very one that the simulator holds, with all that was switched off in it still off, and is drawn as fast: what is compared is what
comes on top, not what is saved.
"""

from __future__ import annotations

import math
import multiprocessing
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from rlvla3.benchmarks.figures import keep
from rlvla3.config import SimulatorConfig
from rlvla3.errors import RecipeError
from rlvla3.simulators.base import Simulator, SimulatorError
from rlvla3.simulators.registry import make_simulator
from rlvla3.types import ActionSpace, Ticket

CHUNK = 5
DECISIONS = 10
"""Of an episode, after its reset: 50 environment steps."""

CONFIDENCE = 0.95
FEWEST_EPISODES = 6
"""With fewer, not even the least and the greatest bound the median with CONFIDENCE."""


class Bare(NamedTuple):
    """The environment under a simulator. reset: to a seed. step: with an action [A]. draw: all that a decision sees."""

    reset: Callable[[int], object]
    step: Callable[[NDArray[np.float32]], object]
    draw: Callable[[], object]


@dataclass(frozen=True)
class Case:
    """A simulator's settings, and how its environment is had from it. sleeps: it costs time, but no processor."""

    name: str
    options: Mapping[str, Any]
    bare: Callable[[Any], Bare]
    task: str = ""
    sleeps: bool = False

    @property
    def config(self) -> SimulatorConfig:
        return SimulatorConfig(name=self.name, tasks=[self.task] if self.task else [], max_steps=CHUNK * DECISIONS, options=dict(self.options))


class Cost(NamedTuple):
    """Seconds of one episode: its reset with the first observation, and its decisions with theirs."""

    reset: float
    decisions: float

    @property
    def whole(self) -> float:
        return self.reset + self.decisions


def bare_metaworld(simulator: Any) -> Bare:
    scene = simulator._scene
    environment = scene._environment

    def reset(seed: int) -> None:
        environment.seed(seed)
        environment.reset()

    return Bare(reset, environment.step, _drawn(simulator))


def bare_robosuite(simulator: Any) -> Bare:
    environment = simulator._scene._environment

    def reset(seed: int) -> None:
        np.random.seed(seed)
        environment.reset()

    return Bare(reset, environment.step, _drawn(simulator))


def bare_libero(simulator: Any) -> Bare:
    """With what published evaluations do after a reset: the benchmark's initial state, and some steps of standing still."""
    from rlvla3.simulators.libero.scene import STAND_STILL

    scene = simulator._scene
    environment = scene._environment

    def reset(seed: int) -> None:
        np.random.seed(seed)
        scene._place_fixtures()
        environment.sim.set_state_from_flattened(scene._states[seed])
        environment.sim.forward()
        for _ in range(simulator._options.warmup_steps):
            environment.step(STAND_STILL)

    return Bare(reset, environment.step, _drawn(simulator))


def bare_maniskill(simulator: Any) -> Bare:
    import torch

    environment = simulator._batches[0]._environment
    shown = "rgb" if simulator.spaces.cameras else "state_dict"

    def draw() -> object:
        environment._obs_mode = shown
        seen = environment.get_obs()
        environment._obs_mode = "none"
        return seen

    return Bare(lambda seed: environment.reset(seed=seed), lambda action: environment.step(torch.from_numpy(action[None])), draw)


def bare_gymnasium(simulator: Any) -> Bare:
    """Its frames come with its steps."""
    environment = simulator.environment
    return Bare(lambda seed: environment.reset(seed=seed), lambda action: environment.step(int(action[0])), lambda: None)


def _drawn(simulator: Any) -> Callable[[], object]:
    scene = simulator._scene
    return lambda: [scene._renderer.draw(scene._data, camera) for camera in simulator.spaces.cameras]


ENDLESS = {"end_on_success": False}
CASES: Mapping[str, Case] = {
    "metaworld": Case("metaworld", ENDLESS, bare_metaworld, "button-press-topdown-v3"),
    "libero": Case("libero", ENDLESS, bare_libero, "libero_goal/8"),
    "robosuite": Case("robosuite", ENDLESS, bare_robosuite, "Lift"),
    "maniskill_state": Case("maniskill", ENDLESS, bare_maniskill, "PickCube-v1"),
    "maniskill_rgb": Case("maniskill", ENDLESS | {"observation": "rgb"}, bare_maniskill, "PickCube-v1"),
    "gymnasium": Case("slow_image", {}, bare_gymnasium, sleeps=True),
}


def main(names: Sequence[str], figures: Path, episodes: int) -> None:
    """Measure the simulators called `names` (none: all that can be built here) and write the figures to a JSON file. episodes: on either side, of each."""
    for name in names:
        if name not in CASES:
            raise RecipeError(f"{name} is not a simulator of this benchmark: choose among {', '.join(CASES)}")
    if episodes < FEWEST_EPISODES:
        raise RecipeError(f"--episodes={episodes} are too few to tell a ratio from noise: measure {FEWEST_EPISODES} or more")
    result: dict[str, Any] = {}
    for name in names or CASES:
        try:
            with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as process:
                result[name] = process.submit(measure, name, episodes).result()
        except (RecipeError, SimulatorError) as error:
            if names:
                raise
            result[name] = {"not_measured": str(error)}
        print(f"{name:16s} {_in_words(result[name])}", flush=True)
    keep(result, figures)


def measure(name: str, episodes: int) -> dict[str, Any]:
    """The costs of either side, medians over episodes, and their ratio."""
    case = CASES[name]
    simulator = make_simulator(case.config, CHUNK)
    bare = case.bare(simulator)
    clock = time.perf_counter if case.sleeps else time.process_time
    ours: list[Cost] = []
    theirs: list[Cost] = []
    for seed in range(episodes + 1):
        chunks = _chunks(simulator.spaces.action, seed)
        sides = [lambda: ours.append(through(simulator, case.task, seed, chunks, clock)), lambda: theirs.append(without(bare, seed, chunks, clock))]  # noqa: B023
        for side in sides if seed % 2 else reversed(sides):
            side()
    simulator.close()
    return compare(ours[1:], theirs[1:])  # the first episode warms up


def through(simulator: Simulator, task: str, seed: int, chunks: Sequence[NDArray[np.float32]], clock: Callable[[], float]) -> Cost:
    """One episode through the simulator."""
    start = clock()
    simulator.reset(0, Ticket(index=seed, task=task, seed=seed, group=seed))
    begun = clock()
    for chunk in chunks:
        simulator.step({0: chunk})
    return Cost(begun - start, clock() - begun)


def without(bare: Bare, seed: int, chunks: Sequence[NDArray[np.float32]], clock: Callable[[], float]) -> Cost:
    """The same episode without it."""
    start = clock()
    bare.reset(seed)
    bare.draw()
    begun = clock()
    for chunk in chunks:
        for action in chunk:
            bare.step(action)
        bare.draw()
    return Cost(begun - start, clock() - begun)


def compare(ours: Sequence[Cost], theirs: Sequence[Cost]) -> dict[str, Any]:
    """Milliseconds, and the ratio of ours to theirs, episode by episode: its median, between bounds that hold with CONFIDENCE whatever its distribution."""
    ratios = sorted(one.whole / other.whole for one, other in zip(ours, theirs, strict=True))
    rank = _rank(len(ratios))
    return {
        "reset_ms": {"simulator": 1000 * median(cost.reset for cost in ours), "bare": 1000 * median(cost.reset for cost in theirs)},
        "decision_ms": {side: 1000 * median(cost.decisions for cost in costs) / DECISIONS for side, costs in (("simulator", ours), ("bare", theirs))},
        "ratio": {"median": median(ratios), "least": ratios[rank], "greatest": ratios[-1 - rank]},
        "episodes": len(ratios),
    }


def _rank(count: int) -> int:
    """How many of `count` sorted values may be left out at either end, so that the median lies within the rest with CONFIDENCE: a sign test (Conover, 1999)."""
    rank, outside = 0, 2 * 0.5**count
    while outside + 2 * math.comb(count, rank + 1) * 0.5**count <= 1 - CONFIDENCE:
        rank += 1
        outside += 2 * math.comb(count, rank) * 0.5**count
    return rank


def _chunks(space: ActionSpace, seed: int) -> list[NDArray[np.float32]]:
    random = np.random.default_rng(seed)
    shape = (DECISIONS, CHUNK, space.size)
    actions = random.integers(space.choices, size=shape) if space.kind == "discrete" else random.uniform(space.low, space.high, shape)
    return list(actions.astype(np.float32))


def _in_words(measured: Mapping[str, Any]) -> str:
    if "not_measured" in measured:
        return f"not measured: {measured['not_measured']}"
    reset, decision, ratio = measured["reset_ms"], measured["decision_ms"], measured["ratio"]
    return (
        f"reset {reset['simulator']:7.1f} ms, bare {reset['bare']:7.1f}; decision {decision['simulator']:6.1f} ms, bare {decision['bare']:6.1f}; "
        f"ratio {ratio['median']:.3f}, from {ratio['least']:.3f} to {ratio['greatest']:.3f}"
    )
