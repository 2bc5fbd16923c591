"""checkpoints/best: a link to a checkpoint. It is kept as long as it is the best one, and every command takes its path."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import rlvla3
from rlvla3.commands import train
from rlvla3.config import Recipe, make_recipe
from rlvla3.errors import ExplainedError
from rlvla3.observability.continuing import policy_folder
from rlvla3.observability.run_directory import RunDirectory, RunDirectoryError, find_run
from rlvla3.policies.registry import make_policy
from rlvla3.preflight import preflight
from rlvla3.serving.served import find_subject

SIMULATOR = {"name": "tests.support.troublesome:Countdown", "shards": 1, "max_steps": 6}


@pytest.fixture
def recipe() -> Recipe:
    policy = {"name": "actor_critic", "chunk": 2, "options": {"hidden": 8}}
    return make_recipe({"simulator": SIMULATOR, "policy": policy, "evaluation": {"episodes": 2, "every": 1, "videos": 0}, "training": {"updates": 9}})


@pytest.fixture
def run(tmp_path: Path, recipe: Recipe) -> RunDirectory:
    """Its checkpoints 1 and 2 have different policies, and 1 is the best one."""
    run = RunDirectory.create(tmp_path / "run", recipe)
    for version in (1, 2):
        write_checkpoint(run, version, recipe)
    run.keep_best(1)
    return run


def write_checkpoint(run: RunDirectory, version: int, recipe: Recipe, keep: int = 2) -> None:
    with run.checkpoint(version, keep) as folder:
        make_policy(recipe.policy, preflight(recipe)).save(folder / "policy", recipe.policy.name)
        (folder / "parameters").mkdir()
        (folder / "parameters" / ".metadata").write_text("of its shards")
        torch.save({}, folder / "trainer.pt")


def best(run: RunDirectory) -> Path:
    return run.checkpoints / "best"


def kept(run: RunDirectory) -> list[str]:
    return sorted(path.name for path in run.checkpoints.iterdir())


def test_it_is_kept_until_another_one_is_better_also_in_a_run_that_goes_on(run: RunDirectory, recipe: Recipe) -> None:
    for version in (3, 4):
        write_checkpoint(run, version, recipe, keep=1)
    assert kept(run) == ["000001", "000004", "best"]
    again = RunDirectory.open(run.path)
    with again.locked():
        write_checkpoint(again, 5, recipe, keep=1)
    assert kept(run) == ["000001", "000005", "best"] and run.best_checkpoint() == run.checkpoints / "000001"
    run.keep_best(5)
    write_checkpoint(run, 6, recipe, keep=1)
    assert kept(run) == ["000005", "000006", "best"] and run.best_checkpoint() == run.checkpoints / "000005"


def test_it_moves_with_its_run(run: RunDirectory, tmp_path: Path) -> None:
    moved = RunDirectory(run.path.rename(tmp_path / "elsewhere"))
    assert moved.best_checkpoint() == moved.checkpoints / "000001"
    assert find_run(best(moved)) == (moved, moved.checkpoints / "000001")


def test_where_it_leads_nowhere_there_is_none(run: RunDirectory) -> None:
    (run.checkpoints / "000001").rename(run.checkpoints / "000001.damaged")
    assert run.best_checkpoint() is None and find_run(best(run)) is None
    with pytest.raises(ExplainedError, match="best"):
        rlvla3.evaluate(best(run), progress=False)


def test_a_process_that_is_killed_before_the_link_moves_leaves_the_one_before(run: RunDirectory) -> None:
    (run.checkpoints / ".partial.best").symlink_to("000002")
    with run.locked():
        assert kept(run) == ["000001", "000002", "best"] and run.best_checkpoint() == run.checkpoints / "000001"


def test_a_checkpoint_that_is_not_there_is_never_the_best(run: RunDirectory) -> None:
    with pytest.raises(FileNotFoundError, match=r"there is no .*000007"):
        run.keep_best(7)
    assert run.best_checkpoint() == run.checkpoints / "000001"


def test_whoever_loads_serves_or_exports_it_has_its_policy_and_not_the_newest(run: RunDirectory) -> None:
    place = run.checkpoints / "000001" / "policy"
    assert policy_folder(best(run)) == place
    assert find_subject(best(run), [], None, None, trust=False).place == str(place)
    assert rlvla3.load_policy(best(run)).path == place
    assert rlvla3.Run(run.path).best_checkpoint == run.checkpoints / "000001"


def test_a_recipe_that_names_it_means_the_checkpoint_that_it_leads_to_now(run: RunDirectory) -> None:
    given = make_recipe({"simulator": SIMULATOR, "policy": {"name": "actor_critic", "checkpoint": str(best(run) / "policy")}})
    run.keep_best(2)
    assert given.policy.checkpoint == run.checkpoints / "000001" / "policy"


def test_training_does_not_go_on_from_it_in_a_folder_that_has_newer_ones(run: RunDirectory) -> None:
    with pytest.raises(RunDirectoryError, match=r"has been trained past .*000001"):
        train(best(run), (), None, "nothing")


@pytest.mark.slow
def test_it_is_evaluated_and_not_the_newest(run: RunDirectory, nothing_left: None) -> None:
    versions = [rlvla3.evaluate(start, progress=False).version for start in (best(run), run.path)]
    assert versions == [1, 2]
