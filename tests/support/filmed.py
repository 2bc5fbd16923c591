"""An environment whose every step looks, feels and is told otherwise: what a dataset says of a step can be found out by playing its actions again."""

from __future__ import annotations

import numpy as np

from rlvla3.config import Section, SimulatorConfig, check_options
from rlvla3.simulators.action_meaning import ActionMeaning
from rlvla3.simulators.base import SingleEnvironment, Step
from rlvla3.types import ActionSpace, Observation, Spaces, Ticket


class FilmedOptions(Section):
    """cameras: [height, width, channels] of each. choices: of a discrete action. succeeds: every how many-th seed does. told: instructions in turn, one a step.
    known: whether they are known before the run. mirrored: as the simulators of this package that have this option. fails_from: the first ticket that fails."""

    cameras: dict[str, tuple[int, int, int]] = {"front": (32, 48, 3), "wrist": (33, 35, 3)}
    state: int = 3
    action: int = 2
    choices: int = 0
    succeeds: int = 2
    told: list[str] = ["reach the goal"]
    known: bool = True
    mirrored: bool = False
    fails_from: int | None = None


class Filmed(SingleEnvironment):
    """It ends at a step that its seed chooses. The state adds up the actions; the frames show the state."""

    Options = FilmedOptions

    @classmethod
    def describe(cls, config: SimulatorConfig) -> Spaces:
        options = check_options(FilmedOptions, config.options, "simulator.options")
        action = ActionSpace("discrete", 1, options.choices) if options.choices else ActionSpace("continuous", options.action)
        return Spaces(options.cameras, options.state, action, config.max_steps or 20, tuple(options.told) if options.known else ())

    @classmethod
    def action_meaning(cls, config: SimulatorConfig) -> ActionMeaning:
        return ActionMeaning(rate_hz=12.5)

    def __init__(self, config: SimulatorConfig, chunk: int) -> None:
        self.spaces, self.chunk = self.describe(config), chunk
        self.options = check_options(FilmedOptions, config.options, "simulator.options")
        self.state = np.zeros(self.spaces.state, np.float32)

    def begin(self, ticket: Ticket) -> None:
        if self.options.fails_from is not None and ticket.index >= self.options.fails_from:
            raise RuntimeError("the physics blew up")
        chance = np.random.default_rng([ticket.seed, len(ticket.task)])
        self.steps, self.end = 0, int(chance.integers(5, self.spaces.max_steps + 3))
        self.good = int(chance.integers(self.options.succeeds)) == 0
        self.state[:] = chance.uniform(-1, 1, len(self.state))
        self.sum = float(chance.uniform(-1, 1))

    def act(self, action) -> Step:
        self.steps += 1
        self.sum += float(np.sum(action))
        self.state[:] = np.sin(self.sum + np.arange(len(self.state)))
        over = self.steps >= self.end
        return Step(self.sum, success=over and self.good, terminated=over)

    def observe(self) -> Observation:
        images = {camera: self._frame(number, shape) for number, (camera, shape) in enumerate(self.spaces.cameras.items())}
        told = self.options.told
        return Observation(images, self.state, told[self.steps % len(told)])

    def _frame(self, number: int, shape: tuple[int, int, int]) -> np.ndarray:
        """A slope of colours that moves with the state: the codec of a video keeps it well."""
        down, across, channel = np.meshgrid(*(np.linspace(0, 1, length) for length in shape), indexing="ij")
        wave = np.sin(3 * down + 2 * across + channel + self.sum + number)
        return (127 + 120 * wave).astype(np.uint8)
