"""Which task of the recipe an episode serves: LIBERO's real tasks, of which many share a sentence, and a table of names, folders and sentences."""

from __future__ import annotations

import itertools
import json
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import h5py
import pytest

from rlvla3.config import DemonstrationLayout, Recipe, make_recipe
from rlvla3.demonstrations.demonstration_file import RecordedEpisode
from rlvla3.demonstrations.formats import open_file
from rlvla3.demonstrations.selection import notices, select_demonstrations
from rlvla3.demonstrations.served_tasks import DemonstrationTask, served_tasks
from rlvla3.errors import RecipeError
from rlvla3.simulators.action_meaning import ActionMeaning
from rlvla3.simulators.libero.suites import STANDARD
from rlvla3.simulators.libero.tasks import LiberoTask, task_names
from rlvla3.types import ActionSpace, Spaces
from tests.support.demonstration_files import Arm, write_lerobot, write_libero, write_maniskill

SPACES = Spaces({}, 8, ActionSpace("continuous", 7), 20)
CLOSE = "close the top drawer of the cabinet"
SCENE5, SCENE10 = (f"libero_90/KITCHEN_SCENE{number}_close_the_top_drawer_of_the_cabinet" for number in (5, 10))
GOAL_BOWL, BOWL_90 = "libero_goal/put_the_bowl_on_the_plate", "libero_90/put_the_bowl_on_the_plate"
SWAPPED_BOWL, OTHER_DRAWER = "libero_goal_swap/put_the_bowl_on_the_plate", "libero_goal_task/open_the_middle_drawer_of_the_cabinet"
LONG_BOOK = "libero_10/STUDY_SCENE1_pick_up_the_book_and_place_it_in_the_back_compartment_of_the_caddy"
BOOK_90 = "libero_90/STUDY_SCENE2_pick_up_the_book_and_place_it_in_the_back_compartment_of_the_caddy"
BOOK = "pick up the book and place it in the back compartment of the caddy"


def libero_tasks() -> list[LiberoTask]:
    pytest.importorskip("bddl", reason="LIBERO is not installed")
    return [LiberoTask(suite, name) for suite in STANDARD for name in task_names(suite)]


def task(name: str, written: str = "", instruction: str | None = None) -> DemonstrationTask:
    suite, _, short = name.rpartition("/")
    return DemonstrationTask(name, written, instruction or LiberoTask(suite, short).instruction, SPACES, None, False, ActionMeaning())


def libero_file(path: Path, bddl: str | None = None, sentence: str | None = None) -> Path:
    """The smallest file of LIBERO's layout with one success. bddl, sentence: what it says of its task, None for nothing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        attributes = file.create_group("data").attrs
        if bddl is not None:
            attributes["bddl_file_name"] = bddl
        if sentence is not None:
            attributes["problem_info"] = json.dumps({"language_instruction": [*sentence]})
        for name, size in {"actions": 7, "obs/ee_pos": 3, "obs/ee_ori": 3, "obs/gripper_states": 2}.items():
            file[f"data/demo_0/{name}"] = [[0.5] * size] * 4
        file["data/demo_0/rewards"] = [0, 0, 0, 1]
    return path


def served(path: Path, tasks: list[DemonstrationTask]) -> list[str]:
    file = open_file(path, DemonstrationLayout())
    return [found.task.name for episode in file.episodes() for found in served_tasks(file, episode, tasks)]


@pytest.mark.parametrize("inside", ["as published", "without bddl", "both long suites in one"])
def test_every_file_of_libero_serves_its_own_task_alone(tmp_path: Path, inside: str) -> None:
    everything = libero_tasks()
    tasks = [task(str(one)) for one in everything]
    by_sentence = defaultdict(list)
    for one in everything:
        by_sentence[one.instruction].append(one)
    shared = [one for those in by_sentence.values() if len(those) > 1 for one in those]
    assert len(shared) == 31
    for one in [*shared, *everything[::3]]:
        folder = "libero_100" if inside == "both long suites in one" and one.suite in ("libero_10", "libero_90") else one.suite
        bddl = None if inside == "without bddl" else f"libero/libero/bddl_files/{folder}/{one.name}.bddl"
        path = libero_file(tmp_path / one.suite / f"{one.name}_demo.hdf5", bddl, None if bddl is None else one.instruction)
        assert served(path, tasks) == [str(one)]
        assert served(path, [other for other in tasks if other.name != str(one)]) == []  # not even where it is the only file of its sentence


def test_a_sentence_of_several_tasks_of_libero_is_refused_and_of_one_is_not(tmp_path: Path) -> None:
    everything = libero_tasks()
    tasks = [task(str(one)) for one in everything]
    write_lerobot(tmp_path / "data", [3])
    file = open_file(tmp_path / "data", DemonstrationLayout())
    for one in everything:
        same = [other for other in everything if other.instruction == one.instruction]
        episode = RecordedEpisode(0, (), one.instruction, 3, True)
        if len(same) == 1:
            assert [found.task.name for found in served_tasks(file, episode, tasks)] == [str(one)]
            continue
        with pytest.raises(RecipeError, match=rf"fits {len(same)} tasks of the recipe: .*layout: .tasks: .*data/{one.instruction}"):
            served_tasks(file, episode, tasks)
        ways_out = [task(str(other), f"data/{one.instruction}" if other == one else "") for other in everything]
        assert [found.task.name for found in served_tasks(file, episode, ways_out)] == [str(one)]


@dataclass
class Case:
    """tasks: those of the recipe, {name: what clone.layout.tasks says}. serves: those that the episode serves, or the words of the refusal."""

    path: str
    tasks: dict[str, str]
    serves: list[str] | str
    bddl: str | None = None
    sentence: str | None = None
    sentences: list[str] = field(default_factory=list)
    instructions: dict[str, str] = field(default_factory=dict)


BOTH = {SCENE5: "", SCENE10: ""}
BOWLS = {GOAL_BOWL: "", SWAPPED_BOWL: ""}
NAMED: dict[str, Case] = {
    "its name alone": Case(f"{SCENE10}_demo.hdf5", BOTH, [SCENE10]),
    "in a folder of any name": Case(f"mine/{SCENE10[10:]}_demo.hdf5", BOTH, [SCENE10]),
    "the sentence beside the name": Case(f"{SCENE10}_demo.hdf5", BOTH, [SCENE10], sentence=CLOSE),
    "another sentence beside the name": Case(f"{SCENE10}_demo.hdf5", {SCENE5: ""}, [], sentence=CLOSE),
    "written again in a folder called after the suite": Case(f"libero_90_no_noops/{SCENE10[10:]}_demo.hdf5", BOTH, [SCENE10]),
    "a folder called after another suite": Case(f"libero_goal_no_noops/{SCENE10[10:]}_demo.hdf5", BOTH, []),
    "the name inside, in a file of any name": Case("mine/any.hdf5", BOTH, [SCENE5], bddl=f"bddl_files/{SCENE5}.bddl", sentence=CLOSE),
    "the name inside under the authors' suite": Case(f"{SCENE5}_demo.hdf5", BOTH, [SCENE5], bddl=f"x/libero_100/{SCENE5[10:]}.bddl", sentence=CLOSE),
    "the name inside is of another suite": Case("mine/any.hdf5", {GOAL_BOWL: ""}, [], bddl=f"x/{BOWL_90}.bddl", sentence="put the bowl on the plate"),
    "a perturbed suite inside": Case("mine/any.hdf5", {GOAL_BOWL: ""}, [], bddl="x/libero_goal_swap/put_the_bowl_on_the_plate.bddl"),
    "a perturbed suite inside, which the recipe has": Case("mine/any.hdf5", BOWLS, [SWAPPED_BOWL], bddl=f"x/{SWAPPED_BOWL}.bddl"),
    "in the folder of a perturbed suite": Case(f"{SWAPPED_BOWL}_demo.hdf5", BOWLS, [SWAPPED_BOWL]),
    "in a folder called after a perturbed suite": Case("libero_goal_swap_no_noops/put_the_bowl_on_the_plate_demo.hdf5", BOWLS, [SWAPPED_BOWL]),
    "of the suite that is perturbed": Case(f"{GOAL_BOWL}_demo.hdf5", {SWAPPED_BOWL: ""}, []),
    "of no suite": Case("mine/put_the_bowl_on_the_plate_demo.hdf5", BOWLS, [GOAL_BOWL]),
    "of no suite, and the recipe's is perturbed": Case("mine/put_the_bowl_on_the_plate_demo.hdf5", {SWAPPED_BOWL: ""}, []),
    "of no suite, and the recipe says which": Case(
        "mine/put_the_bowl_on_the_plate_demo.hdf5", {SWAPPED_BOWL: "mine/put_the_bowl_on_the_plate"}, [SWAPPED_BOWL]
    ),
    "an old name inside": Case(
        "libero_goal/open_the_middle_drawer_of_the_cabinet_demo.hdf5",
        {"libero_goal/open_the_middle_drawer_of_the_cabinet": ""},
        ["libero_goal/open_the_middle_drawer_of_the_cabinet"],
        bddl="chiliocosm/bddl_files/libero_goal/open_the_middle_layer_of_the_drawer.bddl",
        sentence="open the middle drawer of the cabinet",
    ),
    "an old name of a scene inside": Case(
        f"{SCENE5}_demo.hdf5", BOTH, [SCENE5], bddl=f"x/libero_100_debug/KITCHEN_TABLETOP_SCENE5_{CLOSE.replace(' ', '_')}.bddl", sentence=CLOSE
    ),
    "two names": Case(f"{SCENE5}_demo.hdf5", BOTH, "says that its task is KITCHEN_SCENE5.* and also that it is KITCHEN_SCENE10", bddl=f"x/{SCENE10}.bddl"),
    "two names, one of them the recipe's": Case(f"{SCENE5}_demo.hdf5", {SCENE5: ""}, "Rename the file after its task", bddl=f"x/{SCENE10}.bddl"),
    "two names, none of them the recipe's": Case(f"{SCENE5}_demo.hdf5", {GOAL_BOWL: ""}, [], bddl=f"x/{SCENE10}.bddl"),
    "the file's name is the sentence": Case(f"libero_90/{CLOSE.replace(' ', '_')}_demo.hdf5", BOTH, "fits 2 tasks"),
    "the file's name is the sentence of one": Case(f"libero_90/{CLOSE.replace(' ', '_')}_demo.hdf5", {SCENE5: ""}, [SCENE5]),
    "no name and a sentence of one": Case("mine/run_3.hdf5", {SCENE5: ""}, [SCENE5], sentence=CLOSE),
    "no name and a sentence of two": Case("mine/run_3.hdf5", BOTH, rf"run_3.hdf5, demo_0 .*fits 2 tasks .*: {SCENE5} and {SCENE10}", sentence=CLOSE),
    "no name, and the recipe says the sentence": Case("mine/run_3.hdf5", {SCENE5: CLOSE, SCENE10: ""}, [SCENE5], sentence=CLOSE),
    "no name, and the recipe says the folder": Case("mine/run_3.hdf5", {SCENE5: "", SCENE10: f"mine/{CLOSE}"}, [SCENE10], sentence=CLOSE),
    "no name, and the recipe says the sentence twice": Case("mine/run_3.hdf5", {SCENE5: CLOSE, SCENE10: CLOSE}, "must name each", sentence=CLOSE),
    "no name and no sentence": Case("mine/run_3.hdf5", {"mine/run_3": ""}, ["mine/run_3"]),
    "the recipe's own sentence goes beyond the name": Case(f"{SCENE10}_demo.hdf5", {"shut": CLOSE}, ["shut"], sentence=CLOSE),
    "but not where the name is a task": Case(f"{SCENE10}_demo.hdf5", {SCENE5: CLOSE, SCENE10: ""}, [SCENE10], sentence=CLOSE),
    "the recipe's other name": Case(f"{SCENE10}_demo.hdf5", {"shut": SCENE10[10:]}, ["shut"]),
    "the recipe's other name with its suite": Case(f"{SCENE10}_demo.hdf5", {"shut": SCENE10, SCENE5: ""}, ["shut"], bddl=f"x/{SCENE10}.bddl"),
    "the recipe's other name with the folder": Case(f"mine/{SCENE10[10:]}_demo.hdf5", {"shut": f"mine/{SCENE10[10:]}"}, ["shut"], bddl=f"x/{SCENE10}.bddl"),
    "the recipe's other name of another folder": Case(f"mine/{SCENE10[10:]}_demo.hdf5", {"shut": f"yours/{SCENE10[10:]}"}, []),
    "another simulator's task of this name": Case(f"{GOAL_BOWL}_demo.hdf5", {"put_the_bowl_on_the_plate": ""}, ["put_the_bowl_on_the_plate"]),
    "the suite tells two of one name apart": Case(f"{GOAL_BOWL}_demo.hdf5", {GOAL_BOWL: "", BOWL_90: ""}, [GOAL_BOWL], bddl=f"x/{GOAL_BOWL}.bddl"),
    "the folder tells two of one name apart": Case(f"{GOAL_BOWL}_demo.hdf5", {GOAL_BOWL: "", BOWL_90: ""}, [GOAL_BOWL]),
    "nothing tells two of one name apart": Case("mine/put_the_bowl_on_the_plate_demo.hdf5", {GOAL_BOWL: "", BOWL_90: ""}, "fits 2 tasks"),
    "case and spaces do not matter": Case("mine/x.hdf5", {SCENE5: ""}, [SCENE5], sentence="Close the  top drawer of the Cabinet."),
}

MIDDLE, BOTTOM = "open the middle drawer of the cabinet", "open the bottom drawer of the cabinet"
DATASETS: dict[str, Case] = {
    "the task's own name": Case("data", {"stack_the_blocks": ""}, ["stack_the_blocks"], sentences=["stack the blocks"]),
    "the simulator's sentence": Case("data", {"t/1": ""}, ["t/1"], sentences=["stack the blocks"], instructions={"t/1": "Stack the blocks."}),
    "no task's sentence": Case("data", {"t/1": ""}, [], sentences=["dance"], instructions={"t/1": "stack the blocks"}),
    "two of one sentence": Case("data", BOTH, "is of the task 'close the top drawer of the cabinet', and this fits 2 tasks", sentences=[CLOSE]),
    "two of one sentence, one by its name": Case(
        "data", {"a": "", "stack_the_blocks": ""}, "fits 2 tasks", sentences=["stack the blocks"], instructions={"a": "stack the blocks"}
    ),
    "the recipe says which": Case("data", {SCENE5: "", SCENE10: CLOSE}, [SCENE10], sentences=[CLOSE]),
    "the recipe says which by the folder": Case("scene10", {SCENE5: f"scene5/{CLOSE}", SCENE10: f"scene10/{CLOSE}"}, [SCENE10], sentences=[CLOSE]),
    "the folder is the suite": Case("libero_10", {LONG_BOOK: "", BOOK_90: ""}, [LONG_BOOK], sentences=[BOOK]),
    "the folder is called after the suite": Case("libero_90_lerobot", {LONG_BOOK: "", BOOK_90: ""}, [BOOK_90], sentences=[BOOK]),
    "the folder is called after another suite": Case("libero_90_lerobot", {LONG_BOOK: ""}, [], sentences=[BOOK]),
    "the folder says nothing": Case("libero", {LONG_BOOK: "", BOOK_90: ""}, "fits 2 tasks", sentences=[BOOK]),
    "the folder is a perturbed suite": Case("libero_goal_swap", BOWLS, [SWAPPED_BOWL], sentences=["put the bowl on the plate"]),
    "a perturbed suite alone": Case("data", {SWAPPED_BOWL: ""}, [SWAPPED_BOWL], sentences=["put the bowl on the plate"]),
    "the name of a task with another goal": Case("data", {OTHER_DRAWER: ""}, [], sentences=[MIDDLE], instructions={OTHER_DRAWER: BOTTOM}),
    "the sentence of a task with another goal": Case("data", {OTHER_DRAWER: ""}, [OTHER_DRAWER], sentences=[BOTTOM], instructions={OTHER_DRAWER: BOTTOM}),
    "several sentences, one of a task": Case("data", {SCENE5: ""}, [SCENE5], sentences=["open it", CLOSE]),
    "several sentences of two tasks": Case("data", {SCENE5: "", LONG_BOOK: ""}, [LONG_BOOK, SCENE5], sentences=[BOOK, CLOSE, "and so on"]),
    "several sentences of one task": Case("data", {SCENE5: ""}, [SCENE5], sentences=[CLOSE, CLOSE.upper()]),
    "several sentences, one of two tasks": Case("data", {**BOTH, LONG_BOOK: ""}, "fits 2 tasks", sentences=[BOOK, CLOSE]),
    "an empty sentence": Case("data", {SCENE5: ""}, [], sentences=[""]),
    "not part of a sentence": Case("data", {"close_it": ""}, [], sentences=["close it now"]),
}


def check(case: Case, path: Path, episode: RecordedEpisode | None) -> None:
    tasks = [task(name, written, case.instructions.get(name)) for name, written in case.tasks.items()]
    file = open_file(path, DemonstrationLayout())
    given = next(iter(file.episodes())) if episode is None else episode
    for order in itertools.permutations(tasks):
        if isinstance(case.serves, str):
            with pytest.raises(RecipeError, match=case.serves if order == tuple(tasks) else None):
                served_tasks(file, given, order)
        else:
            assert [found.task.name for found in served_tasks(file, given, order)] == case.serves


@pytest.mark.parametrize("name", NAMED)
def test_a_file_serves_the_task_that_it_names(tmp_path: Path, name: str) -> None:
    case = NAMED[name]
    check(case, libero_file(tmp_path / case.path, case.bddl, case.sentence), None)


@pytest.mark.parametrize("name", DATASETS)
def test_a_sentence_serves_one_task(tmp_path: Path, name: str) -> None:
    case = DATASETS[name]
    write_lerobot(tmp_path / case.path, [3])
    check(case, tmp_path / case.path, RecordedEpisode(0, (), case.sentences[0], 3, True, sentences=tuple(case.sentences)))


def recipe(files: list[Path], tasks: list[str], demonstrations: int = 1, action: int = 7, layout: Any = None) -> Recipe:
    return make_recipe(
        {
            "simulator": {"name": f"{Arm.__module__}:Arm", "tasks": tasks, "options": {"cameras": [], "action": action}},
            "policy": {"name": "actor_critic", "chunk": 2, "options": {"hidden": 8}},
            "clone": {"demonstrations": demonstrations, "files": [str(file) for file in files], "layout": layout or {}},
        }
    )


def test_a_scene_is_not_given_the_episodes_of_another(tmp_path: Path) -> None:
    """The case of issue 15: two files of one sentence, and the first is read first."""
    for name in (SCENE10, SCENE5):
        write_libero(tmp_path / f"{name}_demo.hdf5", {0: 5, 1: 5}, lag=0)
    given = recipe([tmp_path / "libero_90" / "*.hdf5"], [SCENE5, SCENE10], 2)
    assert [(one.task, one.file.path.name) for one in select_demonstrations(given)] == [
        (name, f"{name[10:]}_demo.hdf5") for name in (SCENE5, SCENE10) for _ in range(2)
    ]
    with pytest.raises(RecipeError, match=rf"0 of 2 demonstrations of {SCENE5} .*they are of 'KITCHEN_SCENE10_"):
        select_demonstrations(recipe([tmp_path / f"{SCENE10}_demo.hdf5"], [SCENE5], 2))


def test_a_sentence_that_goes_beyond_a_name_is_said(tmp_path: Path) -> None:
    path = libero_file(tmp_path / f"{SCENE10}_demo.hdf5", f"x/{SCENE10}.bddl", CLOSE)
    found = select_demonstrations(recipe([path], ["shut"], layout={"tasks": {"shut": CLOSE}}))
    assert notices(found) == [f"demonstrations of {SCENE10} are used for shut, because clone.layout.tasks gives it their sentence, {CLOSE!r}"]
    assert notices(select_demonstrations(recipe([path], ["shut"], layout={"tasks": {"shut": SCENE10[10:]}}))) == []


def test_a_name_of_no_task_under_layout_is_refused(tmp_path: Path) -> None:
    write_maniskill(tmp_path / "t.h5", [4])
    with pytest.raises(RecipeError, match=r"clone.layout.tasks names PickCub-v1, which is no task of the recipe: its tasks are PickCube-v1"):
        select_demonstrations(recipe([tmp_path / "t.h5"], ["PickCube-v1"], action=4, layout={"tasks": {"PickCub-v1": "x"}}))


def test_every_dataset_in_its_own_folder_serves_its_own_task(tmp_path: Path) -> None:
    first, second = "one/close_it", "two/close_it"
    for folder, steps in (("a", 4), ("b", 6)):
        write_lerobot(tmp_path / folder, [steps], tasks=["close it"])
    files = [tmp_path / "a", tmp_path / "b"]
    with pytest.raises(RecipeError, match="fits 2 tasks of the recipe: one/close_it and two/close_it"):
        select_demonstrations(recipe(files, [first, second]))
    found = select_demonstrations(recipe(files, [first, second], layout={"tasks": {first: "b/close it"}}))
    assert [(one.task, one.decisions) for one in found] == [(first, 6), (second, 4)]
