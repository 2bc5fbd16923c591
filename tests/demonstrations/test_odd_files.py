"""Odd episodes, and files that are damaged or say odd things of themselves: the right episodes are used, or one sentence names the file and the key."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pyarrow
import pyarrow.parquet
import pytest

from rlvla3.config import Recipe, make_recipe
from rlvla3.demonstrations.demonstration_file import DemonstrationError
from rlvla3.demonstrations.file_demonstration import FileDemonstration
from rlvla3.demonstrations.selection import check_actions, notices, select_demonstrations
from rlvla3.simulators.common_spaces import common_spaces
from rlvla3.training.cloning import DemonstrationSelection
from tests.support.demonstration_files import Arm, write_lerobot, write_libero, write_maniskill

CHUNK = 3
BOWL = "libero_goal/put_the_bowl_on_the_plate"
ARM = f"{Arm.__module__}:Arm"


def recipe(form: str, path: Path, demonstrations: int = 2, **clone: Any) -> Recipe:
    task = {"libero": BOWL, "maniskill": "PickCube-v1"}.get(form, "stack_the_blocks")
    options = {"libero": {}, "maniskill": {"cameras": [], "action": 4}}.get(form, {"cameras": ["agentview"]})
    return make_recipe(
        {
            "simulator": {"name": ARM, "tasks": [task], "shards": 1, "options": options},
            "policy": {"name": "actor_critic", "chunk": CHUNK, "options": {"hidden": 8}},
            "clone": {"demonstrations": demonstrations, "files": [str(path)], **clone},
        }
    )


def written(form: str, folder: Path, steps: tuple[int, ...] = (5, 6, 7), **how: Any) -> Path:
    """The file or folder of a format, with episodes of so many steps."""
    if form == "libero":
        write_libero(folder / f"{BOWL}_demo.hdf5", dict(enumerate(steps)), lag=0, **how)
        return folder / f"{BOWL}_demo.hdf5"
    if form == "maniskill":
        write_maniskill(folder / "trajectory.h5", steps, **how)
        return folder / "trajectory.h5"
    write_lerobot(folder, steps, version=form, **how)
    return folder


def used(given: Recipe) -> list[FileDemonstration]:
    """The selected demonstrations. All of them are read, as the trainer reads them."""
    assert given.clone is not None
    selected = select_demonstrations(given)
    check_actions(selected)
    demonstrations = DemonstrationSelection(common_spaces(given), given.policy.chunk, given.tasks, given.clone.demonstrations)
    for number, demonstration in enumerate(selected):
        demonstrations.add(number, demonstration)
    demonstrations.tensors()
    return selected


FORMS = ("libero", "maniskill", "v2.1", "v3.0")


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("steps", [(2, 6, 7), (6, 1, 7), (6, 7, 2)])
def test_a_short_episode_is_left_out_and_the_others_are_used(tmp_path: Path, form: str, steps: tuple[int, ...]) -> None:
    selected = used(recipe(form, written(form, tmp_path, steps)))
    assert [one.decisions for one in selected] == [6, 7]
    too_short = min(steps)
    said = [text for text in notices(selected) if "left out" in text]
    if steps[-1] != too_short:  # else it was not looked at
        assert f"has {too_short} steps, fewer than one chunk of policy.chunk=3" in said[0]
    with pytest.raises(DemonstrationError, match=rf"2 of 3 demonstrations .*1 more cannot be used: .*has {too_short} steps.*: set clone.demonstrations=2"):
        used(recipe(form, tmp_path / selected[0].file.path.relative_to(tmp_path), demonstrations=3))


def empty(form: str, path: Path) -> None:
    """Make episode 0 one of 0 steps."""
    if form in ("libero", "maniskill"):
        key = "data/demo_0" if form == "libero" else "traj_0"
        with h5py.File(path, "a") as file:
            names: list[str] = []
            file[key].visititems(lambda name, item: names.append(name) if isinstance(item, h5py.Dataset) else None)
            for name in names:
                nothing = np.asarray(file[key][name])[:0]
                del file[key][name]
                file[key][name] = nothing
        return
    edit_episodes(path, lambda lines: lines[0].update(length=0))
    for data in path.rglob("data/**/*.parquet"):
        table = pyarrow.parquet.read_table(data)
        kept = pyarrow.compute.not_equal(table["episode_index"], 0)
        pyarrow.parquet.write_table(table.filter(kept), data)


def edit_episodes(path: Path, edit: Callable[[list[dict[str, Any]]], object]) -> None:
    """Change what a LeRobot dataset says about its episodes."""
    lines_file = path / "meta/episodes.jsonl"
    if lines_file.is_file():
        lines = [json.loads(line) for line in lines_file.read_text().splitlines()]
        edit(lines)
        lines_file.write_text("".join(json.dumps(line) + "\n" for line in lines))
        return
    table_file = next((path / "meta/episodes").rglob("*.parquet"))
    lines = pyarrow.parquet.read_table(table_file).to_pylist()
    edit(lines)
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(lines), table_file)


@pytest.mark.parametrize("form", FORMS)
def test_an_episode_without_steps_is_left_out(tmp_path: Path, form: str) -> None:
    path = written(form, tmp_path)
    empty(form, path)
    assert [one.decisions for one in used(recipe(form, path))] == [6, 7]
    with pytest.raises(DemonstrationError, match=r"2 of 3 demonstrations"):
        used(recipe(form, path, demonstrations=3))


@pytest.mark.parametrize("number", [np.nan, np.inf, 1e300])
@pytest.mark.parametrize("name", ["actions", "obs/ee_pos"])
def test_an_episode_with_numbers_that_are_not_finite_is_left_out(tmp_path: Path, name: str, number: float) -> None:
    path = written("libero", tmp_path)
    with h5py.File(path, "a") as file:
        values = np.asarray(file[f"data/demo_1/{name}"], np.float64)
        values[2, 1] = number
        del file[f"data/demo_1/{name}"]
        file[f"data/demo_1/{name}"] = values
    selected = used(recipe("libero", path))
    assert [one.episode.key for one in selected] == ["demo_0", "demo_2"]
    assert [text for text in notices(selected) if f"demo_1 has 1 numbers in {name} that are not finite" in text]


def test_named_arrays_are_used_in_the_place_of_the_usual_ones(tmp_path: Path) -> None:
    path = written("libero", tmp_path)
    renamed = {"actions": "moves", "obs/ee_pos": "pose/position", "obs/ee_ori": "pose/axis", "obs/gripper_states": "fingers"}
    with h5py.File(path, "a") as file:
        for key in file["data"]:
            for old, new in renamed.items():
                file[f"data/{key}/{new}"] = file[f"data/{key}/{old}"][:]
                del file[f"data/{key}/{old}"]
    layout = {"state": ["pose/position", "pose/axis", "fingers"], "actions": "moves"}
    assert [one.decisions for one in used(recipe("libero", path, layout=layout))] == [5, 6]
    with pytest.raises(DemonstrationError, match=r"demo_0 has no actions.* name it under clone.layout"):
        used(recipe("libero", path))


def test_named_arrays_of_maniskill_are_used_in_the_place_of_the_usual_ones(tmp_path: Path) -> None:
    path = written("maniskill", tmp_path)
    with h5py.File(path, "a") as file:
        for key in file:
            file.move(f"{key}/obs", f"{key}/seen")
            file.move(f"{key}/actions", f"{key}/moves")
    assert [one.decisions for one in used(recipe("maniskill", path, layout={"state": ["seen"], "actions": "moves"}))] == [5, 6]


def test_an_empty_first_episode_does_not_change_how_observations_and_actions_are_paired(tmp_path: Path) -> None:
    path = tmp_path / f"{BOWL}_demo.hdf5"
    write_libero(path, {0: 5, 1: 6, 2: 7}, lag=1)
    empty("libero", path)
    assert [one.episode.first_action for one in used(recipe("libero", path))] == [1, 1]


def edit_info(edit: Callable[[dict[str, Any]], object]) -> Callable[[Path], None]:
    def change(path: Path) -> None:
        info = json.loads((path / "meta/info.json").read_text())
        edit(info)
        (path / "meta/info.json").write_text(json.dumps(info))

    return change


def text_of_info(text: str | bytes) -> Callable[[Path], object]:
    return lambda path: (path / "meta/info.json").write_bytes(text if isinstance(text, bytes) else text.encode())


def feature(**values: Any) -> Callable[[Path], None]:
    return edit_info(lambda info: info["features"]["action"].update(values))


def episode(**values: Any) -> Callable[[Path], None]:
    return lambda path: edit_episodes(path, lambda lines: lines[1].update(values))


def data(edit: Callable[[dict[str, list[Any]]], object]) -> Callable[[Path], None]:
    """Change the columns of the last data file."""

    def change(path: Path) -> None:
        file = sorted(path.rglob("data/**/*.parquet"))[-1]
        columns = pyarrow.parquet.read_table(file).to_pydict()
        edit(columns)
        pyarrow.parquet.write_table(pyarrow.table(columns), file)

    return change


LEROBOT: dict[str, tuple[Callable[[Path], object], str]] = {
    "a list": (text_of_info("[1, 2]"), r"info.json holds \[1, 2\], and must hold a mapping"),
    "half-written": (text_of_info('{"fps": 1'), "info.json is not JSON.*half-written"),
    "not text": (text_of_info(b"\xff\xfe\x00"), "info.json is not JSON"),
    "nested deep": (text_of_info("[" * 100_000), "more than 100 lists and mappings within one another"),
    "a number of 5,000 digits": (text_of_info('{"fps": ' + "9" * 5000 + "}"), "info.json is not JSON"),
    "no version": (edit_info(lambda info: info.pop("codebase_version")), "info.json: codebase_version is missing"),
    "a version that is a number": (edit_info(lambda info: info.update(codebase_version=2.1)), "codebase_version is 2.1, and must be text"),
    "no fps": (edit_info(lambda info: info.pop("fps")), "info.json: fps is missing"),
    "fps of 0": (edit_info(lambda info: info.update(fps=0)), "fps is 0.*, and must be more than 0"),
    "fps of NaN": (edit_info(lambda info: info.update(fps=float("nan"))), "fps is nan, and must be a finite number"),
    "fps as text": (edit_info(lambda info: info.update(fps="ten")), "fps is 'ten', and must be a number"),
    "no features": (edit_info(lambda info: info.pop("features")), "info.json: features is missing"),
    "features as a list": (edit_info(lambda info: info.update(features=[1])), r"features is \[1\], and must be a mapping"),
    "a feature that is text": (edit_info(lambda info: info["features"].update(action="float32")), "features.action is 'float32', and must be a mapping"),
    "no shape": (edit_info(lambda info: info["features"]["action"].pop("shape")), "info.json: features.action.shape is missing"),
    "no dtype": (edit_info(lambda info: info["features"]["action"].pop("dtype")), "info.json: features.action.dtype is missing"),
    "a shape of text": (feature(shape="7"), "features.action.shape is '7', and must be a list"),
    "a negative side": (feature(shape=[-7]), "features.action.shape.0 is -7, and must be 0 or more"),
    "an endless side": (feature(shape=[1e400]), "features.action.shape.0 is inf, and must be a whole number"),
    "actions of text": (feature(dtype="string"), "action holds no numbers"),
    "a path with an unknown hole": (edit_info(lambda info: info.update(data_path="data/{chunk}")), r"data_path.*a hole that cannot be filled: \{chunk\}"),
    "a path with a nameless hole": (edit_info(lambda info: info.update(data_path="data/{}")), r"data_path.*a hole that cannot be filled: \{\}"),
    "a path with an open hole": (edit_info(lambda info: info.update(data_path="data/{episode_index")), "data_path.*no template of a path"),
    "a path of a gigabyte": (edit_info(lambda info: info.update(data_path="d/{episode_index:0999999999d}")), "data_path.*a hole that cannot be filled"),
    "a path with an attribute": (edit_info(lambda info: info.update(data_path="{episode_index.real}")), "data_path.*a hole that cannot be filled"),
    "a path out of the dataset": (edit_info(lambda info: info.update(data_path="../x")), "data_path.*a path within the folder"),
    "a path to a device": (edit_info(lambda info: info.update(data_path="/dev/zero")), "data_path.*a path within the folder"),
    "a path that is null": (edit_info(lambda info: info.update(data_path=None)), "data_path is None, and must be text"),
    "a length of text": (episode(length="six"), "length is 'six', and must be a whole number"),
    "a negative length": (episode(length=-6), "length is -6, and must be 0 or more"),
    "a length without end": (episode(length=10**15), "length is 1000000000000000, and must be at most 1000000"),
    "no tasks": (episode(tasks=[]), "tasks is .*, and must be a list of 1 or more"),
    "tasks that are numbers": (episode(tasks=[7]), "tasks.* is 7, and must be text"),
    "an episode of another one's number": (episode(episode_index=0), "episode_index is 0, and another episode has that number"),
    "an episode number of text": (episode(episode_index="one"), "episode_index is 'one', and must be a whole number"),
    "actions that are narrower": (data(lambda columns: columns.update(action=[row[:6] for row in columns["action"]])), "action has 6 numbers .* has 7"),
    "actions of other lengths": (data(lambda columns: columns["action"].__setitem__(2, [0.0] * 9)), "action has rows of different lengths"),
    "actions that are missing": (data(lambda columns: columns["action"].__setitem__(2, None)), "action has rows of different lengths"),
    "actions that are words": (data(lambda columns: columns.update(action=["up"] * len(columns["action"]))), "action holds string, and must hold numbers"),
    "no column of actions": (data(lambda columns: columns.pop("action") and None), "action cannot be read"),
}


@pytest.mark.parametrize("what", LEROBOT)
def test_what_a_lerobot_dataset_says_wrongly_is_named_with_its_file_and_key(tmp_path: Path, what: str) -> None:
    change, said = LEROBOT[what]
    write_lerobot(tmp_path, [5, 6, 7])
    change(tmp_path)
    with pytest.raises(DemonstrationError, match=said) as caught:
        used(recipe("v2.1", tmp_path, demonstrations=3))
    assert str(tmp_path) in str(caught.value) and "\n" not in str(caught.value)


PLACES: dict[str, tuple[dict[str, Any], str]] = {
    "a chunk of text": ({"data/chunk_index": "0"}, "data: chunk_index is '0', and must be a whole number"),
    "no file": ({"data/file_index": None}, "data: file_index is None, and must be a whole number"),
    "a time before the beginning": (
        {"videos/observation.images.agentview/from_timestamp": -1.0},
        "observation.images.agentview: from_timestamp is -1.0, and must be 0.0 or more",
    ),
    "no time": ({"videos/observation.images.agentview/from_timestamp": float("nan")}, "from_timestamp is nan, and must be a finite number"),
}


@pytest.mark.parametrize("what", PLACES)
def test_what_version_3_says_wrongly_of_its_files_is_named(tmp_path: Path, what: str) -> None:
    wrong, said = PLACES[what]
    write_lerobot(tmp_path, [5, 6, 7], version="v3.0", video=True)
    edit_episodes(tmp_path, lambda lines: [line.update(wrong) for line in lines])
    with pytest.raises(DemonstrationError, match=f"row 0: .*{said}"):
        used(recipe("v3.0", tmp_path, demonstrations=3))


def replace(name: str, value: Any) -> Callable[[Path], None]:
    """Put `value` in the place of an array of the first episode."""

    def change(path: Path) -> None:
        with h5py.File(path, "a") as file:
            key = "data/demo_0" if "data" in file else "traj_0"
            del file[f"{key}/{name}"]
            if isinstance(value, h5py.SoftLink | h5py.ExternalLink) or value is not None:
                file[f"{key}/{name}"] = value

    return change


def attribute(name: str, value: Any) -> Callable[[Path], None]:
    def change(path: Path) -> None:
        with h5py.File(path, "a") as file:
            file["data"].attrs[name] = value

    return change


LIBERO: dict[str, tuple[Callable[[Path], None], str]] = {
    "problem_info that is no JSON": (attribute("problem_info", "{'a': 1"), "problem_info of data is not JSON"),
    "problem_info that is a list": (attribute("problem_info", "[1]"), r"problem_info of data holds \[1\], and must hold a mapping"),
    "problem_info with a number": (attribute("problem_info", '{"language_instruction": 7}'), "language_instruction is 7, and must be text or must be a list"),
    "problem_info that is not text": (attribute("problem_info", b"\xff\xfe{"), "problem_info of data"),
    "actions of text": (replace("actions", np.array([b"up"] * 5)), "actions holds no numbers"),
    "actions that are one number": (replace("actions", 7.0), "demo_0 has no actions"),
    "actions that are a link to nothing": (replace("actions", h5py.SoftLink("/nowhere")), "demo_0 has no actions"),
    "actions in another file": (replace("actions", h5py.ExternalLink("nowhere.hdf5", "/x")), "demo_0 has no actions"),
    "actions of one dimension": (replace("actions", np.zeros(5)), "actions has 1 numbers in an action, and the simulator takes 7"),
    "frames from 0 to 1": (replace("obs/agentview_rgb", np.zeros((5, 64, 64, 3), np.float32)), "agentview_rgb holds float32, and frames must be uint8"),
    "fewer frames": (replace("obs/agentview_rgb", np.zeros((4, 64, 64, 3), np.uint8)), "agentview_rgb has 4 entries for 5 observations"),
    "frames of no size": (replace("obs/agentview_rgb", np.zeros((5, 0, 64, 3), np.uint8)), r"agentview_rgb has entries of shape \[0, 64, 3\]"),
    "flat frames": (replace("obs/agentview_rgb", np.zeros((5, 64 * 64), np.uint8)), r"agentview_rgb has entries of shape \[4096\]"),
    "a state of text": (replace("obs/ee_pos", np.array([[b"a"] * 3] * 5)), "ee_pos holds no numbers"),
    "a state that is a group": (replace("obs", None), "demo_0 has no obs/ee_pos"),
    "rewards of text": (replace("rewards", np.array([b"a"] * 5)), "rewards holds .*, and must hold numbers"),
}


@pytest.mark.parametrize("what", LIBERO)
def test_what_a_libero_file_holds_wrongly_is_named(tmp_path: Path, what: str) -> None:
    change, said = LIBERO[what]
    path = written("libero", tmp_path)
    change(path)
    with pytest.raises(DemonstrationError, match=said) as caught:
        used(recipe("libero", path, demonstrations=3))
    assert str(path) in str(caught.value)


def description(edit: Callable[[dict[str, Any]], object]) -> Callable[[Path], None]:
    def change(path: Path) -> None:
        content = json.loads(path.with_suffix(".json").read_text())
        edit(content)
        path.with_suffix(".json").write_text(json.dumps(content))

    return change


MANISKILL: dict[str, tuple[Callable[[Path], None], str]] = {
    "no env_info": (description(lambda content: content.pop("env_info")), "trajectory.json: env_info is missing"),
    "env_info of text": (description(lambda content: content.update(env_info="PickCube-v1")), "env_info is 'PickCube-v1', and must be a mapping"),
    "no env_id": (description(lambda content: content["env_info"].pop("env_id")), "env_info.env_id is missing"),
    "env_kwargs of a list": (description(lambda content: content["env_info"].update(env_kwargs=[])), r"env_info.env_kwargs is \[\], and must be a mapping"),
    "episodes of a mapping": (description(lambda content: content.update(episodes={})), r"episodes is {}, and must be a list"),
    "an episode of text": (description(lambda content: content.update(episodes=["a"])), "episodes.0 is 'a', and must be a mapping"),
    "no episode_id": (description(lambda content: content["episodes"][1].pop("episode_id")), "episodes.1.episode_id is missing"),
    "success of text": (description(lambda content: content["episodes"][1].update(success="yes")), "episodes.1.success is 'yes', and must be true or false"),
    "two control modes": (description(lambda content: content["episodes"][1].update(control_mode="pd_ee_pose")), "several control modes"),
    "success of words": (replace("success", np.array([b"yes"] * 5)), "success holds .*, and must hold numbers"),
    "no observations": (replace("obs", None), "holds actions and no observations: replay the file"),
}


@pytest.mark.parametrize("what", MANISKILL)
def test_what_a_maniskill_file_says_wrongly_is_named(tmp_path: Path, what: str) -> None:
    change, said = MANISKILL[what]
    path = written("maniskill", tmp_path)
    change(path)
    with pytest.raises(DemonstrationError, match=said):
        used(recipe("maniskill", path, demonstrations=3))
