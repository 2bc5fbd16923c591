"""Recorded actions that mean something else: each is found, the advised setting mends it, and right recordings pass without a word."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import yaml
from numpy.typing import NDArray

from rlvla3.config import Recipe, make_recipe
from rlvla3.demonstrations.demonstration_file import DemonstrationError, RecordedWith
from rlvla3.demonstrations.meaning import check_meaning
from rlvla3.demonstrations.selection import notices, select_demonstrations
from rlvla3.errors import RecipeError
from rlvla3.preflight import preflight
from rlvla3.simulators.action_meaning import OSC_POSE, ActionMeaning, Gripper, Motion
from tests.support.demonstration_files import Arm, write_lerobot, write_maniskill
from tests.support.memory_demonstrations import Recording, arm_recording, in_memory

Array = NDArray[Any]
Edit = Callable[[Array, Array], Array]

JOINTS = ActionMeaning(20.0, motions=tuple(Motion(joint, joint, 0.1, 0.1) for joint in range(3)))
EFFORT = ActionMeaning(gripper=Gripper(6, {6: 1.0, 7: -1.0}, closes=1, both_ways=False))
OPENS = ActionMeaning(gripper=Gripper(6, {6: 1.0, 7: -1.0}, closes=-1))
NO_FINGERS = ActionMeaning(gripper=Gripper(6, {0: 0.0}, closes=1))


@dataclass
class Case:
    """edit: the recorded actions, from the states and the simulator's actions. refused: words of the refusal, or of what is said where `only_said`.

    mends: whether the advised setting gives the simulator's actions back.
    """

    edit: Edit
    words: str
    meaning: ActionMeaning = OSC_POSE
    said: RecordedWith = field(default_factory=RecordedWith)
    layout: dict[str, Any] = field(default_factory=dict)
    only_said: bool = False
    mends: bool = True
    every: int = 1


def scaled(numbers: Sequence[int], factor: float, offset: float = 0.0) -> Edit:
    def edit(states: Array, actions: Array) -> Array:
        found = actions.copy()
        found[:, list(numbers)] = found[:, list(numbers)] * factor + offset
        return found

    return edit


def goals(states: Array, actions: Array) -> Array:
    """Targets of the hand's position, in metres."""
    found = actions.copy()
    found[:, :3] = states[:, :3] + 0.05 * actions[:, :3]
    return found


def whole_goals(states: Array, actions: Array) -> Array:
    """Targets of position and orientation."""
    rotation = pytest.importorskip("scipy.spatial.transform").Rotation
    found = goals(states, actions)
    found[:, 3:6] = (rotation.from_rotvec(0.5 * actions[:, 3:6]) * rotation.from_rotvec(states[:, 3:6])).as_rotvec()
    return found


def reached(states: Array, actions: Array) -> Array:
    """The next position instead of an action, as some datasets have it."""
    found = actions.copy()
    found[:-1, :3] = states[1:, :3]
    found[-1, :3] = states[-1, :3]
    return found


def normalised(states: Array, actions: Array) -> Array:
    found = reached(states, actions)
    found[:, :3] = (found[:, :3] - [0.1, 0.0, 1.0]) * 1.5
    return found


def same(states: Array, actions: Array) -> Array:
    return actions


WRONG: dict[str, Case] = {
    "gripper 0 and 1": Case(scaled([6], 0.5, 0.5), r"data/demo.hdf5, 0 has a gripper .* of 0 and 1, .* fingers say that 1 closes"),
    "gripper 1 and 0": Case(scaled([6], -0.5, 0.5), r"of 0 and 1, .* fingers say that 1 opens", mends=False),
    "gripper 0 and 255": Case(scaled([6], 127.5, 127.5), r"of 0 and 255, .*action_ranges={6: \[0, 255\]} if 255 closes"),
    "gripper 0 and 0.04": Case(scaled([6], 0.02, 0.02), r"of 0 and 0.04, .*action_ranges={6: \[0, 0.04\]}"),
    "gripper -1 and 0": Case(scaled([6], 0.5, -0.5), r"of -1 and 0, .*action_ranges={6: \[-1, 0\]}"),
    "gripper 0 and 100": Case(scaled([6], 50, 50), r"of 0 and 100"),
    "gripper 1 and 2": Case(scaled([6], 0.5, 1.5), r"of 1 and 2"),
    "gripper 0 and 1 where 1 opens": Case(
        scaled([6], -0.5, 0.5), r"takes 1 to open and -1 to close.* if 1 opens.* fingers say that 1 opens", OPENS, mends=False
    ),
    "gripper 0 and 1, fingers not in the state": Case(scaled([6], 0.5, 0.5), r"\[1, 0\]} if 1 opens$", NO_FINGERS),
    "gripper the other way": Case(scaled([6], -1), r"gripper \(number 6 of an action\) that does the opposite.*fingers move the other way"),
    "gripper as a force, the other way": Case(scaled([6], -0.6), "does the opposite", EFFORT, mends=False),
    "x the other way": Case(scaled([0], -1), r"number 0 would move the arm the other way.*action_ranges={0: \[1, -1\]}"),
    "y the other way": Case(scaled([1], -1), r"action_ranges={1: \[1, -1\]}"),
    "z the other way": Case(scaled([2], -1), r"action_ranges={2: \[1, -1\]}"),
    "rotated by 180 degrees": Case(scaled([0, 1], -1), r"number 0 and number 1 .*action_ranges={0: \[1, -1\], 1: \[1, -1\]}"),
    "every axis the other way": Case(scaled([0, 1, 2], -1), r"number 0 and number 1 and number 2"),
    "in metres": Case(scaled([0, 1, 2], 0.05), r"another unit: .* times as far as the simulator can: .*{0: \[-0.05, 0.05\], 1: \[-0.05, 0.05\], 2"),
    "in tenths": Case(scaled([0, 1, 2], 0.1), "another unit", mends=False),
    "in half the unit": Case(scaled([0, 1, 2], 0.4), "times as far as the simulator can", only_said=True),
    "goals in metres": Case(goals, "they are targets, and the simulator takes changes: set clone.layout.absolute_actions=true", mends=False),
    "goals of the whole pose": Case(whole_goals, "they are targets"),
    "the next position": Case(reached, "they are targets", mends=False),
    "the next position, normalised": Case(normalised, "they are targets", mends=False),
    "header: targets": Case(same, "control_delta is false", said=RecordedWith(targets=True), mends=False),
    "header: another controller": Case(same, "the controller JOINT_POSITION, and", said=RecordedWith(controller="JOINT_POSITION"), mends=False),
    "header: a smaller unit": Case(scaled([0, 1, 2], 2), r"\[0.025, 0.025, 0.025\] m .*0: \[-2, 2\]", said=RecordedWith(units=(0.025,) * 3 + (0.5,) * 3)),
    "header: another rate": Case(same, "the file says 10 actions a second, and the simulator takes 20", said=RecordedWith(rate_hz=10.0), only_said=True),
    "header: a higher rate": Case(same, "the file says 50 actions a second", said=RecordedWith(rate_hz=50.0), only_said=True),
    "half of the steps and a header that says so": Case(
        same, "says 10 actions a second.* and an action of 1 moves the state", said=RecordedWith(10.0, rate_is_exact=False), only_said=True, every=2
    ),
    "half of the steps": Case(same, r"an action of 1 moves the state (1\.[5-9]|2\.0) times as far.*steps are missing", only_said=True, every=2),
    "a third of the steps": Case(same, r"an action of 1 moves the state (2\.[5-9]|3\.0) times as far", only_said=True, every=3),
    "a rate and no motion that shows": Case(same, "says 10 actions a second", ActionMeaning(20.0), RecordedWith(10.0, rate_is_exact=False), only_said=True),
    "the recipe turns what was right": Case(same, "does the opposite.*The recipe says how it is meant", layout={"action_ranges": {6: [1, -1]}}, only_said=True),
    "the recipe calls targets changes": Case(goals, "targets.*The recipe says", layout={"absolute_actions": False}, only_said=True),
    "the recipe turns an axis that was right": Case(same, "the other way.*The recipe", layout={"action_ranges": {0: [1, -1]}}, only_said=True),
}


def recordings(case: Case) -> list[Recording]:
    found = [arm_recording(seed, smooth=12 if case.every > 1 else 6) for seed in range(3)]
    return [(states[:: case.every], case.edit(states, actions)[:: case.every]) for states, actions in found]


@pytest.mark.parametrize("name", WRONG)
def test_another_meaning_is_found(name: str) -> None:
    case = WRONG[name]
    demonstrations = in_memory(recordings(case), case.meaning, case.said, **case.layout)
    if case.only_said:
        (sentence,) = check_meaning(demonstrations)
        assert re.search(case.words, sentence), sentence
        return
    with pytest.raises(DemonstrationError, match=case.words):
        check_meaning(demonstrations)


def advised(words: str) -> dict[str, Any]:
    """The last setting that a refusal advises, as the command line reads it. Where it gives a choice, the first is meant."""
    key, value = re.findall(r"clone\.layout\.(action_ranges|absolute_actions)[^{t]*=?({[^}]*}|true)", words)[-1]
    return {key: yaml.safe_load(value)}


@pytest.mark.parametrize("name", [name for name, case in WRONG.items() if not case.only_said and case.mends])
def test_the_advised_setting_gives_the_simulators_actions_back(name: str) -> None:
    case = WRONG[name]
    with pytest.raises(DemonstrationError) as refusal:
        check_meaning(in_memory(recordings(case), case.meaning, case.said))
    if "units of the state, it is" in str(refusal.value):
        setting = {"action_ranges": yaml.safe_load(str(refusal.value).rpartition("it is ")[2])}
    else:
        setting = advised(str(refusal.value).partition(" if ")[0])
    mended = in_memory(recordings(case), case.meaning, case.said, **setting)
    for demonstration, seed in zip(mended, range(3), strict=True):
        np.testing.assert_allclose(demonstration.actions, arm_recording(seed)[1], atol=2e-4)
    if not case.said.units:
        assert check_meaning(mended) == []


RIGHT: dict[str, Case] = {
    "as recorded": Case(same, ""),
    "the right header": Case(same, "", said=RecordedWith(20.0, True, "OSC_POSE", False, (0.05,) * 3 + (0.5,) * 3)),
    "a LeRobot dataset that says 10 and has every step": Case(same, "", said=RecordedWith(10.0, rate_is_exact=False)),
    "a gripper that is always closed": Case(lambda states, actions: scaled([6], 0, 1)(states, actions), ""),
    "a gripper that is always at rest": Case(scaled([6], 0), ""),
    "a continuous gripper": Case(lambda states, actions: actions * np.linspace(0.3, 1, len(actions))[:, None], ""),
    "a gripper as a force of 0 and 0.6": Case(scaled([6], 0.3, 0.3), "", EFFORT),
    "an arm that stands still": Case(scaled([0, 1, 2], 0), ""),
    "slow motions": Case(same, ""),
    "a simulator that says nothing": Case(scaled(range(7), -0.05, 0.02), "", ActionMeaning()),
}


@pytest.mark.parametrize("name", RIGHT)
def test_right_recordings_pass_without_a_word(name: str) -> None:
    case = RIGHT[name]
    assert check_meaning(in_memory(recordings(case), case.meaning, case.said)) == []


@pytest.mark.parametrize("smooth", [1, 2, 5, 12, 40])
def test_right_recordings_of_any_smoothness_and_length_pass(smooth: int) -> None:
    for seed in range(12):
        for count, steps in ((1, 20), (1, 90), (4, 60)):
            found = [arm_recording(100 * seed + number, steps, smooth) for number in range(count)]
            assert check_meaning(in_memory(found, OSC_POSE)) == []


def test_one_episode_of_a_merged_dataset_is_found() -> None:
    mixed = [arm_recording(seed) for seed in range(4)]
    mixed[2] = mixed[2][0], scaled([6], 0.5, 0.5)(*mixed[2])
    with pytest.raises(DemonstrationError, match=r"demo.hdf5, 2 has a gripper"):
        check_meaning(in_memory(mixed, OSC_POSE))


IMPOSSIBLE: dict[str, tuple[dict[str, Any], ActionMeaning, str]] = {
    "a number beyond the action": ({"action_ranges": {7: [0, 1]}}, OSC_POSE, "number 7 of an action, and the simulator's numbers are 0 to 6"),
    "targets of unknown states": ({"absolute_actions": True}, ActionMeaning(), "it is not known which state this simulator's actions change"),
    "both at once": ({"absolute_actions": True, "action_ranges": {1: [0, 1]}}, OSC_POSE, "converts already"),
}


@pytest.mark.parametrize("name", IMPOSSIBLE)
def test_conversions_that_are_not_possible_are_refused(name: str) -> None:
    layout, meaning, words = IMPOSSIBLE[name]
    with pytest.raises(RecipeError, match=words):
        in_memory([arm_recording(0)], meaning, **layout)


@pytest.mark.parametrize("layout", [{}, {"absolute_actions": True}, {"action_ranges": {6: [0, 1e-30], 0: [-1e300, 1e300]}}])
@pytest.mark.parametrize("steps", [1, 2, 3, 5, 61])
@pytest.mark.filterwarnings("error")
def test_numbers_of_any_size_give_an_answer(steps: int, layout: dict[str, Any]) -> None:
    for seed, value in enumerate((0.0, 1e-40, 1e30, -3e38)):
        states, actions = arm_recording(seed, 61)
        for edited, number in itertools.product((states, actions), (0, 6)):
            edited[:, number] = value
            try:
                check_meaning(in_memory([(states[:steps], actions[:steps])], OSC_POSE, **layout))
            except RecipeError:
                continue


def recipe(path: Path, tasks: list[str], **layout: Any) -> Recipe:
    return make_recipe(
        {
            "simulator": {"name": f"{Arm.__module__}:Arm", "tasks": tasks, "max_steps": 200, "options": {"cameras": [], "osc": True}},
            "policy": {"name": "actor_critic", "chunk": 2, "options": {"hidden": 8}},
            "clone": {"demonstrations": 1, "files": [str(path)], "layout": layout},
        }
    )


def test_ranges_without_width_are_refused(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"number 6 has the range .* and its two ends must differ"):
        recipe(tmp_path, ["stack_the_blocks"], action_ranges={6: [1, 1]})


def libero_file(path: Path, recording: Recording, **environment: Any) -> None:
    states, actions = recording
    with h5py.File(path, "w") as file:
        file.create_group("data").attrs["env_args"] = json.dumps({"env_name": "Libero", "env_kwargs": {"robots": ["Panda"], **environment}})
        arrays = {
            "actions": actions,
            "obs/ee_pos": states[:, :3],
            "obs/ee_ori": states[:, 3:6],
            "obs/gripper_states": states[:, 6:],
            "rewards": np.eye(len(states))[-1],
        }
        for name, array in arrays.items():
            file[f"data/demo_0/{name}"] = array


OSC = {"type": "OSC_POSE", "control_delta": True, "output_max": [0.05, 0.05, 0.05, 0.5, 0.5, 0.5], "input_max": 1}
HEADERS: dict[str, tuple[dict[str, Any], str]] = {
    "right": ({"control_freq": 20, "controller_configs": OSC}, ""),
    "nothing": ({}, ""),
    "no controller": ({"controller_configs": None}, ""),
    "of robosuite 1.5": ({"controller_configs": {"type": "BASIC", "body_parts": {}}}, ""),
    "one number for all": ({"controller_configs": {**OSC, "output_max": 1}}, ""),
    "another rate": ({"control_freq": 10, "controller_configs": OSC}, "says 10 actions a second"),
    "targets": ({"controller_configs": {**OSC, "control_delta": False}}, "refused: .*control_delta is false"),
    "joints": ({"controller_configs": {**OSC, "type": "JOINT_POSITION"}}, "refused: .*controller JOINT_POSITION"),
    "another unit": ({"controller_configs": {**OSC, "output_max": [0.1, 0.1, 0.1, 0.5, 0.5, 0.5]}}, r"refused: .*0.1, 0.1.*{0: \[-0.5, 0.5\]"),
    "no number": ({"control_freq": "fast"}, "refused: .*env_args of data: env_kwargs.control_freq is 'fast'"),
}


@pytest.mark.parametrize("name", HEADERS)
def test_headers_of_libero_files_are_compared(tmp_path: Path, name: str) -> None:
    environment, words = HEADERS[name]
    libero_file(tmp_path / "stack_the_blocks_demo.hdf5", arm_recording(0), **environment)
    given = recipe(tmp_path / "*.hdf5", ["stack_the_blocks"])
    if not words.startswith("refused"):
        said = notices(select_demonstrations(given))
        assert len(said) == bool(words) and re.search(words, "".join(said)), said
        return
    with pytest.raises(RecipeError, match=words.removeprefix("refused: ")):
        preflight(given, clones=True)


def test_a_gripper_of_0_and_1_is_refused_before_the_run_and_mended_by_the_setting(tmp_path: Path) -> None:
    """The case of issue 15, from the file to the labels."""
    states, actions = arm_recording(1)
    libero_file(tmp_path / "stack_the_blocks_demo.hdf5", (states, scaled([6], 0.5, 0.5)(states, actions)))
    with pytest.raises(RecipeError, match=r"demo_0 has a gripper .* set clone.layout.action_ranges={6: \[0, 1\]} if 1 closes"):
        preflight(recipe(tmp_path / "*.hdf5", ["stack_the_blocks"]), clones=True)
    mended = make_recipe(json.loads(json.dumps(recipe(tmp_path / "*.hdf5", ["stack_the_blocks"], action_ranges={6: [0, 1]}).model_dump(mode="json"))))
    preflight(mended, clones=True)
    (demonstration,) = select_demonstrations(mended)
    rows = {"state": np.zeros((120, 8), np.float32), "elapsed": np.zeros(120, np.float32), "actions": np.zeros((120, 2, 7), np.float32)}
    demonstration.fill(rows)
    np.testing.assert_allclose(rows["actions"][:, 0], actions, atol=1e-6)


def test_rates_of_lerobot_and_maniskill_are_read(tmp_path: Path) -> None:
    write_lerobot(tmp_path / "data", [5])
    (found,) = select_demonstrations(recipe(tmp_path / "data", ["stack_the_blocks"]))
    assert found.file.recorded_with() == RecordedWith(10.0, rate_is_exact=False)
    path = tmp_path / "t.h5"
    write_maniskill(path, [5])
    described = json.loads(path.with_suffix(".json").read_text())
    described["env_info"]["env_kwargs"]["sim_config"] = {"control_freq": 40}
    path.with_suffix(".json").write_text(json.dumps(described))
    given = recipe(path, ["PickCube-v1"]).model_dump()
    given["simulator"]["options"] = {"cameras": [], "action": 4}
    (found,) = select_demonstrations(make_recipe(given))
    assert found.file.recorded_with() == RecordedWith(40.0)
