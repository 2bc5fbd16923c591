"""How much time a simulator of this package adds to the bare environment inside it, for the same initial states, actions and frames.

Each simulator is measured in a process of its own. Short episodes through the simulator and through the bare environment alternate, so that other load on the
machine affects both. CPU time is measured, because it does not grow while other processes have the CPU; only for an environment that sleeps, wall time is.
The bare environment is the object inside the simulator. What the simulator has switched off in it stays off, and frames are drawn in the same way. So the
comparison shows what the simulator adds, not what it saves.
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

from rlvla3.config import SimulatorConfig
from rlvla3.errors import RecipeError
from rlvla3.observability.figures import write_figures
from rlvla3.runtimes.processes.main_module import main_module_hidden
from rlvla3.simulators.base import Simulator, SimulatorError
from rlvla3.simulators.registry import make_simulator
from rlvla3.types import ActionSpace, Ticket

CHUNK = 5
DECISIONS = 10
"""Decisions of an episode after its reset. With CHUNK actions each, these are 50 environment steps."""

CONFIDENCE = 0.95
MIN_EPISODES = 6
"""With fewer episodes, not even the smallest and the largest ratio enclose the median with CONFIDENCE."""


class Bare(NamedTuple):
    """The calls to the bare environment. reset: to the initial state of a seed. step: with an action [A]. draw: draws all that a decision needs."""

    reset: Callable[[int], object]
    step: Callable[[NDArray[np.float32]], object]
    draw: Callable[[], object]


@dataclass(frozen=True)
class Case:
    """A simulator to measure. bare: gets the bare environment from the simulator. sleeps: whether the environment sleeps; then wall time is measured."""

    name: str
    options: Mapping[str, Any]
    bare: Callable[[Any], Bare]
    task: str = ""
    sleeps: bool = False

    @property
    def config(self) -> SimulatorConfig:
        return SimulatorConfig(name=self.name, tasks=[self.task] if self.task else [], max_steps=CHUNK * DECISIONS, options=dict(self.options))


class EpisodeCost(NamedTuple):
    """The seconds of one episode: its reset with the first observation, and its decisions with their observations."""

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
    """Its reset does what published evaluations do: go to the benchmark's initial state, then stand still for some steps."""
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
    """Its frames are part of its steps, so there is nothing to draw."""
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
    """Measure the simulators `names` and write the figures to a JSON file. names: empty for all that can be built on this machine.

    episodes: the number of episodes through each simulator, and through its bare environment. Raises RecipeError if a name or the number is wrong.
    """
    check_names(names)
    if episodes < MIN_EPISODES:
        raise RecipeError(f"--episodes={episodes} are too few to distinguish a ratio from noise: give {MIN_EPISODES} or more")
    result: dict[str, Any] = {}
    for name in names or CASES:
        try:
            with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as process:
                with main_module_hidden():
                    measured = process.submit(measure, name, episodes)
                result[name] = measured.result()
        except (RecipeError, SimulatorError) as error:
            if names:
                raise
            result[name] = {"not_measured": str(error)}
        print(f"{name:16s} {_in_words(result[name])}", flush=True)
    write_figures(result, figures)


def check_names(names: Sequence[str]) -> None:
    """Raise RecipeError where a name is none of CASES."""
    for name in names:
        if name not in CASES:
            raise RecipeError(f"{name} is not a simulator of this benchmark: choose among {', '.join(CASES)}")


def measure(name: str, episodes: int) -> dict[str, Any]:
    """The median costs of episodes through the simulator and through the bare environment, and their ratio."""
    case = CASES[name]
    simulator = make_simulator(case.config, CHUNK)
    bare = case.bare(simulator)
    clock = time.perf_counter if case.sleeps else time.process_time
    ours: list[EpisodeCost] = []
    theirs: list[EpisodeCost] = []
    for seed in range(episodes + 1):
        chunks = _chunks(simulator.spaces.action, seed)
        sides = [lambda: ours.append(through(simulator, case.task, seed, chunks, clock)), lambda: theirs.append(without(bare, seed, chunks, clock))]  # noqa: B023
        for side in sides if seed % 2 else reversed(sides):
            side()
    simulator.close()
    return compare(ours[1:], theirs[1:])  # the first episode warms up


def through(simulator: Simulator, task: str, seed: int, chunks: Sequence[NDArray[np.float32]], clock: Callable[[], float]) -> EpisodeCost:
    """The cost of one episode through the simulator."""
    start = clock()
    simulator.reset(0, Ticket(index=seed, task=task, seed=seed, group=seed, initial_state=seed))
    begun = clock()
    for chunk in chunks:
        simulator.step({0: chunk})
    return EpisodeCost(begun - start, clock() - begun)


def without(bare: Bare, seed: int, chunks: Sequence[NDArray[np.float32]], clock: Callable[[], float]) -> EpisodeCost:
    """The cost of the same episode through the bare environment."""
    start = clock()
    bare.reset(seed)
    bare.draw()
    begun = clock()
    for chunk in chunks:
        for action in chunk:
            bare.step(action)
        bare.draw()
    return EpisodeCost(begun - start, clock() - begun)


def compare(ours: Sequence[EpisodeCost], theirs: Sequence[EpisodeCost]) -> dict[str, Any]:
    """Median milliseconds on both sides, and the median of the ratio of each episode's costs.

    ours: through the simulator. theirs: through the bare environment. The median ratio lies between "least" and "greatest" with CONFIDENCE, for any
    distribution.
    """
    ratios = sorted(one.whole / other.whole for one, other in zip(ours, theirs, strict=True))
    rank = rank_of_interval(len(ratios))
    return {
        "reset_ms": {"simulator": 1000 * median(cost.reset for cost in ours), "bare": 1000 * median(cost.reset for cost in theirs)},
        "decision_ms": {side: 1000 * median(cost.decisions for cost in costs) / DECISIONS for side, costs in (("simulator", ours), ("bare", theirs))},
        "ratio": {"median": median(ratios), "least": ratios[rank], "greatest": ratios[-1 - rank]},
        "episodes": len(ratios),
    }


def rank_of_interval(count: int) -> int:
    """How many of `count` sorted values can be left out at each end so that the rest still encloses the median with CONFIDENCE: a sign test (Conover, 1999)."""
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
