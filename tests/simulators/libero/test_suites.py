"""The suites of LIBERO-PRO: which of them can run, what their tasks are told, and what is in their scenes."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rlvla3.errors import RecipeError
from rlvla3.simulators.base import SimulatorError
from rlvla3.simulators.libero.package import CONTAINS, assets_folder
from rlvla3.simulators.libero.simulator import Libero
from rlvla3.simulators.libero.suites import STANDARD, SUITES, longest_episode, suite_of_folder
from rlvla3.simulators.libero.tasks import LiberoTask, check_runs, find_task, suite_names, task_names
from rlvla3.simulators.registry import describe_simulator
from tests.support.libero import config, installed, ticket
from tests.support.processes import in_fresh_process
from tests.support.repository import ROOT

pytestmark = installed

VARIED = ("libero_spatial", "libero_object", "libero_goal", "libero_10")
PERTURBED = [f"{suite}_{variation}" for suite in VARIED for variation in ("lan", "object", "swap", "task")]
WITH_AN_OBJECT = [
    *(f"{suite}_with_mug" for suite in VARIED),
    *(f"{suite}_with_yellow_book" for suite in VARIED[:3]),
    *(f"{suite}_with_milk" for suite in ("libero_spatial", "libero_goal")),
]
OTHERS = ["libero_mine", "libero_study_table", "libero_object_two_normal_episodes"]


def every_task() -> list[LiberoTask]:
    return [LiberoTask(suite, name) for suite in suite_names() for name in task_names(suite)]


def runs(task: LiberoTask) -> bool:
    try:
        check_runs(task, assets_folder(None))
    except RecipeError:
        return False
    return True


def test_the_suites_that_run_are_those_that_the_documents_name() -> None:
    whole = {suite for suite in suite_names() if all(runs(LiberoTask(suite, name)) for name in task_names(suite))}
    assert whole == {*STANDARD, *PERTURBED, *WITH_AN_OBJECT, *OTHERS}
    page = (ROOT / "docs" / "simulators.md").read_text()
    table = page[page.index("### Suites") : page.index("### LIBERO's initial states")]
    named = set(re.findall(r"`(libero_\w+)`", table))
    patterns = set(re.findall(r"`\.\.\._(\w+)`", table))
    assert all(suite in named or suite.removeprefix(base)[1:] in patterns for suite in whole for base in VARIED if suite.startswith(base))
    assert {*OTHERS, *STANDARD} <= named


def test_every_suite_of_the_package_has_a_name_that_is_known_here() -> None:
    assert set(suite_names()) <= set(SUITES)
    assert [longest_episode(suite) for suite in ("libero_spatial_swap", "libero_10_lan", "libero_90", "libero_mine")] == [220, 520, 400, 400]


def test_every_instruction_is_the_one_of_libero() -> None:
    """As LIBERO's own parser reads the definition, and as its benchmark reads the name."""
    from bddl.parsing import scan_tokens

    for task in every_task():
        if not task.definition.exists():
            continue
        (sentence,) = (group[1:] for group in scan_tokens(filename=str(task.definition)) if group[0] == ":language")
        assert task.instruction_from("definition") == " ".join(sentence)
        changed = task.suite.endswith(("_lan", "_task"))
        assert task.instruction == task.instruction_from("definition" if changed else "name")
        if task.suite in STANDARD or changed:
            same = task.instruction_from("definition") == task.instruction_from("name")
            assert not (changed and same), "the words of the name are those of another task"
    assert find_task("libero_goal_task/0").instruction == "open the bottom drawer of the cabinet"
    assert find_task("libero_goal_task/0").instruction_from("name") == "open the middle drawer of the cabinet"
    assert find_task("libero_goal_lan/0").instruction == "open the cabinet’s middle drawer"
    assert find_task("libero_study_table/0").instruction.startswith("prepare a ")


def test_a_policy_is_told_what_the_recipe_chooses() -> None:
    told = {
        source: describe_simulator(config("libero_spatial_task/0", "libero_spatial/0", instruction=source)).instructions
        for source in ("task", "name", "definition")
    }
    name = find_task("libero_spatial/0").instruction
    new = "pick the akita black bowl not between the plate and the ramekin and place it on the plate"
    assert told == {"task": (new, name), "name": (name, name), "definition": (new, name.replace("pick up the black", "pick the akita black"))}


@pytest.mark.parametrize(
    ("task", "words"),
    [
        ("libero_goal_env/0", "no definition"),
        ("libero_object_with_trigger/0", "no initial states"),
        ("libero_object_with_red_stick/0", "no model of its object red_sticker"),
        ("libero_goal_with_green_mug/3", "no model of its object libero_mug_green"),
        ("libero_goal_object_ood/1", "no definition"),
    ],
)
def test_a_task_that_lacks_a_file_is_refused_and_says_which(task: str, words: str) -> None:
    with pytest.raises(RecipeError, match=words) as refused:
        describe_simulator(config(task))
    assert "docs/simulators.md" in str(refused.value)


def test_a_task_of_a_suite_that_is_only_partly_there_runs() -> None:
    sentence = "pick up the alphabet soup and place it in the basket"
    assert describe_simulator(config("libero_object_triggered_episode/1")).instructions == (sentence,)


def test_initial_states_of_a_variation_are_others_than_those_that_it_varies() -> None:
    """So a policy that was trained on a state of libero_goal was trained on none of libero_goal_lan."""
    for suite in PERTURBED:
        base = next(base for base in VARIED if suite.startswith(f"{base}_") and suite.removeprefix(base) in ("_lan", "_object", "_swap", "_task"))
        for name in task_names(suite):
            states, theirs = LiberoTask(suite, name).initial_states(), LiberoTask(base, name).initial_states()
            assert states.shape == theirs.shape and len(states) == 50
            assert not (states[:, None, 1:] == theirs[None, :, 1:]).all(-1).any()


def test_no_state_is_in_two_sets() -> None:
    """What was trained on is kept by the names of sets. A state with two names would be trained on under one and evaluated as new under the other."""
    sets: dict[bytes, str] = {}
    for task in every_task():
        if runs(task):
            for state in task.initial_states():
                assert sets.setdefault(state[1:].tobytes(), task.initial_state_set) == task.initial_state_set
    assert find_task("libero_object_two_normal_episodes/1").initial_state_set == "libero_object/pick_up_the_bbq_sauce_and_place_it_in_the_basket"
    assert find_task("libero_goal_swap/3").initial_state_set == str(find_task("libero_goal_swap/3"))


@pytest.mark.parametrize(
    ("folder", "suite"),
    [
        ("libero_goal", "libero_goal"),
        ("libero_goal_no_noops", "libero_goal"),
        ("LIBERO_Goal_Swap_no_noops", "libero_goal_swap"),
        ("libero_object_object", "libero_object_object"),
        ("libero_object_objects", "libero_object"),
        ("libero_100", None),
        ("goal", None),
    ],
)
def test_the_suite_that_a_folder_is_named_after(folder: str, suite: str | None) -> None:
    assert suite_of_folder(folder) == suite


def in_a_perturbed_scene(other_assets: Path) -> None:
    """A task, and two variations of it: an object of another kind, another place."""
    same, other_object, other_place = "libero_object/0", "libero_object_object/0", "libero_object_swap/0"
    simulator = Libero(config(same, other_object, other_place, live_tasks=1, warmup_steps=0), 5)
    seen: dict[str, Any] = {}
    for task in (same, other_object, other_place):
        observation = simulator.reset(0, ticket(task, state=3))
        assert observation.instruction == "pick up the alphabet soup and place it in the basket"
        assert len(simulator._scene._states[0]) == 1 + simulator._scene._model.nq + simulator._scene._model.nv
        outcome = simulator.step({0: np.zeros((5, 7), np.float32)})[0]
        assert outcome.observation is not None and not outcome.success
        seen[task] = observation.images["agentview"]
    assert all((seen[same] != seen[task]).mean() > 0.05 for task in (other_object, other_place))
    with pytest.raises(SimulatorError, match=f"^LIBERO already reads its assets in .* and cannot read {other_assets} too"):
        Libero(config(same, assets=other_assets), 5)


@pytest.mark.slow
def test_a_perturbed_task_is_built_reset_and_drawn(tmp_path: Path) -> None:
    (tmp_path / CONTAINS).parent.mkdir()
    (tmp_path / CONTAINS).touch()
    in_fresh_process(in_a_perturbed_scene, tmp_path)
