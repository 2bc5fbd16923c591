"""The settings of behaviour cloning, and of the demonstration files it reads."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import field_validator, model_validator

from rlvla3.config.section import LearningRate, NonNegative, NonNegativeFloat, Number, Positive, Section, expanded

CANONICAL = re.compile("0|[1-9][0-9]*")
Bound = Annotated[float, Number]
Orientation = Literal["upright", "flipped", "mirrored", "rotated"]


class DemonstrationLayout(Section):
    """What demonstration files call things (docs/demonstrations.md). Only needed if the names differ from those of the file format or of the simulator."""

    cameras: dict[str, str] = {}
    """From each camera of the simulator to the array with its frames."""

    state: list[str] = []
    """The arrays that form the state. Their numbers are joined in this order."""

    actions: str = ""
    """The array with the actions. Empty means the name that the file format uses."""

    tasks: dict[str, str] = {}
    """From each task of the recipe to its name or its sentence in the files. Put the name of the folder before it, as in FOLDER/NAME, to mean the files of
    that folder only."""

    action_ranges: dict[NonNegative, tuple[Bound, Bound]] = {}
    """For numbers of an action, counted from 0: the recorded numbers that mean the simulator's lowest and its highest. `{6: [0, 1]}` stretches a gripper of 0
    and 1 to -1 and 1. `{6: [1, 0]}` exchanges its ends too. What is named here is only reported where it seems wrong, and not refused."""

    absolute_actions: bool | None = None
    """Whether recorded actions are targets, in the units of the state. `true` converts them to the changes that the simulator takes. `false` says that they
    are changes. With `null` they should be changes, and files of targets are refused."""

    orientation: Orientation | None = None
    """How frames are stored. `flipped` is upside down, `mirrored` has left and right exchanged, and `rotated` has both. With `null` it is what the file format
    says."""

    @field_validator("action_ranges", mode="before")
    @classmethod
    def _check_numbers(cls, given: Any) -> Any:
        """One number can be written in two ways, and the second would replace the first."""
        if isinstance(given, Mapping):
            for key in map(str, given):
                if not CANONICAL.fullmatch(key):
                    raise ValueError(f"{key[:20]!r} is not how the number of an action is written: count from 0, and write 0, 1, 2 and so on")
        return given

    @field_validator("action_ranges")
    @classmethod
    def _check_ranges(cls, given: dict[int, tuple[float, float]]) -> dict[int, tuple[float, float]]:
        if empty := [number for number, (low, high) in given.items() if low == high]:
            raise ValueError(f"number {empty[0]} has the range {list(given[empty[0]])}, and its two ends must differ")
        return given


class CloneConfig(Section):
    """Behaviour cloning. It learns from demonstration files. If none are named, it learns from the simulator's scripted experts."""

    demonstrations: Positive = 10
    """Successful episodes of each task. The first ones found are used."""

    files: list[str] = []
    """Paths and patterns of demonstration files: HDF5 files of LIBERO or ManiSkill, or folders of LeRobot datasets. They are relative to the folder in which
    the command runs. Each step in them counts as a decision."""

    layout: DemonstrationLayout = DemonstrationLayout()
    steps: Positive = 300
    """Optimizer steps."""

    batch: Positive = 128
    """Decisions in one optimizer step."""

    micro_batch: Positive | None = None
    """Decisions whose loss is computed at once. Gradients are added up until `batch` is complete, so a smaller number needs less memory. With `null` it is the
    whole batch."""

    learning_rate: LearningRate | None = None
    """The highest learning rate. It rises to this value and falls again over the steps. With `null` it is the policy's usual one: 0.001 for policies that learn
    from scratch, 0.000025 for pi0 and pi0.5, 0.0001 for SmolVLA and GR00T, 0.00002 for OpenVLA-OFT."""

    weight_decay: NonNegativeFloat = 1e-4
    """Weight decay of AdamW."""

    @field_validator("files", mode="before")
    @classmethod
    def _listed(cls, given: Any) -> Any:
        files = [given] if isinstance(given, str) else given
        return [expanded(file) for file in files] if isinstance(files, list) else files

    @model_validator(mode="after")
    def _check_files(self) -> CloneConfig:
        if self.layout != DemonstrationLayout() and not self.files:
            raise ValueError("clone.layout says how demonstration files name things, and clone.files names none: give clone.files, or leave layout out")
        return self
