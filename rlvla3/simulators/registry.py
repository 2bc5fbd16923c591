"""From a simulator's name in a recipe to the simulator.

Classes are imported when they are asked for, so naming one costs nothing where another runs.
"""

from __future__ import annotations

from rlvla3.config import SimulatorConfig
from rlvla3.errors import RecipeError
from rlvla3.simulators.base import Simulator, SingleEnvironment
from rlvla3.simulators.builtin import load
from rlvla3.types import Spaces


def simulator_class(name: str) -> type[Simulator]:
    """The simulator called `name`: one of BUILT_IN, `gymnasium:ID`, or `module:Class`.

    A `module:Class` is a Simulator, or makes Gymnasium environments and is then run by GymnasiumSimulator. Raises RecipeError.
    """
    if not name.startswith("gymnasium:"):
        found = load(name)
        if isinstance(found, type) and issubclass(found, Simulator):
            return found
    from rlvla3.simulators.gymnasium import GymnasiumSimulator

    return GymnasiumSimulator


def describe_simulator(config: SimulatorConfig) -> Spaces:
    """What the simulator of `config` shows and accepts, found before any process starts. Raises RecipeError for all that can be known to be wrong."""
    simulator = simulator_class(config.name)
    if issubclass(simulator, SingleEnvironment) and config.slots != 1:
        raise RecipeError(f"simulator.slots={config.slots}, and {config.name} runs one environment a process: set simulator.slots=1 and raise simulator.shards")
    return simulator.describe(config)


def make_simulator(config: SimulatorConfig, chunk: int) -> Simulator:
    """The simulator of `config`, built in this process. chunk: actions a decision. Raises SimulatorError where it cannot be trusted."""
    return simulator_class(config.name)(config, chunk)
