"""A robot whose cameras, state and actions a recipe chooses. It is described, and never run."""

from __future__ import annotations

from rlvla3.config import Section, SimulatorConfig, check_options
from rlvla3.simulators.base import Simulator
from rlvla3.types import ActionSpace, Spaces


class RobotOptions(Section):
    cameras: list[str] = ["agentview", "robot0_eye_in_hand"]
    state: int = 8
    actions: int = 7
    mirrored: bool = False
    instruction: str = "open the drawer"


class Robot(Simulator):
    @classmethod
    def describe(cls, config: SimulatorConfig) -> Spaces:
        options = check_options(RobotOptions, config.options, "simulator.options")
        return Spaces(dict.fromkeys(options.cameras, (64, 64, 3)), options.state, ActionSpace("continuous", options.actions), 100, (options.instruction,))
