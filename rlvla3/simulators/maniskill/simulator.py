"""ManiSkill 3: a Franka Panda (or WidowX) arm at a table, seen as a state or through cameras, stepped on a CPU or in one batch on a GPU.

A shard is a list of batches that step in turn (maniskill_batch.py): on a GPU one batch of all its slots, on a CPU, where ManiSkill steps one environment at
a time, a batch of one for each slot. Nothing else differs.

Invariants:
- slots of one batch step together: a chunk is asked for either none or all of its running slots;
- a slot that ends is left where it is until its next ticket resets it alone.

Nothing here imports mani_skill, sapien or torch before a simulator is built, so a recipe is checked in an instant.
"""

from __future__ import annotations

import difflib
import importlib.util
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from rlvla3.config import Section, SimulatorConfig, check_options
from rlvla3.errors import RecipeError
from rlvla3.simulators.assets import find_assets
from rlvla3.simulators.base import Simulator, SimulatorError
from rlvla3.simulators.maniskill.tasks import TASKS, Task
from rlvla3.simulators.rendering import FLATTEST
from rlvla3.types import ActionSpace, Observation, Outcome, Spaces, Ticket

if TYPE_CHECKING:
    from rlvla3.simulators.maniskill.parallel_scenes import Happened, ParallelScenes

INSTALL = "pip install 'rlvla3[maniskill]'"
GRAPHICS_HELP = (
    "ManiSkill needs Vulkan, even where nothing is drawn: with a GPU its own driver, without one Mesa 25 or newer (`apt-get install mesa-vulkan-drivers`, "
    "on Debian 12 from bookworm-backports)"
)
STEPS_TO_MOVE = 5
"""Environment steps after which a new simulator's frames must have changed."""


class ManiSkillOptions(Section):
    """Settings of ManiSkill.

    observation: `state`, all numbers, objects and goal among them; `rgb`, the task's cameras, and of numbers only the arm's own and the place asked for.
    image_size: height and width in pixels. reward: `sparse`, +1 at the first success; `dense`, ManiSkill's own, 0..1 a step.
    control_mode: ManiSkill's, with actions within [-1, 1]: pd_joint_delta_pos (the default, as in its PPO baselines), pd_ee_delta_pose or pd_ee_delta_pos.
    end_on_success: success ends the episode. Switch it off where rewards are dense, or success costs a policy the rewards of the steps that are left.
    assets: folder with ManiSkill's downloads, for tasks that need them.
    """

    observation: Literal["state", "rgb"] = "state"
    image_size: Annotated[int, Field(ge=32, le=512)] = 128
    reward: Literal["sparse", "dense"] = "sparse"
    control_mode: str | None = None
    end_on_success: bool = True
    assets: Path | None = None


@dataclass(slots=True)
class Episode:
    """What runs in a slot. steps: executed so far."""

    ticket: Ticket
    steps: int = 0


class ManiSkill(Simulator):
    """Environments of one ManiSkill task, each on its own ticket."""

    Options = ManiSkillOptions

    @classmethod
    def describe(cls, config: SimulatorConfig) -> Spaces:
        options = check_options(ManiSkillOptions, config.options, "simulator.options")
        name, task = _task(config.tasks)
        _check(name, task, config, options)
        _assets(name, task, options)
        size, images = options.image_size, options.observation == "rgb"
        return Spaces(
            cameras=dict.fromkeys(task.cameras, (size, size, 3)) if images else {},
            state=task.seen if images else task.state,
            action=ActionSpace("continuous", task.actions[_control_mode(name, task, options)]),
            max_steps=config.max_steps or task.max_steps,
            instructions=(task.instruction,),
        )

    def __init__(self, config: SimulatorConfig, chunk: int) -> None:
        """Raises SimulatorError where there is nothing to draw with, or frames cannot be trusted."""
        self.spaces, self.slots, self._chunk = self.describe(config), config.slots, chunk
        options = check_options(ManiSkillOptions, config.options, "simulator.options")
        self._name, task = _task(config.tasks)
        device = config.devices[0] if config.devices else "cpu"
        prepare_process(_assets(self._name, task, options))
        _check_device(device)
        sizes = [config.slots] if device.startswith("cuda") else [1] * config.slots
        self._batches = [_build(self._name, task, options, size, device) for size in sizes]
        self._rows = [(number, row) for number, size in enumerate(sizes) for row in range(size)]  # of each slot: its batch, and where in it
        self._episodes: dict[int, Episode] = {}
        self._check_batch(self._batches[0])

    def reset(self, slot: int, ticket: Ticket) -> Observation:
        number, row = self._rows[slot]
        self._batches[number].reset(row, ticket.seed)
        self._episodes[slot] = Episode(ticket)
        return self._observe([slot])[slot]

    def step(self, chunks: Mapping[int, NDArray[np.float32] | None]) -> dict[int, Outcome]:
        outcomes: dict[int, Outcome] = {}
        for number in range(len(self._batches)):
            slots = [slot for slot, (batch, _) in enumerate(self._rows) if batch == number and slot in self._episodes]
            if asked := [slot for slot in slots if slot in chunks]:
                if asked != slots:
                    raise SimulatorError(f"a chunk was asked for slots {asked} of a batch in which {slots} run: they step together, so ask for all of them")
                outcomes |= self._step(number, {slot: self._checked(slot, chunks[slot]) for slot in asked})
        return outcomes

    def close(self) -> None:
        for batch in self._batches:
            batch.close()

    def _step(self, number: int, chunks: Mapping[int, NDArray[np.float32]]) -> dict[int, Outcome]:
        """Execute a chunk in all running slots of one batch."""
        batch = self._batches[number]
        actions = np.zeros((self._chunk, batch.size, self.spaces.action.size), np.float32)
        left = np.zeros(batch.size, np.int64)
        for slot, chunk in chunks.items():
            _, row = self._rows[slot]
            actions[:, row] = np.clip(chunk, -1, 1)
            left[row] = self.spaces.max_steps - self._episodes[slot].steps
        happened = batch.step(actions, left)
        for slot in chunks:
            self._episodes[slot].steps += int(happened.executed[self._rows[slot][1]])
        observed = self._observe([slot for slot in chunks if not happened.terminated[self._rows[slot][1]]])
        return {slot: self._outcome(slot, chunk, happened, observed.get(slot)) for slot, chunk in chunks.items()}

    def _outcome(self, slot: int, chunk: NDArray[np.float32], happened: Happened, observation: Observation | None) -> Outcome:
        _, row = self._rows[slot]
        episode = self._episodes[slot]
        rewards = happened.rewards[: happened.executed[row], row]
        if not np.isfinite(rewards).all():
            raise SimulatorError(f"rewards {rewards} up to step {episode.steps} of {episode.ticket}: a simulator must return finite rewards")
        terminated = bool(happened.terminated[row])
        truncated = not terminated and episode.steps >= self.spaces.max_steps
        if terminated or truncated:
            del self._episodes[slot]
        return Outcome(chunk, rewards, observation, bool(happened.success[row]), terminated, truncated)

    def _observe(self, slots: list[int]) -> dict[int, Observation]:
        """What slots of one batch show now."""
        if not slots:
            return {}
        images, states = self._batches[self._rows[slots[0]][0]].observe([self._rows[slot][1] for slot in slots])
        observations: dict[int, Observation] = {}
        for place, slot in enumerate(slots):
            episode = self._episodes[slot]
            if not np.isfinite(states[place]).all():
                raise SimulatorError(f"state {states[place]} at step {episode.steps} of {episode.ticket}: a simulator must return finite states")
            for camera, frames in images.items():
                if frames[place].min() == frames[place].max():
                    raise SimulatorError(f"camera {camera} gave a frame of a single colour, value {frames[place].min()}: {GRAPHICS_HELP}")
            observations[slot] = Observation(
                {camera: frames[place] for camera, frames in images.items()},
                states[place],
                self.spaces.instructions[0],
                elapsed=episode.steps / self.spaces.max_steps,
            )
        return observations

    def _checked(self, slot: int, chunk: NDArray[np.float32] | None) -> NDArray[np.float32]:
        if chunk is None:
            raise SimulatorError("ManiSkill has no scripted expert here, so it cannot give demonstrations: clone from a file of demonstrations")
        if not np.isfinite(chunk).all():
            raise SimulatorError(
                f"actions {chunk} after step {self._episodes[slot].steps} of {self._episodes[slot].ticket}: a policy must ask for finite actions"
            )
        return chunk

    def _check_batch(self, batch: ParallelScenes) -> None:
        """Raise SimulatorError where an environment shows other than it was described, or frames that are flat or stay the same while the arm moves."""
        batch.reset(row=0, seed=0)
        before, states = batch.observe([0])
        shown = {camera: frames.shape[1:] for camera, frames in before.items()}
        if (shown, states.shape[1]) != (dict(self.spaces.cameras), self.spaces.state):
            raise SimulatorError(
                f"{self._name} shows {shown} and a state of {states.shape[1]} numbers, where {dict(self.spaces.cameras)} and {self.spaces.state} were "
                f"expected: this is written for mani_skill 3.0.1; {INSTALL}"
            )
        push = np.zeros((STEPS_TO_MOVE, batch.size, self.spaces.action.size), np.float32)
        push[..., 1] = TASKS[self._name].push  # the shoulder, or sideways
        batch.step(push, np.full(batch.size, STEPS_TO_MOVE))
        after, _ = batch.observe([0])
        for camera, frames in before.items():
            if frames.std() <= FLATTEST:
                raise SimulatorError(
                    f"camera {camera} of {self._name} draws flat frames, standard deviation {frames.std():.1f} where 30 to 60 is usual: {GRAPHICS_HELP}"
                )
            if np.array_equal(frames, after[camera]):
                raise SimulatorError(f"camera {camera} of {self._name} draws the same frame while the arm moves: {GRAPHICS_HELP}")


def prepare_process(assets: Path | None) -> None:
    """Get this process ready for ManiSkill. assets: the folder of its downloads, for tasks that need them.

    A process that is given its shard's share of a machine must not start a thread for every core, neither for drawing (LP_) nor for linear algebra.
    Raises SimulatorError where mani_skill has been imported with another folder.
    """
    os.environ["LP_NUM_THREADS"] = "0"
    os.environ["OMP_NUM_THREADS"] = "1"
    if assets is not None:
        if "mani_skill" in sys.modules and os.environ.get("MS_ASSET_DIR") != str(assets):
            raise SimulatorError(f"mani_skill was imported in this process before MS_ASSET_DIR={assets} could be set: set it before that import")
        os.environ["MS_ASSET_DIR"] = str(assets)


def _check_device(device: str) -> None:
    if not device.startswith("cuda"):
        return
    import torch

    if int(device.partition(":")[2] or 0) >= (found := torch.cuda.device_count()):
        raise SimulatorError(f"simulator.devices names {device}, and torch finds {found} CUDA devices here: leave simulator.devices out to run on the CPU")


def _build(name: str, task: Task, options: ManiSkillOptions, size: int, device: str) -> ParallelScenes:
    drawn = options.observation == "rgb"
    try:
        from rlvla3.simulators.maniskill.parallel_scenes import ParallelScenes

        return ParallelScenes(
            name,
            size=size,
            device=device,
            control_mode=_control_mode(name, task, options),
            dense=options.reward == "dense",
            end_on_success=options.end_on_success,
            shows=task.textures if drawn else "state_dict",
            cameras=task.cameras if drawn else (),
            sensors=_sensors(task, options.image_size),
        )
    except (RuntimeError, ImportError) as error:  # sapien's, Vulkan's and the loader's for what is missing
        raise SimulatorError(f"{name} cannot be built on {device} ({type(error).__name__}: {error}): {GRAPHICS_HELP}") from error
    except OSError as error:
        raise SimulatorError(
            f"{name} misses a file of its assets ({error}): download them again, with python -m mani_skill.utils.download_asset {name}"
        ) from error


def _sensors(task: Task, size: int) -> dict[str, Any]:
    """ManiSkill's `sensor_configs` for square images: a calibrated camera's picture is squeezed, as if drawn in its own size and scaled."""
    sensors: dict[str, Any] = {"width": size, "height": size}
    if task.intrinsic:
        sensors["intrinsic"] = np.array(task.intrinsic) * np.array([[size / task.native[0]], [size / task.native[1]], [1.0]])
    return sensors


def _task(tasks: list[str]) -> tuple[str, Task]:
    if len(tasks) != 1:
        raise RecipeError(
            f"simulator.tasks={tasks}, and a ManiSkill simulator has exactly one task, for which its environments are built: "
            f"name one, for example simulator.tasks=[PickCube-v1], and give each task an entry of its own under simulators: to mix several"
        )
    name = tasks[0]
    if name not in TASKS:
        close = difflib.get_close_matches(name, TASKS, n=3)
        way_out = f"did you mean {' or '.join(close)}?" if close else f"known are {', '.join(TASKS)}"
        raise RecipeError(f"simulator.tasks: {name!r} is not a ManiSkill task that is known here; {way_out}")
    return name, TASKS[name]


def _check(name: str, task: Task, config: SimulatorConfig, options: ManiSkillOptions) -> None:
    if importlib.util.find_spec("mani_skill") is None:
        raise RecipeError(f"simulator.name=maniskill needs the package mani_skill, which is not installed: {INSTALL}")
    if options.observation == "state" and not task.state:
        raise RecipeError(f"{name} has no state that ManiSkill shows: set simulator.options.observation=rgb")
    if options.reward == "dense" and not task.dense:
        raise RecipeError(f"{name} has no dense reward: set simulator.options.reward=sparse")
    if unknown := [device for device in config.devices if device != "cpu" and not device.startswith("cuda")]:
        raise RecipeError(f"simulator.devices names {unknown[0]}, and ManiSkill runs on cpu or on devices such as cuda:0")
    if config.slots > 1 and not task.resets_alone and any(device.startswith("cuda") for device in config.devices):
        raise RecipeError(
            f"simulator.slots={config.slots}, and a reset of {name} moves all environments of its batch: set simulator.slots=1 and raise simulator.shards"
        )


def _control_mode(name: str, task: Task, options: ManiSkillOptions) -> str:
    mode = options.control_mode or next(iter(task.actions))
    if mode not in task.actions:
        raise RecipeError(f"simulator.options.control_mode={mode} is not one of {name}: use {', '.join(task.actions)}")
    return mode


def _assets(name: str, task: Task, options: ManiSkillOptions) -> Path | None:
    """The folder of what the task's downloads are in; None where it needs none."""
    folder = options.assets
    for contains in task.assets:
        folder = find_assets(
            f"ManiSkill's {name}",
            key="simulator.options.assets",
            given=folder,
            variable="MS_ASSET_DIR",
            own=[Path.home() / ".maniskill"],
            contains=contains,
        )
    return folder if task.assets else None
