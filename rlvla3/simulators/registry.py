"""From a simulator's name in a recipe to the simulator.

A simulator's class is imported only when it is used, so the packages of the other simulators need not be installed.
"""

from __future__ import annotations

from typing import Any

from rlvla3.config import InitialStatesConfig, Section, SimulatorConfig, check_options
from rlvla3.errors import RecipeError
from rlvla3.named import load_named
from rlvla3.simulators.base import NoOptions, Simulator, SingleEnvironment
from rlvla3.simulators.builtin import BUILT_IN, GYMNASIUM, load_simulator_or_environment
from rlvla3.types import InitialStates, Spaces


def simulator_class(name: str) -> type[Simulator]:
    """The class of the simulator `name`: a key of BUILT_IN, `gymnasium:ID`, or `module:Class`. Raises RecipeError if there is none.

    A `module:Class` is a Simulator, or it makes Gymnasium environments. GymnasiumSimulator runs the latter.
    """
    if not name.startswith("gymnasium:"):
        found = load_simulator_or_environment(name)
        if isinstance(found, type) and issubclass(found, Simulator):
            return found
    loaded: type[Simulator] = load_named(GYMNASIUM, "simulator.name")
    return loaded


def may_have_slots(config: SimulatorConfig) -> bool:
    """Whether a process of this simulator can hold several environments, as far as it is known without loading code of the user. A simulator of the user's own
    can where its recipe says so."""
    return config.slots > 1 or (config.name in BUILT_IN and not issubclass(simulator_class(config.name), SingleEnvironment))


def describe_simulator(config: SimulatorConfig) -> Spaces:
    """What the simulator of `config` shows and accepts, before any process starts. Raises RecipeError for every mistake that can be found so early."""
    simulator = simulator_class(config.name)
    checked_options(simulator, config)
    if issubclass(simulator, SingleEnvironment) and config.slots != 1:
        raise RecipeError(
            f"simulator.slots={config.slots}, but {config.name} runs one environment per process: set simulator.slots=1 and raise simulator.shards"
        )
    spaces = simulator.describe(config)
    if not isinstance(spaces, Spaces):
        raise RecipeError(f"simulator.name={config.name}: describe() returned {spaces!r:.80}: return an rlvla3.types.Spaces")
    _check_initial_states(config, spaces)
    return spaces


def checked_options(simulator: type[Simulator], config: SimulatorConfig) -> Section:
    """The options of `config`, as the simulator's class knows them. Raises RecipeError where it does not, or has no schema of options."""
    schema: Any = simulator.Options
    if not (isinstance(schema, type) and issubclass(schema, Section)):
        raise RecipeError(f"simulator.name={config.name}: its Options are {schema!r:.80}: make them a subclass of rlvla3.config.Section")
    if schema is NoOptions:  # it has said nothing of its settings, and may read them by itself
        return NoOptions()
    return check_options(schema, config.options, "simulator.options")


MOST_STATES = 1_000_000
"""The largest fixed set of initial states. A round goes through all of them, in an order that is kept in memory."""


def _check_initial_states(config: SimulatorConfig, spaces: Spaces) -> None:
    """Raise RecipeError where a simulator declares something else than fixed sets, or where the settings name states that it does not have."""
    for task, states in spaces.initial_states.items():
        if task not in (config.tasks or [config.name]):
            raise RecipeError(f"{config.name} declares initial states of {task!r}, which is none of its tasks: {', '.join(config.tasks or [config.name])}")
        if not isinstance(states, InitialStates) or type(states.count) is not int or not 1 <= states.count <= MOST_STATES:
            declared = f"{states.count!r:.40} fixed initial states" if isinstance(states, InitialStates) else f"{states!r:.40} as the fixed initial states"
            raise RecipeError(
                f"{config.name} declares {declared} of {task}: give their number, 1 to {MOST_STATES}, or none, and draw initial states from the seed"
            )
        try:
            config.initial_states.split(states.count)
        except ValueError as error:
            raise RecipeError(f"simulator {config.name}, task {task}: simulator.{error}") from error
    if config.initial_states != InitialStatesConfig() and not spaces.initial_states:
        raise RecipeError(
            f"simulator.initial_states is set, but {config.name} has no fixed set of initial states: it draws them from seeds, and no seed of evaluation is "
            f"trained on. Leave simulator.initial_states out, and choose the seeds with evaluation.seed"
        )


def make_simulator(config: SimulatorConfig, chunk: int) -> Simulator:
    """Build the simulator of `config` in this process. chunk: actions per decision. Raises SimulatorError if it cannot be built or its frames are wrong."""
    return simulator_class(config.name)(config, chunk)
