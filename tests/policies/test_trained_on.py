"""A policy's folder says which initial states the policy was trained on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlvla3.policies.trained_on import FILE, TrainedOn
from rlvla3.types import InitialStates, Ticket

SETS = {"libero_goal/8": InitialStates(50, "libero_goal/put_the_bowl_on_the_plate"), "near": InitialStates(5, "mine:Env/near")}


def ticket(task: str, state: int | None) -> Ticket:
    return Ticket(0, task, seed=0, group=0, initial_state=state)


@given(st.dictionaries(st.text(max_size=8), st.frozensets(st.integers(0, 99), min_size=1, max_size=5), max_size=4), st.booleans())
def test_what_was_written_is_read(tmp_path_factory: pytest.TempPathFactory, states: dict[str, frozenset[int]], complete: bool):
    folder = tmp_path_factory.mktemp("policy")
    TrainedOn(states, complete).write(folder)
    assert TrainedOn.read(folder) == TrainedOn(states, complete)


def test_a_new_policy_was_trained_on_nothing_and_of_a_foreign_one_nobody_knows(tmp_path: Path):
    assert TrainedOn.read(None) == TrainedOn({}, complete=True)
    assert TrainedOn.read(tmp_path) == TrainedOn({}, complete=False)
    assert TrainedOn.read(Path("lerobot/pi0")) == TrainedOn({}, complete=False)


GOOD = {"initial_states": {"a": [1, 2]}, "complete": True}


@pytest.mark.parametrize(
    "damaged",
    [
        "",
        "{",
        "null",
        "[]",
        "7",
        '"all"',
        "[" * 9999,
        json.dumps(GOOD)[:-9],
        json.dumps({"complete": True}),
        json.dumps({"initial_states": {}}),
        json.dumps(GOOD | {"complete": "yes"}),
        json.dumps(GOOD | {"complete": 1}),
        json.dumps(GOOD | {"initial_states": None}),
        json.dumps(GOOD | {"initial_states": []}),
        json.dumps(GOOD | {"initial_states": {"a": 1}}),
        json.dumps(GOOD | {"initial_states": {"a": [-1]}}),
        json.dumps(GOOD | {"initial_states": {"a": [1.5]}}),
        json.dumps(GOOD | {"initial_states": {"a": ["1"]}}),
        json.dumps(GOOD | {"initial_states": {"a": [True]}}),
        json.dumps(GOOD | {"initial_states": {"a": [10**400]}}),
        json.dumps(GOOD | {"initial_states": {"a": {"1": 1}}}),
        '{"initial_states": {"a": [NaN]}, "complete": true}',
    ],
)
def test_a_damaged_record_is_no_record(tmp_path: Path, damaged: str):
    (tmp_path / FILE).write_text(damaged)
    assert TrainedOn.read(tmp_path) == TrainedOn({}, complete=False)


@pytest.mark.parametrize("content", [b"\xff\xfe\x00", b"\x00" * 100])
def test_a_record_that_is_not_text_is_no_record(tmp_path: Path, content: bytes):
    (tmp_path / FILE).write_bytes(content)
    assert TrainedOn.read(tmp_path) == TrainedOn({}, complete=False)


def test_parts_of_a_set_are_remembered_by_their_numbers_in_the_whole_set():
    parts = {first: {"near": InitialStates(50, "near, seeds", first)} for first in (0, 1000)}
    after = TrainedOn().and_tickets([ticket("near", 7)], parts[0]).and_tickets([ticket("near", 7), ticket("near", 8)], parts[1000])
    assert after.states == {"near, seeds": {7, 1007, 1008}}


def test_a_record_of_0_1_0_with_a_first_seed_in_the_name_is_still_known(tmp_path: Path):
    content = {"initial_states": {"reach-v3, seeds from 1000": [0, 5], "reach-v3, seeds from 0": [1005, 2], "other, seeds from": [1]}, "complete": True}
    (tmp_path / FILE).write_text(json.dumps(content))
    assert TrainedOn.read(tmp_path).states == {"reach-v3, seeds": {1000, 1005, 2}, "other, seeds from": {1}}


@pytest.mark.parametrize(
    "given_", [[], [("near", None)], [("near", 1)], [("libero_goal/8", 7), ("libero_goal/8", 7), ("near", 1)], [("near", 1), ("elsewhere", None)]]
)
@pytest.mark.parametrize("complete", [True, False])
def test_tickets_are_remembered_under_the_name_of_their_set(given_: list[tuple[str, Any]], complete: bool):
    before = TrainedOn({"mine:Env/near": frozenset([0]), "earlier": frozenset([3])}, complete)
    after = before.and_tickets([ticket(task, state) for task, state in given_], SETS)
    expected = {name: set(numbers) for name, numbers in before.states.items()}
    for task, state in given_:
        if state is not None:
            expected.setdefault(SETS[task].name, set()).add(state)
    assert {name: set(numbers) for name, numbers in after.states.items()} == expected and after.complete == complete
    assert not after.and_unknown().complete and after.and_unknown().states == after.states
