"""Where the episodes of whole runs begin, and what the runs say of it. Every way of evaluation is here."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

import rlvla3
from rlvla3.observability import accounts
from rlvla3.observability.checksums import MANIFEST
from rlvla3.policies.trained_on import FILE, TrainedOn
from tests.support.fixed_states import LOG
from tests.support.thorough import thorough

PLACE = "tests.support.fixed_states"
NAMES = {task: f"{PLACE}:Starts/{task}" for task in ("a", "b")}


def recipe(**changes: Any) -> dict[str, Any]:
    """Two tasks with 20 initial states each, 16 of training and 4 of evaluation."""
    tree: dict[str, Any] = {
        "simulator": {"name": f"{PLACE}:Starts", "shards": 2, "tasks": ["a", "b"]},
        "policy": {"name": "actor_critic", "chunk": 2, "options": {"hidden": 8}},
        "clone": {"demonstrations": 2, "steps": 2},
        "algorithm": {"advantage": "grpo", "group_size": 2},
        "training": {"updates": 2, "batch": 8, "checkpoint_every": 1, "keep_checkpoints": 9},
        "evaluation": {"episodes": 8, "videos": 0},
    }
    for section, settings in changes.items():
        tree[section] = tree.get(section, {}) | settings
    return tree


@pytest.fixture
def log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(LOG, str(tmp_path / "log"))
    return tmp_path / "log"


def began(log: Path, purpose: str) -> list[tuple[str, int]]:
    """The task and the state of every episode of a purpose since the last call."""
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    return [(line["task"], line["state"]) for line in lines if line["purpose"] == purpose]


def known(folder: Path) -> dict[str, set[int]]:
    found = TrainedOn.read(folder / "policy")
    assert found.complete
    return {task: set(found.states.get(name, ())) for task, name in NAMES.items()}


def of_tasks(pairs: list[tuple[str, int]]) -> dict[str, set[int]]:
    return {task: {state for of, state in pairs if of == task} for task in NAMES}


@pytest.mark.slow
@pytest.mark.parametrize("runtime", ["local", *thorough("ray")])
def test_evaluation_before_and_after_training_has_each_of_its_states_once_and_none_was_trained_on(runtime: str, log: Path, tmp_path: Path):
    if runtime == "ray":
        pytest.importorskip("ray", reason="Ray is not installed: pip install 'rlvla3[ray]'")
    run = rlvla3.train(recipe() | {"runtime": runtime}, run_dir=tmp_path / "run", progress=False)
    evaluated, trained, shown = (began(log, purpose) for purpose in ("evaluate", "train", "demonstrate"))
    assert Counter(evaluated) == {(task, state): 2 for task in NAMES for state in range(16, 20)}, "once before and once after"
    assert not {*evaluated} & {*trained, *shown}
    pairs = list(zip(sorted(trained)[::2], sorted(trained)[1::2], strict=True))
    assert all(one == other for one, other in pairs), "a group shares its initial state"
    first, last = run.checkpoints[0], run.checkpoints[-1]
    assert all(len(numbers) == 2 for numbers in known(first).values()) and all(known(first)[task] <= of_tasks(shown)[task] for task in NAMES)
    assert known(last) == {task: known(first)[task] | of_tasks(trained)[task] for task in NAMES}
    for evaluation in run.evaluations:
        states = evaluation.initial_states
        assert states is not None
        assert {key: states[key] for key in ("states", "trained_on", "complete", "least", "most", "left_out")} == {
            "states": 8,
            "trained_on": 0,
            "complete": True,
            "least": 1,
            "most": 1,
            "left_out": 0,
        }
    said = [notice for notice in run.summary["notices"] if notice.startswith("initial states")]
    words = "from 8 of 40 initial states, 1 episode each. None of these states was trained on"
    assert said == [f"initial states ({when}): {words}" for when in ("before", "after")]
    assert run.summary["success_after"]["initial_states"]["trained_on"] == 0


@pytest.mark.slow
def test_a_policy_remembers_what_it_was_trained_on_from_run_to_run_and_says_so_wherever_it_is_evaluated(log: Path, tmp_path: Path):
    first = rlvla3.train(recipe(), run_dir=tmp_path / "first", progress=False)
    of_first = known(first.checkpoints[-1])
    everything = {"simulator.initial_states.evaluation": "all", "evaluation.episodes": 40}
    found = rlvla3.evaluate(first, everything, progress=False)
    assert found.initial_states is not None
    assert {task: set(about["trained_on"]) for task, about in found.initial_states["per_task"].items()} == of_first
    assert (found.initial_states["states"], found.initial_states["most"], found.initial_states["complete"]) == (40, 1, True)

    # It goes on with other states: those of evaluation were trained on before.
    other = {"simulator.initial_states.training": "10-19", "simulator.initial_states.evaluation": "0-9", "evaluation.episodes": 20, "training.updates": 4}
    again = rlvla3.train(first, other, progress=False)
    after = again.evaluations[-1].initial_states
    assert after is not None and after["trained_on"] == sum(len({n for n in numbers if n < 10}) for numbers in of_first.values()) > 0
    assert all(of_first[task] < known(again.checkpoints[-1])[task] for task in NAMES)

    # Another run starts from its policy, and trains on one state alone.
    second = recipe(policy={"checkpoint": str(again.checkpoints[-1] / "policy")}, simulator={"initial_states": {"training": [19], "evaluation": [19]}})
    begun = rlvla3.train(second, {"training.updates": 1}, run_dir=tmp_path / "second", progress=False)
    assert known(begun.checkpoints[-1]) == {task: numbers | {19} for task, numbers in known(again.checkpoints[-1]).items()}
    shared = "initial states of a and b: 1 of 20 for training, 1 for evaluation; training has 1 of these too"
    assert shared in begun.summary["notices"], "before anything runs"
    assert any("All of these states were trained on. Episodes from one state" in notice for notice in begun.summary["notices"])

    # Where the record is lost, nobody claims to know. (A checkpoint of an earlier release has no checksums.)
    for name in (MANIFEST, accounts.FILE, f"policy/{FILE}"):
        (begun.checkpoints[-1] / name).unlink()
    unknown = rlvla3.evaluate(begun, progress=False).initial_states
    assert unknown is not None and not unknown["complete"] and unknown["trained_on"] == 0
