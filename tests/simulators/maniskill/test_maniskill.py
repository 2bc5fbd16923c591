"""Real ManiSkill. Each test runs in a process of its own, as a simulator does: what a process did before is part of what is tested."""

from __future__ import annotations

import importlib.util
import sys
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from rlvla3.config import SimulatorConfig
from rlvla3.errors import RecipeError
from rlvla3.simulators.base import SimulatorError
from rlvla3.simulators.maniskill.simulator import ManiSkill, prepare_process
from rlvla3.simulators.maniskill.tasks import PANDA_ACTIONS, TASKS
from rlvla3.simulators.registry import describe_simulator
from rlvla3.types import INSTRUCTION_BYTES, ActionSpace, Observation, Outcome, Spaces, Ticket
from tests.support.maniskill_assets import bridge_assets, made_up_bridge
from tests.support.processes import in_fresh_process

PICK, CARROT = "PickCube-v1", "PutCarrotOnPlateInScene-v1"
CHUNK = 5
CLOSED, OPEN = -1.0, 1.0


def config(task: str = PICK, *, slots: int = 1, devices: tuple[str, ...] = (), max_steps: int | None = None, **options: Any) -> SimulatorConfig:
    return SimulatorConfig(name="maniskill", tasks=[task], slots=slots, devices=list(devices), max_steps=max_steps, options=options)


def missing() -> str:
    """What the real simulator lacks here, empty where it runs."""
    if importlib.util.find_spec("mani_skill") is None:
        return "mani_skill is not installed"
    try:
        in_fresh_process(cut_short)
    except SimulatorError as error:
        return str(error)
    return ""


def refusals(*settings: SimulatorConfig) -> list[str]:
    """What simulators say instead of being built."""
    messages = []
    for setting in settings:
        with pytest.raises(SimulatorError) as refused:
            ManiSkill(setting, CHUNK)
        messages.append(str(refused.value))
    return messages


@pytest.fixture(scope="module")
def real() -> None:
    if lacking := missing():
        pytest.skip(lacking)


def ticket(seed: int, task: str = PICK) -> Ticket:
    return Ticket(index=seed, task=task, seed=seed, group=seed)


def chunk(number: int, size: int = 8) -> np.ndarray[Any, Any]:
    """Random pushes, the arm going down to the table on average."""
    actions = np.random.default_rng(number).uniform(-1, 1, (CHUNK, size)).astype(np.float32)
    actions[:, 1] = np.abs(actions[:, 1])
    return actions


def told(outcome: Outcome) -> list[np.ndarray[Any, Any]]:
    assert outcome.observation is not None
    return [outcome.observation.state, outcome.rewards]


def episode(simulator: ManiSkill, slot: int, seed: int) -> list[np.ndarray[Any, Any]]:
    """All that a policy would see of 30 fixed steps of one slot, whatever runs in the others."""
    arrays = [simulator.reset(slot, ticket(seed)).state]
    for number in range(6):
        arrays += told(simulator.step({slot: chunk(number)})[slot])
    return arrays


def same(some: list[np.ndarray[Any, Any]], others: list[np.ndarray[Any, Any]]) -> bool:
    return all(np.array_equal(a, b) for a, b in zip(some, others, strict=True))


def episodes_of_a_newcomer() -> tuple[list[np.ndarray[Any, Any]], list[np.ndarray[Any, Any]]]:
    simulator = ManiSkill(config(reward="dense", end_on_success=False), CHUNK)
    return episode(simulator, 0, 7), episode(simulator, 0, 8)


def episode_among_others() -> list[np.ndarray[Any, Any]]:
    """Slot 2 of three, which held a cube before, while the others are in the middle of episodes and go on with them."""
    simulator = ManiSkill(config(slots=3, reward="dense", end_on_success=False, max_steps=1000), CHUNK)
    for slot in range(3):
        simulator.reset(slot, ticket(slot + 20))
    for number in range(8):
        simulator.step({slot: chunk(number + 10 * slot) for slot in range(3)})
    arrays = [simulator.reset(2, ticket(7)).state]
    for number in range(6):
        outcomes = simulator.step({0: chunk(90 + number), 1: chunk(80 + number), 2: chunk(number)})
        arrays += told(outcomes[2])
        if number == 2:
            simulator.reset(1, ticket(9))
    return arrays


@pytest.mark.slow
def test_the_same_ticket_is_the_same_episode_in_any_slot_and_process_and_after_any_history(real):
    alone, other = in_fresh_process(episodes_of_a_newcomer)
    assert same(alone, in_fresh_process(episode_among_others))
    assert not np.array_equal(alone[0], other[0]), "another seed is another initial state"
    assert not np.array_equal(alone[0], alone[1]), "the arm moved"


def grasping(state: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """A chunk of pd_ee_delta_pos for PickCube, chosen from its full state: over the cube, down, close, and to the goal."""
    held, to_cube, to_goal = state[18] > 0.5, state[36:39], state[39:42]
    over = np.linalg.norm(to_cube[:2]) < 0.01
    if held:
        way, gripper = to_goal, CLOSED
    elif np.linalg.norm(to_cube) < 0.01:
        way, gripper = np.zeros(3), CLOSED
    else:
        way, gripper = to_cube + np.array([0, 0, 0 if over else 0.1]), OPEN
    action = np.append(np.clip(way / 0.1 / CHUNK, -1, 1), gripper).astype(np.float32)
    return np.repeat(action[None], CHUNK, 0)


Endings = tuple[list[Outcome], list[Outcome]]


def success_beside_a_slot_that_rests(end_on_success: bool) -> Endings:
    simulator = ManiSkill(config(slots=2, control_mode="pd_ee_delta_pos", end_on_success=end_on_success, max_steps=103), CHUNK)
    seen, _ = simulator.reset(0, ticket(1)), simulator.reset(1, ticket(2))
    outcomes: Endings = ([], [])
    picking: Observation | None = seen
    while len(outcomes[1]) < 20:
        chunks = {1: np.zeros((CHUNK, 4), np.float32)} | ({0: grasping(picking.state)} if picking else {})
        for slot, outcome in simulator.step(chunks).items():
            outcomes[slot].append(outcome)
            picking = (None if outcome.done else outcome.observation) if slot == 0 else picking
    return outcomes


def lifted_on(success: str) -> list[Outcome]:
    """The cube is brought to the goal, and then beyond it until the episode ends."""
    simulator = ManiSkill(config(control_mode="pd_ee_delta_pos", end_on_success=False, success=success, max_steps=150), CHUNK)
    seen, outcomes = simulator.reset(0, ticket(1)), list[Outcome]()
    while not outcomes or not outcomes[-1].done:
        held = any(outcome.rewards.any() for outcome in outcomes)
        outcomes.append(simulator.step({0: np.tile(np.array([0, 0, 1, CLOSED], np.float32), (CHUNK, 1)) if held else grasping(seen.state)})[0])
        seen = outcomes[-1].observation or seen
    return outcomes


def cut_short() -> list[Outcome]:
    simulator = ManiSkill(config(reward="dense", max_steps=12), CHUNK)
    simulator.reset(0, ticket(0))
    return [simulator.step({0: chunk(number)})[0] for number in range(3)]


def endings() -> tuple[Endings, Endings, list[Outcome]]:
    return success_beside_a_slot_that_rests(end_on_success=True), success_beside_a_slot_that_rests(end_on_success=False), cut_short()


@pytest.mark.slow
def test_a_success_ends_its_slot_and_leaves_the_others_alone_and_a_time_limit_cuts_an_episode(real):
    (picked, rested), (endless, again), cut = in_fresh_process(endings)
    once, at_end = (in_fresh_process(lifted_on, success) for success in ("success_once", "success_at_end"))
    last = picked[-1]
    assert last.success and last.terminated and last.observation is None and len(last.rewards) <= CHUNK
    rewards = np.concatenate([outcome.rewards for outcome in picked])
    assert rewards.sum() == rewards[-1] == 1.0 and len(rewards) < 100
    assert not any(outcome.success or outcome.done for outcome in rested) and len(rested) == 20

    assert endless[-1].success and not any(outcome.terminated for outcome in endless) and sum(outcome.rewards.sum() for outcome in endless) == 1.0
    assert all(same(told(a), told(b)) for a, b in zip(rested, again, strict=True)), "neither the other's success nor its end is felt"

    assert once[-1].success and at_end[-1].truncated and not any(outcome.success for outcome in at_end), "the last step is none"
    assert [len(outcome.rewards) for outcome in cut] == [5, 5, 2]
    assert [outcome.truncated for outcome in cut] == [False, False, True] and not cut[-1].terminated
    assert [outcome.observation and outcome.observation.elapsed for outcome in cut] == [5 / 12, 10 / 12, 1.0]
    rewards = np.concatenate([outcome.rewards for outcome in cut])
    assert 0 < rewards.min() < rewards.max() < 1, "dense rewards are shares"


def described_and_real() -> dict[str, tuple[Any, Any]]:
    """Of each task the table and the package, and of each that is here a simulator that was built, which compares cameras and state itself."""
    prepare_process(None)
    from mani_skill.utils.registration import REGISTERED_ENVS

    facts: dict[str, tuple[Any, Any]] = {}
    variants: list[dict[str, Any]] = [{}, {"observation": "rgb", "image_size": 32}]
    alive = []  # one that draws must live on: with the last of them the renderer goes, and takes seconds to come back
    for name, task in TASKS.items():
        facts[f"{name} steps"] = task.max_steps, REGISTERED_ENVS[name].max_episode_steps
        if task.assets:
            one = type("One", (), {"num_envs": 1})
            facts[f"{name} words"] = [task.instruction], REGISTERED_ENVS[name].cls.get_language_instruction(one())
            continue
        for options in variants:
            simulator = ManiSkill(config(name, **options), CHUNK)
            environment = simulator._batches[0]._environment
            facts[f"{name} {options} actions"] = (simulator.spaces.action.size,), environment.single_action_space.shape
            alive.append(simulator)
    for mode, size in PANDA_ACTIONS.items():
        facts[mode] = (size,), ManiSkill(config(control_mode=mode), CHUNK)._batches[0]._environment.single_action_space.shape
    return facts


@pytest.mark.slow
def test_the_table_of_tasks_is_what_the_package_has(real):
    facts = in_fresh_process(described_and_real)
    assert {name: table for name, (table, _) in facts.items()} == {name: package for name, (_, package) in facts.items()}
    assert len(facts) == 4 * 2 + 8 * 3 + 3


def frames() -> tuple[list[Observation], Observation, list[str]]:
    """Observations before and after a chunk, of the full state for comparison, and what is said of frames and states that a renderer or a solver broke."""
    simulator = ManiSkill(config(observation="rgb", image_size=64, slots=2), CHUNK)
    before = [simulator.reset(slot, ticket(3)) for slot in range(2)]
    after = simulator.step({slot: chunk(0) for slot in range(2)})[0].observation
    assert after is not None
    full = ManiSkill(config(), CHUNK).reset(0, ticket(3))

    from rlvla3.simulators.maniskill.parallel_scenes import ParallelScenes

    messages, real_observe = [], ParallelScenes.observe
    still = real_observe(simulator._batches[0], [0])
    black = {"base_camera": np.zeros((1, 64, 64, 3), np.uint8)}
    for broken in ((black, still[1]), still, (still[0], np.full((1, 28), np.nan, np.float32))):
        for provoke in (lambda: simulator.reset(0, ticket(0)), lambda: ManiSkill(config(observation="rgb", image_size=64), CHUNK)):
            ParallelScenes.observe = lambda self, rows, broken=broken: broken  # type: ignore[method-assign, misc]
            try:
                provoke()
            except SimulatorError as error:
                messages.append(str(error))
    ParallelScenes.observe = real_observe  # type: ignore[method-assign]
    return [*before, after], full, messages


@pytest.mark.slow
def test_images_show_the_scene_and_the_numbers_beside_them_only_the_arm_and_the_goal(real):
    (before, twin, after), full, messages = in_fresh_process(frames)
    image, later = before.images["base_camera"], after.images["base_camera"]
    assert image.shape == (64, 64, 3) and image.dtype == np.uint8 and image.std() > 10
    assert np.array_equal(image, twin.images["base_camera"]) and (image != later).mean() > 0.01
    arm, pose, goal = slice(0, 18), slice(19, 26), slice(26, 29)
    assert np.array_equal(before.state, np.concatenate([full.state[arm], full.state[pose], full.state[goal]])), "never where the cube is"
    single, flat, unmoved, nan = messages[:2] + messages[2:4]
    assert "a single colour" in single and "flat frames" in flat and "while the arm moves" in unmoved and "finite states" in nan
    assert all("mesa-vulkan-drivers" in message for message in (single, flat, unmoved))


@pytest.mark.slow
def test_what_is_missing_is_named_with_the_way_out(real, tmp_path, monkeypatch):
    for variable in ("VK_DRIVER_FILES", "VK_ICD_FILENAMES"):
        monkeypatch.setenv(variable, "/nowhere")
    undrawn, drawn, elsewhere = in_fresh_process(refusals, config(), config(observation="rgb"), config(devices=("cuda:99",)))
    assert all("mesa-vulkan-drivers" in message and "bookworm-backports" in message for message in (undrawn, drawn))
    assert "cuda:99" in elsewhere and "mesa" not in elsewhere
    [hollow] = in_fresh_process(refusals, config(CARROT, observation="rgb", assets=str(bridge_assets(tmp_path))))
    assert "info_bridge_custom_v0.json" in hollow and "download_asset" in hollow, "it does not ask on standard input"


def carrot_on_made_up_assets(folder: str) -> None:
    simulator = ManiSkill(config(CARROT, observation="rgb", image_size=64, assets=folder), CHUNK)
    begun = [replace(ticket(seed, CARROT), initial_state=state) for seed, state in ((1, 3), (1, 4), (2, 3))]
    first, other, again = (simulator.reset(0, one) for one in begun)
    image = first.images["3rd_view_camera"]
    assert np.array_equal(image, again.images["3rd_view_camera"]) and np.array_equal(first.state, again.state)
    assert (image != other.images["3rd_view_camera"]).any() and first.instruction == "put carrot on plate"
    green = (image == (0, 255, 0)).all(-1).mean()
    assert 0.3 < green < 0.98, "the picture behind the arm and the objects"
    outcome = simulator.step({0: np.tile(np.array([0, 0.02, 0, 0, 0, 0, 1], np.float32), (CHUNK, 1))})[0]
    assert outcome.observation is not None and not outcome.success
    moved = outcome.observation.state[16:19] - first.state[16:19]
    np.testing.assert_allclose(moved, [0, 0.1, 0], atol=1e-5, err_msg="five targets of 2 cm each: metres as they are")


@pytest.mark.slow
def test_a_put_on_plate_task_runs_on_made_up_assets(real, tmp_path):
    """ManiSkill's own need a download; these show that the code is right, not that the task is."""
    in_fresh_process(carrot_on_made_up_assets, str(made_up_bridge(tmp_path)))


def real_initial_states() -> dict[str, int]:
    """How many initial states the package has for each put-on-plate task: places of the objects times their turns."""
    import mani_skill.envs  # noqa: F401  # registers the tasks
    from mani_skill.envs.tasks.digital_twins.bridge_dataset_eval.base_env import BaseBridgeEnv
    from mani_skill.utils.registration import REGISTERED_ENVS

    counts: dict[str, int] = {}

    def count(_: Any, *, xyz_configs: Any, quat_configs: Any, **__: Any) -> None:
        counts[name] = len(xyz_configs) * len(quat_configs)

    BaseBridgeEnv.__init__ = count
    for name, task in TASKS.items():
        if task.initial_states:
            REGISTERED_ENVS[name].cls()
    return counts


@pytest.mark.slow
def test_the_fixed_initial_states_are_those_of_the_package(real):
    assert in_fresh_process(real_initial_states) == {name: task.initial_states for name, task in TASKS.items() if name.endswith("Scene-v1")}


def on_the_gpu() -> None:
    """The same ticket in slot 0 of 4 and slot 3 of 8, early ends, and partial resets, in batches on a GPU."""
    small = ManiSkill(config(slots=4, devices=("cuda:0",), control_mode="pd_ee_delta_pos", max_steps=60), CHUNK)
    large = ManiSkill(config(slots=8, devices=("cuda:0",), control_mode="pd_ee_delta_pos", max_steps=60), CHUNK)
    on_cpu = ManiSkill(config(control_mode="pd_ee_delta_pos"), CHUNK)
    first = small.reset(0, ticket(7)).state
    for slot in range(8):
        large.reset(slot, ticket(slot + 30))
    large.step({slot: chunk(slot, 4) for slot in range(8)})
    running = large.step({slot: np.zeros((CHUNK, 4), np.float32) for slot in range(8)})[5].observation
    assert running is not None
    np.testing.assert_allclose(large.reset(3, ticket(7)).state, first, atol=1e-4)
    arm = on_cpu.reset(0, ticket(7)).state[:9]
    np.testing.assert_allclose(first[:9], arm, atol=1e-4, err_msg="numpy draws the arm's start alike on either backend")
    _, states = large._batches[0].observe([5])
    np.testing.assert_allclose(states[0], running.state, atol=1e-3, err_msg="a reset leaves the others where they were")
    with pytest.raises(SimulatorError, match="they step together"):
        large.step({3: np.zeros((CHUNK, 4), np.float32)})

    seen: dict[int, Observation] = {slot: small.reset(slot, ticket(slot)) for slot in range(4)}
    ended: dict[int, Outcome] = {}
    while seen:
        for slot, outcome in small.step({slot: grasping(observation.state) for slot, observation in seen.items()}).items():
            if outcome.done or outcome.observation is None:
                ended[slot] = outcome
                del seen[slot]
            else:
                seen[slot] = outcome.observation
    assert any(outcome.success and outcome.rewards.sum() == 1.0 for outcome in ended.values())


@pytest.mark.slow
@pytest.mark.gpu
def test_a_batch_on_a_gpu_keeps_the_same_laws(real):
    import torch

    if not torch.cuda.is_available():
        pytest.skip("no CUDA device: ManiSkill's GPU backend was not run")
    in_fresh_process(on_the_gpu)


def modules_of_a_description() -> set[str]:
    describe_simulator(config())
    return {"torch", "mani_skill", "sapien", "gymnasium"} & set(sys.modules)


@pytest.mark.skipif(importlib.util.find_spec("mani_skill") is None, reason="mani_skill is not installed")
def test_a_recipe_is_checked_without_the_package(tmp_path, monkeypatch):
    assert in_fresh_process(modules_of_a_description) == set()
    instruction = ("pick up the red cube and hold it at the goal",)
    assert describe_simulator(config(slots=64)) == Spaces({}, state=42, action=ActionSpace("continuous", 8), max_steps=50, instructions=instruction)
    in_images = Spaces({"base_camera": (96, 96, 3)}, state=28, action=ActionSpace("continuous", 7), max_steps=80, instructions=instruction)
    assert describe_simulator(config(observation="rgb", image_size=96, control_mode="pd_ee_delta_pose", max_steps=80)) == in_images
    monkeypatch.setenv("MS_ASSET_DIR", str(bridge_assets(tmp_path)))
    assert describe_simulator(config(CARROT, observation="rgb")).action.size == 7
    assert all(len(task.instruction.encode()) <= INSTRUCTION_BYTES for task in TASKS.values())


@pytest.mark.skipif(importlib.util.find_spec("mani_skill") is None, reason="mani_skill is not installed")
@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (SimulatorConfig(name="maniskill"), "exactly one task"),
        (SimulatorConfig(name="maniskill", tasks=[PICK, "PushCube-v1"]), "under simulators:"),
        (config("PickCub-v1"), "did you mean PickCube-v1"),
        (config("juggle"), "RollBall-v1"),
        (config(image_size=16), "image_size"),
        (config(control_mode="pd_joint_vel"), "pd_ee_delta_pose"),
        (config(devices=("egl:0",)), "cuda:0"),
        (config(CARROT), "observation=rgb"),
        (config(CARROT, observation="rgb", reward="dense"), "reward=sparse"),
        (config(CARROT, observation="rgb", slots=2, devices=("cuda:0",)), "slots=1"),
        (config(CARROT, observation="rgb", assets="/nowhere"), "simulator.options.assets is /nowhere"),
        (config(CARROT, observation="rgb"), "MS_ASSET_DIR"),
    ],
)
def test_what_can_be_known_to_be_wrong_is_refused_with_the_way_out(wrong, words, monkeypatch):
    monkeypatch.setenv("HOME", "/nowhere")
    monkeypatch.delenv("MS_ASSET_DIR", raising=False)
    with pytest.raises(RecipeError, match=words):
        describe_simulator(wrong)


def test_a_package_that_was_imported_with_other_assets_is_named(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "mani_skill", object())
    monkeypatch.delenv("MS_ASSET_DIR", raising=False)
    for variable in ("LP_NUM_THREADS", "OMP_NUM_THREADS"):
        monkeypatch.setenv(variable, "1")
    with pytest.raises(SimulatorError, match="before that import"):
        prepare_process(tmp_path)
