"""What the simulators say of their actions is what their states show: their own recordings pass without a word, and turned ones are found."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest

from rlvla3.config import SimulatorConfig
from rlvla3.demonstrations.demonstration_file import DemonstrationError
from rlvla3.demonstrations.meaning import check_meaning
from rlvla3.simulators.action_meaning import ActionMeaning
from rlvla3.simulators.graphics import prepare_process
from rlvla3.simulators.libero.simulator import Libero
from rlvla3.simulators.maniskill.simulator import ManiSkill
from rlvla3.simulators.metaworld.simulator import MetaWorld
from rlvla3.types import Ticket
from tests.support import libero
from tests.support.memory_demonstrations import Recording, in_memory
from tests.support.processes import in_fresh_process

EXPERTS = ("pick-place-v3", "door-close-v3", "sweep-v3")


def motions(seed: int, steps: int, size: int, closes: int) -> np.ndarray:
    """Random motions of some steps each, and a gripper that closes and opens, as its last number."""
    random = np.random.default_rng(seed)
    actions = np.repeat(random.uniform(-0.9, 0.9, (steps // 5, size)), 5, axis=0) * np.repeat(random.random((steps // 5, size)) < 0.7, 5, axis=0)
    actions[:, -1] = np.where((np.arange(len(actions)) // 20) % 2, closes, -closes)
    return actions.astype(np.float32)


def record_libero(path: Path) -> None:
    prepare_process("LIBERO", "cpu")
    from rlvla3.simulators.libero.package import assets_folder
    from rlvla3.simulators.libero.scene import LiberoScene
    from rlvla3.simulators.libero.tasks import find_task

    scene = LiberoScene(find_task("libero_object/0"), assets_folder(None), size=64, fast=True)
    for seed in range(2):
        scene.reset(seed, warmup_steps=5)
        actions = motions(seed, 100, 7, closes=1) * np.array([1, 1, 1, 0.1, 0.1, 0.1, 1], np.float32)
        states = []
        for action in actions:
            states.append(scene.state())
            scene.step(action)
        np.savez(path / f"{seed}.npz", states=np.array(states), actions=actions)


def record_experts(path: Path, task: str) -> None:
    prepare_process("Meta-World", "cpu")
    from rlvla3.simulators.metaworld.scene import MetaWorldScene

    scene = MetaWorldScene(task, size=64, fast=True)
    for seed in range(2):
        scene.reset(seed)
        states: list[np.ndarray] = []
        actions: list[np.ndarray] = []
        success = False
        while not success and len(actions) < 200:
            states.append(scene.state())
            actions.append(scene.expert_action())
            success = scene.step(actions[-1])[1]
        np.savez(path / f"{seed}.npz", states=np.array(states), actions=np.array(actions))


def record_maniskill(path: Path, mode: str, size: int) -> None:
    config = SimulatorConfig(name="maniskill", tasks=["PickCube-v1"], max_steps=80, options={"control_mode": mode, "end_on_success": False})
    simulator = ManiSkill(config, chunk=1)
    for seed in range(2):
        states = [simulator.reset(0, Ticket(0, "PickCube-v1", seed, 0)).state]
        actions = motions(seed, 80, size, closes=-1)
        for action in actions:
            shown = simulator.step({0: action[None]})[0].observation
            assert shown is not None
            states.append(shown.state)
        np.savez(path / f"{seed}.npz", states=np.array(states[:-1]), actions=actions)


def read(path: Path) -> list[Recording]:
    return [(saved["states"], saved["actions"]) for file in sorted(path.glob("*.npz")) for saved in [np.load(file)]]


def check(recordings: list[Recording], meaning: ActionMeaning, *axes: int) -> None:
    """The recordings pass. Those with a gripper, or one of `axes`, the other way are refused."""
    assert check_meaning(in_memory(recordings, meaning)) == []
    assert meaning.gripper is not None
    for number in (meaning.gripper.action, *axes):
        turned = [(states, actions * np.where(np.arange(actions.shape[1]) == number, -1, 1)) for states, actions in recordings]
        with pytest.raises(DemonstrationError, match=r"does the opposite|the other way"):
            check_meaning(in_memory(turned, meaning))


@pytest.mark.slow
@libero.installed
def test_libero(tmp_path: Path) -> None:
    in_fresh_process(record_libero, tmp_path)
    check(read(tmp_path), Libero.action_meaning(libero.config("libero_object/0")), 0, 1)


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("metaworld") is None, reason="metaworld is not installed")
@pytest.mark.parametrize("task", EXPERTS)
def test_metaworlds_experts(tmp_path: Path, task: str) -> None:
    in_fresh_process(record_experts, tmp_path, task)
    assert check_meaning(in_memory(read(tmp_path), MetaWorld.action_meaning(SimulatorConfig(name="metaworld", tasks=[task])))) == []


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("mani_skill") is None, reason="mani_skill is not installed")
@pytest.mark.parametrize(("mode", "size"), [("pd_joint_delta_pos", 8)])
def test_maniskill(tmp_path: Path, mode: str, size: int) -> None:
    in_fresh_process(record_maniskill, tmp_path, mode, size)
    meaning = ManiSkill.action_meaning(SimulatorConfig(name="maniskill", tasks=["PickCube-v1"], options={"control_mode": mode}))
    check(read(tmp_path), meaning, *(motion.action for motion in meaning.motions[:2]))
