"""results.json holds all that others need to check an evaluation, and results.png shows it."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest

from rlvla3 import commands
from rlvla3.config import make_recipe
from rlvla3.errors import RecipeError, WorkerError
from rlvla3.evaluation import results
from rlvla3.evaluation.picture import title
from rlvla3.evaluation.results import ResultsFile, read_results
from rlvla3.observability.events import EpisodeFinished, EvaluationFinished, PhaseStarted
from rlvla3.observability.formatting import run_result
from rlvla3.observability.intervals import success_rate, wilson
from rlvla3.observability.progress import PlainProgress
from rlvla3.observability.run_directory import RunDirectory
from rlvla3.observability.summary import Summary
from rlvla3.policies.registry import make_policy
from rlvla3.simulators.common_spaces import common_spaces
from rlvla3.types import Finished, Purpose, Ticket
from tests.support.events import RECIPE
from tests.support.repository import ROOT
from tests.support.runs import countdown

TASKS = ["libero_goal/0", "libero_goal/1", "libero_10/$x_{y}$"]


def episode(index: int, task: str, success: bool, set_aside: bool = False) -> Finished:
    ticket = Ticket(index=index, task=task, seed=100 + index, group=index, purpose=Purpose.EVALUATE, initial_state=index % 50)
    return Finished.without_episode(ticket) if set_aside else Finished(ticket, 4, 20, success, float(success), 3, 3)


def write(run: RunDirectory, episodes: list[Finished], protocol: dict[str, Any] | None = None, told: list[str] | None = None, **ended: Any) -> dict[str, Any]:
    watcher = ResultsFile(run, RECIPE, protocol, (told if told is not None else []).append)
    watcher.on(PhaseStarted("evaluate", len(episodes)))
    for finished in episodes:
        watcher.on(EpisodeFinished(finished))
    watcher.on(EvaluationFinished("eval", 7, success_rate(episodes), protocol=protocol["name"] if protocol else None, **ended))
    watcher.close()
    return read_results(run.path / "results.json")


def test_results_count_every_episode_once(run: RunDirectory):
    episodes = [episode(number, TASKS[number % 3], number % 2 == 0, set_aside=number == 11) for number in range(12)]
    found = write(run, list(reversed(episodes)))
    assert [one["seed"] for one in found["episodes"]] == [100 + number for number in range(11)]
    assert found["set_aside"] == 1
    for group, key in ((found["per_task"], lambda task: task), (found["per_suite"], lambda task: task.partition("/")[0])):
        assert sum(rate["episodes"] for rate in group.values()) == found["success"]["episodes"] == 11
        for name, rate in group.items():
            there = [one for one in found["episodes"] if key(one["task"]) == name]
            assert (rate["successes"], rate["episodes"]) == (sum(one["success"] for one in there), len(there))
            assert (rate["low"], rate["high"]) == wilson(rate["successes"], rate["episodes"])
            assert rate["rate"] == rate["successes"] / rate["episodes"]
    assert (run.path / "results.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    "names", [["only"], [f"{'long_' * 40}{number}" for number in range(3)], ["a$b", "$\\frac{", "名前", ""], [f"t{n}" for n in range(200)]]
)
def test_any_names_can_be_drawn(run: RunDirectory, names: list[str]):
    found = write(run, [episode(number, name, True) for number, name in enumerate(names)], {"name": "$x$", "simulator": "s", "deviations": ["one"]})
    assert set(found["per_task"]) == set(names)
    assert (run.path / "results.png").stat().st_size > 1000


def test_an_evaluation_without_an_episode_has_no_rate_and_no_picture(run: RunDirectory):
    found = write(run, [episode(0, "a", False, set_aside=True)])
    assert (found["success"]["rate"], found["success"]["episodes"], found["per_task"]) == (None, 0, {})
    assert not (run.path / "results.png").exists()


def test_a_missing_matplotlib_is_told_and_costs_only_the_picture(run: RunDirectory, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(results, "has_matplotlib", lambda: False)
    told: list[str] = []
    assert write(run, [episode(0, "a", True)], told=told)["success"]["rate"] == 1
    assert len(told) == 1 and "pip install 'rlvla3[plots]'" in told[0]
    assert not (run.path / "results.png").exists()


@pytest.mark.parametrize(
    ("ended", "said"),
    [
        ({"planned": 500}, ["the evaluation ended after 4 of 500 episodes"]),
        ({"set_aside": 1}, ["1 of 5 episodes was set aside, and the protocol counts every episode"]),
        (
            {"planned": 9, "set_aside": 2},
            ["the evaluation ended after 6 of 9 episodes", "2 of 9 episodes were set aside, and the protocol counts every episode"],
        ),
    ],
)
def test_episodes_that_are_missing_are_deviations_from_the_protocol(run: RunDirectory, ended: dict[str, Any], said: list[str]):
    protocol = {"name": "p", "simulator": "s", "deviations": ["one"]}
    summary = Summary(run, RECIPE, protocol=protocol)
    found = write(run, [episode(number, "a", True) for number in range(4)], protocol, **ended)
    summary.on(EvaluationFinished("eval", 7, success_rate([episode(0, "a", True)] * 4), protocol="p", **ended))
    assert found["protocol"]["deviations"] == summary.content()["protocol"]["deviations"] == ["one", *said]
    assert found["complete"] == ("planned" not in ended)
    assert f"with {1 + len(said)} deviations" in title(found) and f"with {1 + len(said)} deviations" in run_result(summary.content())


def test_an_evaluation_that_ended_early_says_everywhere_of_how_many_episodes(run: RunDirectory):
    told, some = list[str](), [episode(number, "a", True) for number in range(3)]
    found = write(run, some, told=told, planned=500)
    assert (found["complete"], found["planned"], found["success"]["episodes"]) == (False, 500, 3)
    assert title(found).endswith("3 of 500 episodes")
    assert told == [f"{run.path / 'results.json'} has the first 3 episodes of 500: the evaluation ended before the others"]
    summary, stream = Summary(run, RECIPE), io.StringIO()
    for watcher in (summary, PlainProgress(stream)):
        watcher.on(EvaluationFinished("eval", 7, success_rate(some), planned=500))
    assert "success 100 % [44, 100] (3 of 500 episodes)" in run_result(summary.content())
    assert ", with 3 of 500 episodes" in stream.getvalue()
    assert summary.content()["success"]["complete"] is False


@pytest.mark.slow
def test_an_evaluation_that_fails_leaves_the_episodes_before_in_ticket_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    options = {"deadly": [5], "purpose": "evaluate"}
    simulator = {"name": "tests.support.troublesome:DeadlyPair", "slots": 2, "shards": 1, "max_steps": 8, "options": options}
    recipe = make_recipe(countdown(simulator=simulator, policy={"chunk": 1}, evaluation={"episodes": 40, "videos": 0}))
    make_policy(recipe.policy, common_spaces(recipe)).save(tmp_path / "policy", "actor_critic")
    with pytest.raises(WorkerError, match="failed 3 times"):
        commands.evaluate(recipe, {"policy.checkpoint": str(tmp_path / "policy")}, tmp_path / "run", "nothing")
    found = read_results(tmp_path / "run/results.json")
    assert (found["complete"], found["planned"]) == (False, 40)
    assert [one["steps"] for one in found["episodes"]] == [2 + index % 5 for index in range(5)]
    assert json.loads((tmp_path / "run/summary.json").read_text())["success"]["planned"] == 40


def keys_documented() -> set[str]:
    page = (ROOT / "docs/evaluation.md").read_text()
    table = page.split("`results.json`:")[1].split("A *rate*")[0]
    return {name for line in table.splitlines() if line.startswith("| `") for name in line.split("|")[1].replace("`", "").replace(" ", "").split(",")}


def test_the_page_has_every_field(run: RunDirectory):
    assert keys_documented() == write(run, [episode(0, "a", True)]).keys()


@pytest.mark.slow
def test_an_evaluation_of_a_trained_policy_leaves_its_results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    recipe = make_recipe(countdown())
    trained = commands.train(recipe, {"training.updates": 1}, tmp_path / "run", "nothing")
    run = commands.evaluate(trained.path, ["evaluation.episodes=5"], None, "nothing")
    found = read_results(run.path / "results.json")
    assert (found["success"]["episodes"], len(found["episodes"]), found["protocol"]) == (5, 5, None)
    assert found["policy"]["updates"] == 1
    summary = json.loads(run.summary.read_text())
    assert "protocol" not in summary
    assert summary["success"]["episodes"] == 5
    with pytest.raises(RecipeError, match="protocol openpi is for libero"):
        commands.evaluate(trained.path, (), None, "nothing", protocol="openpi")
    assert len(list((trained.path / "evaluations").iterdir())) == 1  # a refusal leaves no folder


def test_a_recipe_with_a_protocol_is_not_trained(tmp_path: Path):
    for command in (commands.train, commands.clone):
        recipe = make_recipe({"evaluation": {"protocol": "openpi"}, "clone": {"demonstrations": 1}})
        with pytest.raises(RecipeError, match=r"evaluation.protocol=openpi is for `rlvla3 eval` alone"):
            command(recipe, (), tmp_path / "run", "nothing")
        assert not (tmp_path / "run").exists()
