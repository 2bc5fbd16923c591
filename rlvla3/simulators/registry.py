"""From a simulator's name in a recipe to the simulator.

A simulator's class is imported only when it is used, so the packages of the other simulators need not be installed.
"""

from __future__ import annotations

from rlvla3.config import SimulatorConfig
from rlvla3.errors import RecipeError
from rlvla3.simulators.base import Simulator, SingleEnvironment
from rlvla3.simulators.builtin import load_simulator_or_environment
from rlvla3.types import Spaces


def simulator_class(name: str) -> type[Simulator]:
    """The class of the simulator `name`: a key of BUILT_IN, `gymnasium:ID`, or `module:Class`. Raises RecipeError if there is none.

    A `module:Class` is a Simulator, or it makes Gymnasium environments. GymnasiumSimulator runs the latter.
    """
    if not name.startswith("gymnasium:"):
        found = load_simulator_or_environment(name)
        if isinstance(found, type) and issubclass(found, Simulator):
            return found
    from rlvla3.simulators.gymnasium import GymnasiumSimulator

    return GymnasiumSimulator


def describe_simulator(config: SimulatorConfig) -> Spaces:
    """What the simulator of `config` shows and accepts, before any process starts. Raises RecipeError for every mistake that can be found so early."""
    simulator = simulator_class(config.name)
    if issubclass(simulator, SingleEnvironment) and config.slots != 1:
        raise RecipeError(
            f"simulator.slots={config.slots}, but {config.name} runs one environment per process: set simulator.slots=1 and raise simulator.shards"
        )
    return simulator.describe(config)


def make_simulator(config: SimulatorConfig, chunk: int) -> Simulator:
    """Build the simulator of `config` in this process. chunk: actions per decision. Raises SimulatorError if it cannot be built or its frames are wrong."""
    return simulator_class(config.name)(config, chunk)
