"""Rollouts, between two real processes and by hand."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlvla3.instructions import InstructionError
from rlvla3.links.rollouts import Rollouts, RolloutSpec
from rlvla3.types import ActionSpace, Field, Finished, Observation, Outcome, Purpose, Spaces, Ticket
from tests.support.processes import another_process

SPACES = Spaces({"front": (4, 5, 3), "wrist": (2, 2, 1)}, state=3, action=ActionSpace("continuous", 2), max_steps=8)
SPEC = RolloutSpec(SPACES, chunk=2, trace={"noise": Field((2, 2), np.float32)}, capacity=3)
BLIND = RolloutSpec(Spaces({}, state=0, action=ActionSpace("discrete", 1, choices=2), max_steps=3), chunk=1, trace={}, capacity=2)


def observation(rng: np.random.Generator, spaces: Spaces, instruction: str = "") -> Observation:
    images = {camera: rng.integers(0, 256, shape).astype(np.uint8) for camera, shape in spaces.cameras.items()}
    return Observation(images, rng.standard_normal(spaces.state).astype(np.float32), instruction, elapsed=float(np.float32(rng.random())))


def seen(observation: Observation) -> dict[str, Any]:
    return {f"image.{camera}": image for camera, image in observation.images.items()} | {"state": observation.state, "elapsed": observation.elapsed}


def decided(rng: np.random.Generator, spec: RolloutSpec) -> dict[str, Any]:
    decision = {name: rng.standard_normal((spec.chunk, spec.spaces.action.size)).astype(np.float32) for name in ("actions", "logprob")}
    traces = {f"trace.{name}": rng.standard_normal(field.shape).astype(np.float32) for name, field in spec.trace.items()}
    return decision | traces | {"value": np.float32(rng.standard_normal()), "version": int(rng.integers(0, 9))}


def play(rollouts: Rollouts, index: int, decisions: int, *, executed: int = 1, truncated: bool = False) -> tuple[Finished, list[dict[str, Any]]]:
    """An episode of random content, the same for the same index: what its writer says of it, and what must stand in its rows.

    executed: steps of its last chunk. truncated: one more observation is seen, and its value asked for.
    """
    rng, spec = np.random.default_rng(index), rollouts.spec
    before = observation(rng, spec.spaces, told(index, 0))
    episode = rollouts.begin(Ticket(index, "reach", seed=index, group=index), before)
    rows: list[dict[str, Any]] = []
    for row in range(decisions + truncated):
        decision = decided(rng, spec)
        rollouts.scatter(np.array([index]), np.array([row]), {name: np.asarray(value)[None] for name, value in decision.items()})
        np.testing.assert_array_equal(episode.actions, decision["actions"])
        rows.append(seen(before) | decision)
        if row == decisions:
            break
        last = row == decisions - 1
        rewards = rng.standard_normal(executed if last else spec.chunk).astype(np.float32)
        before = observation(rng, spec.spaces, told(index, row + 1))
        after = None if last and not truncated else before
        episode.record(Outcome(decision["actions"], rewards, after, success=last, terminated=last and not truncated, truncated=last and truncated))
        rows[row] |= {"rewards": np.pad(rewards, (0, spec.chunk - len(rewards))), "executed": len(rewards)}
    return episode.finish(), rows


def told(index: int, row: int) -> str:
    """The instruction of a decision: it changes at every second row, and returns."""
    return f"task {index}: grüß {row // 2 % 2}"


def instructions(rollouts: Rollouts, index: int, rows: int) -> list[str]:
    return rollouts.instructions(np.full(rows, index), np.arange(rows))


def assert_holds(rollouts: Rollouts, index: int, rows: list[dict[str, Any]]) -> None:
    assert instructions(rollouts, index, len(rows)) == [told(index, row) for row in range(len(rows))]
    for row, expected in enumerate(rows):
        gathered = rollouts.gather(np.array([index]), np.array([row]), expected)
        for name, value in expected.items():
            np.testing.assert_array_equal(gathered[name][0], value, err_msg=f"{name} of ticket {index}, row {row}")


episodes = st.tuples(st.integers(1, 4), st.integers(1, 2), st.booleans())


@given(st.lists(episodes, min_size=3, max_size=3), st.integers(0, 1000))
def test_an_episode_is_gathered_as_it_was_written(lengths: list[tuple[int, int, bool]], first: int):
    rollouts = Rollouts(SPEC)
    written = {first + n: play(rollouts, first + n, count, executed=executed, truncated=cut) for n, (count, executed, cut) in enumerate(lengths)}
    for (index, (finished, rows)), (count, executed, cut) in zip(written.items(), lengths, strict=True):
        assert_holds(rollouts, index, rows)
        made = rows[:count]
        assert finished.ticket.index == rollouts.about(index, "ticket") == index
        assert finished.decisions == rollouts.decisions(index) == count
        assert finished.steps == rollouts.about(index, "steps") == 2 * (count - 1) + executed
        assert finished.success and rollouts.about(index, "success")
        assert rollouts.about(index, "terminated") == (not cut)
        assert finished.return_ == pytest.approx(sum(float(row["rewards"].sum()) for row in made))
        assert (finished.oldest, finished.newest) == (min(row["version"] for row in made), max(row["version"] for row in made))
        np.testing.assert_array_equal(rollouts.episode(index, "actions"), [row["actions"] for row in made])


def play_in_child(rollouts: Rollouts) -> None:
    play(rollouts, 4, decisions=4, truncated=True)


def test_an_episode_written_by_one_process_is_gathered_by_another():
    rollouts = Rollouts(SPEC)
    with another_process(play_in_child, rollouts):
        pass
    finished, rows = play(Rollouts(SPEC), 4, decisions=4, truncated=True)
    assert_holds(rollouts, 4, rows)
    assert rollouts.decisions(4) == finished.decisions


def test_many_decisions_are_gathered_and_scattered_at_once_in_the_order_asked_for():
    rollouts = Rollouts(SPEC)
    rows = {index: play(rollouts, index, decisions=4)[1] for index in (3, 4, 5)}
    tickets, numbers = np.array([5, 3, 5, 4]), np.array([0, 2, 3, 2])
    state = rollouts.gather(tickets, numbers, ["state"])["state"]
    np.testing.assert_array_equal(state, [rows[ticket][row]["state"] for ticket, row in zip(tickets, numbers, strict=True)])

    rollouts.scatter(tickets, numbers, {"value": np.arange(4, dtype=np.float32)})
    state[:] = 0  # a copy: nothing is written back
    for value, (ticket, row) in enumerate(zip(tickets, numbers, strict=True)):
        rows[ticket][row]["value"] = value
    for index in rows:
        assert_holds(rollouts, index, rows[index])


def test_arrays_to_gather_into_are_written_and_what_lies_behind_the_rows_stays():
    rollouts = Rollouts(SPEC)
    for index in (3, 4, 5):
        play(rollouts, index, decisions=4)
    tickets, numbers, names = np.array([5, 3, 5]), np.array([0, 2, 3]), (*rollouts.observation_names, "value")
    wide = {name: np.full_like(array, 7) for name, array in rollouts.gather(np.array([3, 3, 3, 3, 3]), np.arange(5), names).items()}

    gathered = rollouts.gather(tickets, numbers, names, wide)

    for name, expected in rollouts.gather(tickets, numbers, names).items():
        np.testing.assert_array_equal(gathered[name], expected)
        assert np.shares_memory(gathered[name], wide[name])
        assert (wide[name][3:] == 7).all()


def test_nothing_is_cast_on_the_way():
    with pytest.raises(TypeError, match=r"image\.front is uint8, and it is to be gathered into bool"):
        Rollouts(SPEC).gather(np.array([0]), np.array([0]), ["image.front"], {"image.front": np.zeros((1, 4, 5, 3), bool)})


@pytest.mark.parametrize("row", [-1, SPEC.rows])
def test_a_row_of_another_episode_is_never_touched(row: int):
    rollouts = Rollouts(SPEC)
    here = np.array([0, 1]), np.array([0, row])
    for touch in (lambda: rollouts.gather(*here, ["value"]), lambda: rollouts.scatter(*here, {"version": np.array(3)})):
        with pytest.raises(IndexError, match="an episode has rows 0 to 4"):
            touch()


def test_a_block_holds_its_newest_ticket_alone_and_says_so():
    rollouts = Rollouts(SPEC)
    for index in range(3):
        play(rollouts, index, decisions=4)
    _, beside = play(rollouts, 1, decisions=2)

    _, rows = play(rollouts, 3, decisions=1)

    assert rollouts.decisions(3) == 1
    assert_holds(rollouts, 3, rows)
    assert_holds(rollouts, 1, beside)
    asked_for = np.array([3, 1, 3]), np.array([0, 1, 0])
    assert rollouts.instructions(*asked_for) == [told(3, 0), told(1, 1), told(3, 0)]
    asks = (lambda: rollouts.decisions(0), lambda: rollouts.episode(0, "actions"), lambda: instructions(rollouts, 0, 1))
    for ask in (*asks, lambda: rollouts.instructions(np.array([1, 0]), np.array([0, 0]))):
        with pytest.raises(LookupError, match="ticket 0 is no longer in the data plane: its block holds ticket 3"):
            ask()


def test_an_episode_that_has_begun_has_no_decisions_of_the_one_before_it():
    rollouts = Rollouts(SPEC)
    play(rollouts, 0, decisions=4)
    rollouts.begin(Ticket(3, "reach", seed=3, group=3), observation(np.random.default_rng(0), SPACES))
    assert rollouts.decisions(3) == 0


def test_a_demonstration_was_decided_by_no_version():
    rng = np.random.default_rng(0)
    episode = Rollouts(SPEC).begin(Ticket(0, "reach", 0, 0, Purpose.DEMONSTRATE), observation(rng, SPACES))
    episode.record(Outcome(np.zeros((2, 2), np.float32), np.ones(2, np.float32), None, terminated=True))
    finished = episode.finish()
    assert (finished.oldest, finished.newest) == (-1, -1)


def an_episode_told(rollouts: Rollouts, index: int, texts: Sequence[str]) -> None:
    """An episode whose decisions read `texts`, and which a time limit ends: the last text is that of the last observation."""
    rng, chunk = np.random.default_rng(0), np.zeros((2, 2), np.float32)
    episode = rollouts.begin(Ticket(index, "reach", 0, 0), observation(rng, SPACES, texts[0]))
    for row, text in enumerate(texts[1:]):
        last = row == len(texts) - 2
        episode.record(Outcome(chunk, np.ones(2, np.float32), observation(rng, SPACES, text), truncated=last))


texts = st.lists(st.sampled_from(["", "push", "pull", "grüß", "x" * 256, "推す", "🙂", " push ", "push\n"]), min_size=2, max_size=SPEC.rows)


@given(texts, texts)
def test_every_decision_has_the_instruction_of_its_own_observation_here_and_where_the_episode_is_sent(earlier: list[str], later: list[str]):
    here, there = Rollouts(SPEC), Rollouts(SPEC)
    for index, sentences in ((0, earlier), (3, later)):  # one block, one after the other
        an_episode_told(here, index, sentences)
        there.unpack(index, here.parcel(index))
        assert instructions(here, index, len(sentences)) == sentences
        assert instructions(there, index, len(sentences)) == sentences


def test_an_instruction_that_stays_is_written_and_sent_once():
    rollouts = Rollouts(SPEC)
    an_episode_told(rollouts, 0, ["push"] * 2 + ["".join("push")] * 2)
    assert rollouts.parcel(0)["instruction.text"].shape == (1, 256)


REFUSED = {
    "é" * 128 + "!": "instruction has 257 bytes, but at most 256 are kept: shorten",
    "push\0": "has a character of code 0",
    "\ud800": "is no valid Unicode at character 0",
    b"push": "instruction is b'push', of type bytes: give a str",
    None: "instruction is None, of type NoneType",
    7: "instruction is 7, of type int",
}


@pytest.mark.parametrize("instruction", REFUSED)
def test_an_instruction_is_kept_whole_or_refused(instruction: Any):
    for row, texts in ((0, [instruction, "push"]), (1, ["push", instruction])):
        with pytest.raises(InstructionError, match=re.escape(REFUSED[instruction])) as refusal:
            an_episode_told(Rollouts(SPEC), 5, texts)
        assert str(refusal.value).startswith(f"at decision {row} of Ticket(index=5")


def test_a_simulator_may_show_neither_image_nor_state():
    rollouts = Rollouts(BLIND)
    _, rows = play(rollouts, 1, decisions=3, truncated=True)
    assert rollouts.observation_names == ("state", "elapsed")
    assert rollouts.gather(np.array([1, 1]), np.array([0, 3]), ["state"])["state"].shape == (2, 0)
    assert_holds(rollouts, 1, rows)
