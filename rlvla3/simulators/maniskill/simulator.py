"""ManiSkill 3: a Franka Panda (or WidowX) arm at a table, observed as a state or through cameras, on a CPU or in one batch on a GPU.

A shard is a list of batches that step one after another (parallel_scenes.py). On a GPU, one batch holds all slots. On a CPU, ManiSkill steps one environment at
a time, so each slot has a batch of its own with one row. Nothing else differs.

Invariants:
- slots of one batch step together: `step` gets a chunk for all running slots of a batch, or for none;
- when the episode of a slot ends, the slot keeps still until its next ticket resets it alone.

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

from rlvla3.config import ExpandedPath, Section, SimulatorConfig, check_options
from rlvla3.errors import RecipeError
from rlvla3.simulators.action_meaning import ActionMeaning, Gripper, Motion
from rlvla3.simulators.assets import find_assets
from rlvla3.simulators.base import Simulator, SimulatorError, initial_state
from rlvla3.simulators.graphics import MIN_FRAME_STD
from rlvla3.simulators.maniskill.tasks import PANDA_ACTIONS, TASKS, ManiSkillTask
from rlvla3.types import ActionSpace, InitialStates, Observation, Outcome, Spaces, Ticket

if TYPE_CHECKING:
    from rlvla3.simulators.maniskill.parallel_scenes import BatchOutcomes, ParallelScenes

INSTALL = "pip install 'rlvla3[maniskill]'"
GRAPHICS_HELP = (
    "ManiSkill needs Vulkan, even if nothing is drawn: on a GPU its driver brings it; without a GPU, install Mesa 25 or newer "
    "(`apt-get install mesa-vulkan-drivers`, on Debian 12 from bookworm-backports)"
)
PANDA_JOINTS = 7
"""The arm's joints. Their angles are the first numbers of the state, and the two fingers follow."""

JOINT_STEP_RAD, JOINT_REACHED_RAD = 0.1, 0.045
"""What an action of 1 asks of a joint in the mode pd_joint_delta_pos, and what it reaches in one step (measured: 0.021 to 0.040)."""

STEPS_TO_MOVE = 5
"""The frames of a new simulator must have changed after so many environment steps."""


class ManiSkillOptions(Section):
    """Settings of ManiSkill."""

    observation: Literal["state", "rgb"] = "state"
    """`state`: all numbers, including objects and goal. `rgb`: the cameras of the task, and of the numbers only those of the arm and the goal position."""

    image_size: Annotated[int, Field(ge=32, le=512)] = 128
    """Height and width of images, in pixels."""

    reward: Literal["sparse", "dense"] = "sparse"
    """`sparse`: +1 at the first success. `dense`: ManiSkill's own reward, 0 to 1 for each step."""

    control_mode: str | None = None
    """One of ManiSkill's control modes with actions in [-1, 1]: pd_joint_delta_pos, pd_ee_delta_pose or pd_ee_delta_pos. `null` means pd_joint_delta_pos, as in
    ManiSkill's PPO baselines."""

    end_on_success: bool = True
    """Whether a success ends the episode. Switch it off if rewards are dense. Otherwise a success costs the policy the rewards of the remaining steps."""

    success: Literal["success_once", "success_at_end"] = "success_once"
    """When an episode is a success, by ManiSkill's names. `success_once`: if any of its steps is one. `success_at_end`: if its last step is one, so what was
    reached must be kept. It changes no reward. Set end_on_success to false with it: else the first success is the last step."""

    assets: ExpandedPath | None = None
    """The folder with ManiSkill's downloads, for tasks that need them. With `null` it is $MS_ASSET_DIR, or else ~/.maniskill."""


@dataclass(slots=True)
class SlotEpisode:
    """The episode that runs in a slot. steps: environment steps executed so far."""

    ticket: Ticket
    steps: int = 0


class ManiSkill(Simulator):
    """Environments of one ManiSkill task. Each slot runs its own ticket."""

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
            state=task.image_state if images else task.state,
            action=ActionSpace("continuous", task.actions[_control_mode(name, task, options)]),
            max_steps=config.max_steps or task.max_steps,
            instructions=(task.instruction,),
            initial_states={name: InitialStates(task.initial_states, name)} if task.initial_states else {},
        )

    @classmethod
    def action_meaning(cls, config: SimulatorConfig) -> ActionMeaning:
        options = check_options(ManiSkillOptions, config.options, "simulator.options")
        name, task = _task(config.tasks)
        if task.actions is not PANDA_ACTIONS:
            return ActionMeaning()
        mode = _control_mode(name, task, options)
        joints = range(PANDA_JOINTS) if mode == "pd_joint_delta_pos" else ()
        return ActionMeaning(
            rate_hz=20.0,
            motions=tuple(Motion(joint, joint, unit=JOINT_STEP_RAD, reached=JOINT_REACHED_RAD) for joint in joints),
            gripper=Gripper(task.actions[mode] - 1, {PANDA_JOINTS: 1.0, PANDA_JOINTS + 1: 1.0}, closes=-1),
        )

    def __init__(self, config: SimulatorConfig, chunk: int) -> None:
        """Raises SimulatorError if the environments cannot be built, or if their frames are wrong."""
        self.spaces, self.slots, self._chunk = self.describe(config), config.slots, chunk
        options = check_options(ManiSkillOptions, config.options, "simulator.options")
        self._name, task = _task(config.tasks)
        device = config.devices[0] if config.devices else "cpu"
        prepare_process(_assets(self._name, task, options))
        _check_device(device)
        sizes = [config.slots] if device.startswith("cuda") else [1] * config.slots
        self._at_end = options.success == "success_at_end"
        self._batches = [_build(self._name, task, options, size, device) for size in sizes]
        self._rows = [(number, row) for number, size in enumerate(sizes) for row in range(size)]  # for each slot: the number of its batch, and its row
        self._episodes: dict[int, SlotEpisode] = {}
        self._check_batch(self._batches[0])

    def reset(self, slot: int, ticket: Ticket) -> Observation:
        number, row = self._rows[slot]
        states = TASKS[self._name].initial_states
        self._batches[number].reset(row, ticket.seed, initial_state(ticket, states) if states else None)
        self._episodes[slot] = SlotEpisode(ticket)
        return self._observe([slot])[slot]

    def step(self, chunks: Mapping[int, NDArray[np.float32] | None]) -> dict[int, Outcome]:
        outcomes: dict[int, Outcome] = {}
        for number in range(len(self._batches)):
            running = [slot for slot, (batch, _) in enumerate(self._rows) if batch == number and slot in self._episodes]
            if stepped := [slot for slot in running if slot in chunks]:
                if stepped != running:
                    raise SimulatorError(
                        f"step was called for slots {stepped} of a batch in which slots {running} run: they step together, so step all of them"
                    )
                outcomes |= self._step(number, {slot: self._checked(slot, chunks[slot]) for slot in stepped})
        return outcomes

    def close(self) -> None:
        for batch in self._batches:
            batch.close()

    def _step(self, number: int, chunks: Mapping[int, NDArray[np.float32]]) -> dict[int, Outcome]:
        """Execute a chunk in all running slots of one batch."""
        batch = self._batches[number]
        actions = np.zeros((self._chunk, batch.size, self.spaces.action.size), np.float32)
        steps_left = np.zeros(batch.size, np.int64)
        for slot, chunk in chunks.items():
            _, row = self._rows[slot]
            actions[:, row] = np.clip(chunk, -1, 1)
            steps_left[row] = self.spaces.max_steps - self._episodes[slot].steps
        batch_outcomes = batch.step(actions, steps_left)
        for slot in chunks:
            self._episodes[slot].steps += int(batch_outcomes.executed[self._rows[slot][1]])
        observed = self._observe([slot for slot in chunks if not batch_outcomes.terminated[self._rows[slot][1]]])
        return {slot: self._outcome(slot, chunk, batch_outcomes, observed.get(slot)) for slot, chunk in chunks.items()}

    def _outcome(self, slot: int, chunk: NDArray[np.float32], batch_outcomes: BatchOutcomes, observation: Observation | None) -> Outcome:
        """The outcome of one slot. If its episode has ended, the slot is free."""
        _, row = self._rows[slot]
        episode = self._episodes[slot]
        rewards = batch_outcomes.rewards[: batch_outcomes.executed[row], row]
        if not np.isfinite(rewards).all():
            raise SimulatorError(f"the rewards are {rewards} up to step {episode.steps} of {episode.ticket}: a simulator must return finite rewards")
        terminated = bool(batch_outcomes.terminated[row])
        truncated = not terminated and episode.steps >= self.spaces.max_steps
        if terminated or truncated:
            del self._episodes[slot]
        # A success is never taken back, so that of the last step is told with the end of the episode.
        success = batch_outcomes.success_at_end[row] and (terminated or truncated) if self._at_end else batch_outcomes.success_once[row]
        return Outcome(chunk, rewards, observation, bool(success), terminated, truncated)

    def _observe(self, slots: list[int]) -> dict[int, Observation]:
        """The observations of `slots` now. All of them must belong to one batch."""
        if not slots:
            return {}
        images, states = self._batches[self._rows[slots[0]][0]].observe([self._rows[slot][1] for slot in slots])
        observations: dict[int, Observation] = {}
        for index, slot in enumerate(slots):
            episode = self._episodes[slot]
            if not np.isfinite(states[index]).all():
                raise SimulatorError(f"the state is {states[index]} at step {episode.steps} of {episode.ticket}: a simulator must return finite states")
            for camera, frames in images.items():
                if frames[index].min() == frames[index].max():
                    raise SimulatorError(f"camera {camera} gave a frame of a single colour, value {frames[index].min()}: {GRAPHICS_HELP}")
            observations[slot] = Observation(
                {camera: frames[index] for camera, frames in images.items()},
                states[index],
                self.spaces.instructions[0],
                elapsed=episode.steps / self.spaces.max_steps,
            )
        return observations

    def _checked(self, slot: int, chunk: NDArray[np.float32] | None) -> NDArray[np.float32]:
        if chunk is None:
            raise SimulatorError("ManiSkill has no scripted expert here, so it cannot give demonstrations: clone from a file of demonstrations")
        if not np.isfinite(chunk).all():
            raise SimulatorError(
                f"the actions after step {self._episodes[slot].steps} of {self._episodes[slot].ticket} are {chunk}: a policy must return finite actions"
            )
        return chunk

    def _check_batch(self, batch: ParallelScenes) -> None:
        """Raise SimulatorError if an environment differs from its description, or if its frames are flat or stay the same while the arm moves."""
        batch.reset(row=0, seed=0, initial_state=0 if TASKS[self._name].initial_states else None)
        before, states = batch.observe([0])
        shown = {camera: frames.shape[1:] for camera, frames in before.items()}
        if (shown, states.shape[1]) != (dict(self.spaces.cameras), self.spaces.state):
            raise SimulatorError(
                f"{self._name} shows {shown} and a state of {states.shape[1]} numbers, but {dict(self.spaces.cameras)} and {self.spaces.state} numbers were "
                f"expected: this code is written for mani_skill 3.0.1; {INSTALL}"
            )
        push = np.zeros((STEPS_TO_MOVE, batch.size, self.spaces.action.size), np.float32)
        push[..., 1] = TASKS[self._name].push  # the shoulder, or sideways
        batch.step(push, np.full(batch.size, STEPS_TO_MOVE))
        after, _ = batch.observe([0])
        for camera, frames in before.items():
            if frames.std() <= MIN_FRAME_STD:
                raise SimulatorError(
                    f"camera {camera} of {self._name} draws flat frames, standard deviation {frames.std():.1f} where 30 to 60 is usual: {GRAPHICS_HELP}"
                )
            if np.array_equal(frames, after[camera]):
                raise SimulatorError(f"camera {camera} of {self._name} draws the same frame while the arm moves: {GRAPHICS_HELP}")


def prepare_process(assets: Path | None) -> None:
    """Prepare this process for ManiSkill. assets: the folder of its downloads, for tasks that need them.

    Many simulator processes share the machine's cores. So this process starts no thread per core, neither for drawing (LP_NUM_THREADS) nor for linear algebra.
    Raises SimulatorError if mani_skill was already imported with another folder.
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
        raise SimulatorError(f"simulator.devices names {device}, but torch finds {found} CUDA devices here: leave simulator.devices out to run on the CPU")


def _build(name: str, task: ManiSkillTask, options: ManiSkillOptions, size: int, device: str) -> ParallelScenes:
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
            obs_mode=task.image_mode if drawn else "state_dict",
            cameras=task.cameras if drawn else (),
            sensors=_sensors(task, options.image_size),
        )
    except (RuntimeError, ImportError) as error:  # sapien, Vulkan and the dynamic loader raise these if something is missing
        raise SimulatorError(f"{name} cannot be built on {device} ({type(error).__name__}: {error}): {GRAPHICS_HELP}") from error
    except OSError as error:
        raise SimulatorError(
            f"a file of the assets of {name} is missing ({error}): download them again with python -m mani_skill.utils.download_asset {name}"
        ) from error


def _sensors(task: ManiSkillTask, size: int) -> dict[str, Any]:
    """ManiSkill's `sensor_configs` for square images. For a calibrated camera the image is its native image, scaled to a square."""
    sensors: dict[str, Any] = {"width": size, "height": size}
    if task.intrinsic:
        sensors["intrinsic"] = np.array(task.intrinsic) * np.array([[size / task.native[0]], [size / task.native[1]], [1.0]])
    return sensors


def _task(tasks: list[str]) -> tuple[str, ManiSkillTask]:
    if len(tasks) != 1:
        raise RecipeError(
            f"simulator.tasks={tasks}, but a ManiSkill simulator has exactly one task, for which its environments are built: "
            f"name one, for example simulator.tasks=[PickCube-v1]. To mix several, give each task an entry of its own under simulators:"
        )
    name = tasks[0]
    if name not in TASKS:
        close = difflib.get_close_matches(name, TASKS, n=3)
        way_out = f"did you mean {' or '.join(close)}?" if close else f"known are {', '.join(TASKS)}"
        raise RecipeError(f"simulator.tasks: {name!r} is not a ManiSkill task that is known here; {way_out}")
    return name, TASKS[name]


def _check(name: str, task: ManiSkillTask, config: SimulatorConfig, options: ManiSkillOptions) -> None:
    if importlib.util.find_spec("mani_skill") is None:
        raise RecipeError(f"simulator.name=maniskill needs the package mani_skill, which is not installed: {INSTALL}")
    if options.observation == "state" and not task.state:
        raise RecipeError(f"ManiSkill shows no state for {name}: set simulator.options.observation=rgb")
    if options.reward == "dense" and not task.dense:
        raise RecipeError(f"{name} has no dense reward: set simulator.options.reward=sparse")
    if unknown := [device for device in config.devices if device != "cpu" and not device.startswith("cuda")]:
        raise RecipeError(f"simulator.devices names {unknown[0]}, but ManiSkill runs only on cpu or on devices such as cuda:0")
    if config.slots > 1 and not task.resets_alone and any(device.startswith("cuda") for device in config.devices):
        raise RecipeError(
            f"simulator.slots={config.slots}, but a reset of {name} moves all environments of its batch: set simulator.slots=1 and raise simulator.shards"
        )


def _control_mode(name: str, task: ManiSkillTask, options: ManiSkillOptions) -> str:
    mode = options.control_mode or next(iter(task.actions))
    if mode not in task.actions:
        raise RecipeError(f"simulator.options.control_mode={mode} is not a control mode of {name}: use {', '.join(task.actions)}")
    return mode


def _assets(name: str, task: ManiSkillTask, options: ManiSkillOptions) -> Path | None:
    """The folder with the task's downloads; None if the task needs none."""
    folder = options.assets
    for contains in task.assets:
        folder = find_assets(
            f"ManiSkill's {name}",
            key="simulator.options.assets",
            given=folder,
            variable="MS_ASSET_DIR",
            package_folders=[Path.home() / ".maniskill"],
            contains=contains,
        )
    return folder if task.assets else None
