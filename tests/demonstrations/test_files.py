"""Cloning from files: every format as it is published, what is made of it, and what is refused."""

from __future__ import annotations

import json
import tracemalloc
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
import yaml

from rlvla3.config import Recipe, make_recipe
from rlvla3.demonstrations.frames import resized
from rlvla3.demonstrations.selection import check_actions, notices, select_demonstrations
from rlvla3.errors import RecipeError
from rlvla3.policies.base import Observations
from rlvla3.policies.registry import make_policy
from rlvla3.preflight import preflight
from rlvla3.simulators.common_spaces import common_spaces
from rlvla3.simulators.libero.simulator import Libero
from rlvla3.simulators.libero.tasks import find_task
from rlvla3.training.cloning import DemonstrationSelection, clone
from tests.support.command_line import rlvla3_process
from tests.support.demonstration_files import Arm, film, write_lerobot, write_libero, write_maniskill
from tests.support.libero import config as libero_config
from tests.support.libero import installed as libero_installed
from tests.support.libero import ticket as libero_ticket
from tests.support.processes import in_fresh_process

CHUNK = 3
BOWL = "libero_goal/put_the_bowl_on_the_plate"
ARM = f"{Arm.__module__}:Arm"


def recipe(*files: Path | str, demonstrations: int = 2, tasks: tuple[str, ...] = (BOWL,), policy: Any = None, options: Any = None, **clone: Any) -> Recipe:
    small = {"name": "mini_vla", "chunk": CHUNK, "options": {"width": 32, "layers": 1, "expert_width": 32, "instruction_bytes": 32}}
    return make_recipe(
        {
            "simulator": {"name": ARM, "tasks": list(tasks), "shards": 1, "options": options or {}},
            "policy": policy or small,
            "clone": {"demonstrations": demonstrations, "files": [str(file) for file in files], "steps": 60, "batch": 32, "learning_rate": 5e-3, **clone},
        }
    )


def goal_file(folder: Path, task: str = BOWL) -> Path:
    return folder / f"{task}_demo.hdf5"


def read(given: Recipe) -> tuple[Observations, np.ndarray[Any, Any]]:
    """All that a policy would learn from, as the trainer reads it."""
    assert given.clone is not None
    demonstrations = DemonstrationSelection(common_spaces(given), given.policy.chunk, given.tasks, given.clone.demonstrations)
    for number, demonstration in enumerate(select_demonstrations(given)):
        demonstrations.add(number, demonstration)
    observations, actions = demonstrations.tensors()
    return observations, actions.numpy()


def labels(actions: np.ndarray[Any, Any], chunk: int = CHUNK) -> np.ndarray[Any, Any]:
    """The next actions at each of `actions` [T, A], the last one repeated."""
    padded = np.concatenate([actions, np.repeat(actions[-1:], chunk - 1, axis=0)])
    return np.stack([padded[step : step + chunk] for step in range(len(actions))])


@pytest.mark.parametrize(("lag", "convention"), [(1, "opengl"), (0, "opengl"), (0, "opencv"), (0, None)])
def test_libero_frames_are_the_right_way_up_and_paired_with_the_action_that_followed(tmp_path: Path, lag: int, convention: str | None) -> None:
    path = goal_file(tmp_path)
    ((states, actions),) = write_libero(path, {0: 12}, lag=lag, convention=convention)
    given = recipe(path, demonstrations=1)
    observations, chunks = read(given)
    seen = slice(lag, 12)  # of what the demonstrator saw: its last observation is followed by no action
    for camera in ("agentview", "robot0_eye_in_hand"):
        np.testing.assert_array_equal(observations.images[camera], film(13, 64)[seen])
    np.testing.assert_array_equal(observations.state, states[seen])
    np.testing.assert_array_equal(chunks, labels(actions[seen]))
    np.testing.assert_allclose(observations.elapsed, np.arange(12 - lag) / 20)
    assert set(observations.instructions) == {"put the bowl on the plate"}
    assert bool(notices(select_demonstrations(given))) == bool(lag)


def test_the_first_successes_are_used_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    path = goal_file(tmp_path)
    write_libero(path, {0: 5, 1: 6, 2: 7, 10: 8}, failed=[1])
    assert [demonstration.episode.key for demonstration in select_demonstrations(recipe(path, demonstrations=3))] == ["demo_0", "demo_2", "demo_10"]
    with pytest.raises(RecipeError, match=r"3 of 4 demonstrations of libero_goal/put_the_bowl_on_the_plate .* \(1 more failed\): set clone.demonstrations=3"):
        select_demonstrations(recipe(path, demonstrations=4))


def test_each_task_gets_its_own_and_a_suite_is_not_taken_for_another(tmp_path: Path) -> None:
    other, stove = "libero_90/put_the_bowl_on_the_plate", "libero_goal/turn_on_the_stove"
    for task, steps in ((BOWL, 5), (other, 6), (stove, 7)):
        write_libero(goal_file(tmp_path, task), {0: steps, 1: steps})
    given = recipe(tmp_path / "*" / "*.hdf5", tasks=(stove, BOWL))
    assert [(demonstration.task, demonstration.decisions) for demonstration in select_demonstrations(given)] == [(stove, 6)] * 2 + [(BOWL, 4)] * 2
    renamed = recipe(tmp_path / "libero_90" / "*.hdf5", tasks=("serve",), layout={"tasks": {"serve": "put the bowl on the plate"}})
    observations, _ = read(renamed)
    assert observations.instructions == ["serve"] * 10  # what the simulator will tell the policy


def test_a_numbered_libero_task_is_found_by_its_name(tmp_path: Path) -> None:
    pytest.importorskip("bddl", reason="LIBERO is not installed")
    write_libero(goal_file(tmp_path), {0: 5}, convention="opengl")
    assert select_demonstrations(recipe(goal_file(tmp_path), tasks=("libero_goal/8",), demonstrations=1))[0].task == "libero_goal/8"


@pytest.mark.parametrize("version", ["v2.1", "v3.0"])
@pytest.mark.parametrize("video", [False, True])
def test_lerobot_datasets_give_every_episode_its_own_frames(tmp_path: Path, version: str, video: bool) -> None:
    written = write_lerobot(tmp_path, [8, 6, 7], version=version, video=video, tasks=["stack the blocks", "other"])
    observations, chunks = read(recipe(tmp_path, tasks=("stack_the_blocks",), options={"cameras": ["agentview"]}))
    frames = np.concatenate([film(8, 64), film(7, 64, first=90)]).astype(float)
    given = observations.images["agentview"].numpy()
    if video:
        assert np.abs(given - frames).mean() < 4
        np.testing.assert_allclose(given[..., 2].mean((1, 2)), frames[..., 2].mean((1, 2)), atol=4)
    else:
        np.testing.assert_array_equal(given, frames)
    np.testing.assert_array_equal(observations.state, np.concatenate([written[0][0][:8], written[2][0][:7]]))
    np.testing.assert_array_equal(chunks, np.concatenate([labels(written[0][1]), labels(written[2][1])]))


def test_lerobot_arrays_go_by_the_recipes_names_and_failures_are_left_out(tmp_path: Path) -> None:
    written = write_lerobot(tmp_path, [5, 6], names=("wrist_image", "proprio", "actions"), failed=[0])
    layout = {"cameras": {"agentview": "wrist_image"}, "state": ["proprio"], "orientation": "mirrored"}
    options = {"cameras": ["agentview"]}
    given = recipe(tmp_path, tasks=("stack_the_blocks",), demonstrations=1, options=options, layout=layout)
    observations, chunks = read(given)
    np.testing.assert_array_equal(observations.images["agentview"], film(6, 64, first=50)[:, :, ::-1])
    np.testing.assert_array_equal(chunks, labels(written[1][1]))
    both = recipe(tmp_path, tasks=("stack_the_blocks",), demonstrations=1, options=options | {"mirrored": True}, layout=layout)
    np.testing.assert_array_equal(read(both)[0].images["agentview"], film(6, 64, first=50))


def test_maniskill_states_and_images(tmp_path: Path) -> None:
    options = {"action": 4}
    for images in (False, True):
        written = write_maniskill(tmp_path / "trajectory.h5", [6, 7, 9], images=images, failed=[0])
        given = recipe(tmp_path / "trajectory.h5", tasks=("PickCube-v1",), options=options | {"cameras": ["base_camera"] if images else []}, policy=STATE)
        observations, chunks = read(given)
        np.testing.assert_array_equal(observations.state, np.concatenate([written[1][0][:-1], written[2][0][:-1]]))
        np.testing.assert_array_equal(chunks, np.concatenate([labels(written[1][1]), labels(written[2][1])]))
        assert set(observations.images) == ({"base_camera"} if images else set())
        if images:
            np.testing.assert_array_equal(observations.images["base_camera"], np.concatenate([film(7, 64), film(9, 64)]))


STATE = {"name": "actor_critic", "chunk": CHUNK, "options": {"hidden": 32}}


def test_frames_of_another_size_are_averaged_and_it_is_said(tmp_path: Path) -> None:
    path = goal_file(tmp_path)
    write_libero(path, {0: 6}, size=128, lag=0)
    given = recipe(path, demonstrations=1)
    np.testing.assert_array_equal(read(given)[0].images["agentview"], film(6, 64))
    assert notices(select_demonstrations(given)) == [f"frames of {camera} are resized from 128x128 to 64x64" for camera in ("agentview", "robot0_eye_in_hand")]


def test_a_resized_pixel_is_the_mean_of_its_area() -> None:
    board = np.indices((8, 8)).sum(0) % 2 * np.uint8(200)
    np.testing.assert_array_equal(resized(board[..., None].astype(np.uint8), 4, 2), np.full((4, 2, 1), 100))


def test_a_mix_is_filled_up_as_its_simulators_are(tmp_path: Path) -> None:
    write_libero(goal_file(tmp_path), {0: 6}, lag=0)
    written = write_maniskill(tmp_path / "trajectory.h5", [5])
    tree = recipe(goal_file(tmp_path), tmp_path / "trajectory.h5", demonstrations=1).model_dump()
    arm = {"name": ARM, "shards": 1}
    tree["simulators"] = {"a": {**arm, "tasks": [BOWL]}, "b": {**arm, "tasks": ["PickCube-v1"], "options": {"cameras": [], "action": 4}}}
    del tree["simulator"]
    observations, chunks = read(make_recipe(tree))
    np.testing.assert_array_equal(chunks[6:, :, :4], labels(written[0][1]))
    assert not chunks[6:, :, 4:].any() and not observations.images["agentview"][6:].any() and observations.images["agentview"][:6].any()


def test_a_few_actions_outside_are_clipped_and_more_are_refused(tmp_path: Path) -> None:
    path = goal_file(tmp_path)
    ((_, actions),) = write_libero(path, {0: 20}, lag=0, scale=1.4)
    count = int((np.abs(actions * np.float32(1.4)) > 1.0001).sum())
    assert 2 < count < 100
    with pytest.raises(RecipeError, match=rf"{count} of 140 action numbers .* outside -1 to 1, most of them in .*demo_0.*At most 1% may be"):
        check_actions(select_demonstrations(recipe(path, demonstrations=1)))
    ((_, actions),) = write_libero(path, {0: 20}, lag=0, scale=1 / np.partition(np.abs(actions).ravel(), -2)[-2] * 1.0)
    given = recipe(path, demonstrations=1)
    assert "1 of 140 action numbers" in str(check_actions(select_demonstrations(given)))
    assert np.abs(read(given)[1]).max() == 1


def test_nothing_is_held_twice(tmp_path: Path) -> None:
    path = goal_file(tmp_path)
    write_libero(path, dict.fromkeys(range(2), 900))
    given = recipe(path)
    tracemalloc.start()
    observations, _ = read(given)
    held, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert sum(image.nbytes for image in observations.images.values()) > 40e6
    assert peak < 1.1 * held


def write_text(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def truncate(path: Path, share: float) -> int:
    return path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])


BAD: dict[str, tuple[Any, dict[str, Any], str]] = {
    "nothing there": (lambda path: None, {}, "nothing is at .*bowl_on_the_plate_demo.hdf5"),
    "another format": (lambda path: write_text(path, "hello"), {}, "demo.hdf5 has no known format of demonstrations. Known formats are LIBERO's"),
    "cut short": (lambda path: (write_libero(path, {0: 5}), truncate(path, 0.5)), {}, "demo.hdf5 is not an intact HDF5 file"),
    "no such camera": (
        lambda path: write_libero(path, {0: 5}, leave_out=["obs/agentview_rgb"]),
        {},
        "demo_0 has no obs/agentview_rgb: write its name .*layout.cameras",
    ),
    "no actions": (lambda path: write_libero(path, {0: 5}, leave_out=["actions"]), {}, "demo_0 has no actions"),
    "another state": (lambda path: write_libero(path, {0: 5}), {"options": {"state": 9}}, r"obs/gripper_states 2 = 8 numbers, and the simulator's state has 9"),
    "another action": (lambda path: write_libero(path, {0: 5}), {"options": {"action": 4}}, "actions has 7 numbers in an action, and the simulator takes 4"),
    "shorter than a chunk": (lambda path: write_libero(path, {0: 3}), {}, "demo_0 has 2 steps, fewer than one chunk of policy.chunk=3"),
    "another task": (
        lambda path: write_libero(path, {0: 5}),
        {"tasks": ("dance",)},
        "0 of 1 demonstrations of dance .*they are of 'put_the_bowl_on_the_plate'",
    ),
    "only failures": (lambda path: write_libero(path, {0: 5}, failed=[0]), {}, "1 episodes of it, none of them a success"),
}


@pytest.mark.parametrize("what", BAD)
def test_what_headers_tell_is_refused_before_the_run(tmp_path: Path, what: str) -> None:
    make, settings, said = BAD[what]
    make(goal_file(tmp_path))
    with pytest.raises(RecipeError, match=said):
        preflight(recipe(goal_file(tmp_path), demonstrations=1, **settings), clones=True)


def test_maniskill_files_of_another_controller_or_without_observations_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "trajectory.h5"
    options = {"cameras": [], "action": 4, "control_mode": "pd_ee_delta_pose"}
    write_maniskill(path, [5])
    with pytest.raises(RecipeError, match=r"control mode pd_joint_delta_pos, and the simulator of PickCube-v1 takes pd_ee_delta_pose"):
        select_demonstrations(recipe(path, demonstrations=1, tasks=("PickCube-v1",), options=options))
    write_maniskill(path, [5], obs=False)
    with pytest.raises(RecipeError, match="traj_0 holds actions and no observations: replay the file with"):
        select_demonstrations(recipe(path, demonstrations=1, tasks=("PickCube-v1",), options=options))
    path.with_suffix(".json").unlink()
    with pytest.raises(RecipeError, match=r"trajectory.json cannot be read: No such file .* put the two files together"):
        select_demonstrations(recipe(path, tasks=("PickCube-v1",), options=options))


def test_lerobot_datasets_that_are_not_whole_are_refused(tmp_path: Path) -> None:
    given = recipe(tmp_path, tasks=("stack_the_blocks",), demonstrations=1, options={"cameras": ["agentview"]})
    write_lerobot(tmp_path, [5], video=True)
    film_file = next(tmp_path.rglob("*.mp4"))
    truncate(film_file, 0.3)
    with pytest.raises(RecipeError, match=r"episode_000000.mp4 cannot be decoded"):
        read(given)
    listed = tmp_path / "meta/episodes.jsonl"
    write_text(listed, listed.read_text().replace('"length": 5', '"length": 6'))
    with pytest.raises(RecipeError, match=r"episode_000000.parquet holds 5 steps of episode 0, and meta says 6"):
        read(given)
    film_file.unlink()
    with pytest.raises(RecipeError, match=r"episode 0 needs .*episode_000000.mp4, which does not exist"):
        preflight(given, clones=True)
    info = json.loads((tmp_path / "meta/info.json").read_text())
    write_text(tmp_path / "meta/info.json", json.dumps(info | {"codebase_version": "v1.6"}))
    with pytest.raises(RecipeError, match=r"version 'v1.6'. Versions v2.0 to v3.x can be read"):
        preflight(given, clones=True)


def test_layout_without_files_is_refused() -> None:
    with pytest.raises(RecipeError, match=r"clone.files names none"):
        recipe(layout={"actions": "action"})


def test_refusals_need_no_torch_and_name_the_file(tmp_path: Path) -> None:
    write_libero(goal_file(tmp_path), {0: 5})
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe(goal_file(tmp_path), demonstrations=2).model_dump(mode="json")))
    refused = rlvla3_process("clone", tmp_path / "recipe.yaml", without=["torch"])
    assert refused.returncode == 2 and "1 of 2 demonstrations" in refused.stderr, refused.stderr


def taught(given: Recipe, steps: int) -> tuple[float, list[float], dict[str, torch.Tensor]]:
    """Clone in `steps`: the mean error of the policy's actions on what it was shown, as a share of their size; the losses; and the weights."""
    assert given.clone is not None
    spaces = common_spaces(given)
    torch.manual_seed(0)
    torch.set_num_threads(1)
    policy = make_policy(given.policy, spaces)
    demonstrations = DemonstrationSelection(spaces, CHUNK, given.tasks, given.clone.demonstrations)
    for number, demonstration in enumerate(select_demonstrations(given)):
        demonstrations.add(number, demonstration)
    losses = [loss for _, loss in clone(policy, demonstrations, given.clone.model_copy(update={"steps": steps}), seed=0)]
    observations, actions = demonstrations.tensors()
    noise = torch.zeros(len(actions), *policy.options.noise_shape(spaces, CHUNK))
    decided = policy.act(observations, noise, torch.zeros(len(actions), dtype=torch.bool)).actions
    return float((decided - actions).abs().mean() / actions.abs().mean()), losses, policy.state_dict()


def learnable(folder: Path, form: str) -> Recipe:
    """A recipe with two short demonstrations of one format."""
    quick: dict[str, Any] = {"learning_rate": 0.02, "batch": 16}
    if form == "libero":
        write_libero(goal_file(folder), {0: 10, 1: 12})
        return recipe(goal_file(folder), options={"cameras": ["agentview"]}, **quick)
    if form == "maniskill":
        write_maniskill(folder / "trajectory.h5", [10, 12])
        return recipe(folder / "trajectory.h5", tasks=("PickCube-v1",), options={"cameras": [], "action": 4}, policy=STATE, **quick)
    write_lerobot(folder, [10, 12], version="v3.0", video=True)
    return recipe(folder, tasks=("stack_the_blocks",), options={"cameras": ["agentview"]}, **quick)


@pytest.mark.slow
@pytest.mark.parametrize("form", ["libero", "maniskill", "lerobot"])
def test_a_policy_learns_to_act_like_the_demonstrations(tmp_path: Path, form: str) -> None:
    error, losses, _ = taught(learnable(tmp_path, form), steps=150)
    assert np.mean(losses[-10:]) < 0.5 * np.mean(losses[:3])
    assert error < 0.6  # doing nothing is 1


def test_the_same_files_and_seed_give_the_same_weights(tmp_path: Path) -> None:
    given = learnable(tmp_path, "libero")
    (_, losses, weights), (_, again, same) = taught(given, steps=10), taught(given, steps=10)
    assert again == losses and all(torch.equal(weights[key], same[key]) for key in weights)


def record_libero(path: Path, task: str, steps: int) -> None:
    """Act in the real simulator, and write a file as LIBERO's script does, with what a policy would have seen beside it."""
    simulator = Libero(libero_config(task), chunk=1)
    first = simulator.reset(0, libero_ticket(task, 0))
    sim, robot = simulator._scene._environment.sim, simulator._scene._robot
    actions = np.random.default_rng(0).uniform(-1, 1, (steps, 7)).astype(np.float32)
    seen, flat, joints = [first], [], []
    for action in actions:
        flat.append(sim.get_state().flatten())
        outcome = simulator.step({0: action[None]})[0]
        joints.append(np.array(sim.data.qpos[robot._ref_joint_pos_indexes]))
        assert outcome.observation is not None
        seen.append(outcome.observation)
    saved: dict[str, Any] = {"state": [one.state for one in seen], "actions": actions} | {name: [one.images[name] for one in seen] for name in first.images}
    np.savez(path.with_suffix(".npz"), **saved)
    path.parent.mkdir(exist_ok=True)
    with h5py.File(path, "w") as file:
        file.create_group("data").attrs["bddl_file_name"] = f"bddl_files/{find_task(task)}.bddl"
        file["data"].attrs["problem_info"] = json.dumps({"language_instruction": find_task(task).instruction})
        file["data"].attrs["macros_image_convention"] = "opengl"
        states = np.array([one.state for one in seen[1:]])
        frames = {name: np.array([one.images[name][::-1] for one in seen[1:]]) for name in first.images}
        obs = {"ee_pos": states[:, :3], "ee_ori": states[:, 3:6], "gripper_states": states[:, 6:], "joint_states": np.array(joints)}
        obs |= {"agentview_rgb": frames["agentview"], "eye_in_hand_rgb": frames["robot0_eye_in_hand"]}
        for name, array in (
            {f"obs/{name}": array for name, array in obs.items()} | {"actions": actions, "states": np.array(flat), "rewards": np.eye(steps)[-1]}
        ).items():
            file[f"data/demo_0/{name}"] = array


@pytest.mark.slow
@libero_installed
def test_a_file_of_the_real_libero_shows_what_its_simulator_shows(tmp_path: Path) -> None:
    path, task = tmp_path / "libero_goal" / "any_demo.hdf5", "libero_goal/7"
    path.parent.mkdir()
    in_fresh_process(record_libero, path, task, 12)
    tree = recipe(path, demonstrations=1, learning_rate=0.01, batch=16).model_dump()
    tree["simulator"] = libero_config(task).model_dump()
    tree["policy"]["options"]["instruction_bytes"] = 72
    given = make_recipe(tree)
    observations, chunks = read(given)
    with np.load(path.with_suffix(".npz")) as shown:
        for camera, images in observations.images.items():
            np.testing.assert_array_equal(images, shown[camera][1:-1])
        np.testing.assert_array_equal(observations.state, shown["state"][1:-1])
        np.testing.assert_array_equal(chunks, labels(shown["actions"][1:]))
    assert set(observations.instructions) == {find_task(task).instruction}
    _, losses, _ = taught(given, steps=40)
    assert np.mean(losses[-10:]) < 0.8 * np.mean(losses[:3])


@pytest.mark.slow
def test_clone_keeps_its_policy_before_any_simulator_starts_and_evaluates_it_then(tmp_path: Path) -> None:
    write_libero(goal_file(tmp_path), {0: 10, 1: 12}, size=80)
    kept = tmp_path / "run/checkpoints/000000/policy/model.safetensors"
    tree = recipe(goal_file(tmp_path), steps=5, options={"only_after": str(kept)}).model_dump(mode="json") | {"evaluation": {"episodes": 2}}
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(tree))
    ended = rlvla3_process("clone", tmp_path / "recipe.yaml", "--run-dir", tmp_path / "run")
    assert ended.returncode == 0, ended.stderr
    records = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    assert [record["event"] for record in records].count("evaluation") == 1
    assert "resized from 80x80 to 64x64" in ended.stdout and "paired with the next action" in ended.stdout, ended.stdout
