"""Rollouts, between two real processes and by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

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
    before = observation(rng, spec.spaces, f"task {index}: grüß")
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
        before = observation(rng, spec.spaces)
        after = None if last and not truncated else before
        episode.record(Outcome(decision["actions"], rewards, after, success=last, terminated=last and not truncated, truncated=last and truncated))
        rows[row] |= {"rewards": np.pad(rewards, (0, spec.chunk - len(rewards))), "executed": len(rewards)}
    return episode.finish(), rows


def assert_holds(rollouts: Rollouts, index: int, rows: list[dict[str, Any]]) -> None:
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
        assert rollouts.instruction(index) == f"task {index}: grüß"
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
    assert rollouts.instructions(np.array([3, 1, 3])) == ["task 3: grüß", "task 1: grüß", "task 3: grüß"]
    asks = (lambda: rollouts.decisions(0), lambda: rollouts.episode(0, "actions"), lambda: rollouts.instruction(0))
    for ask in (*asks, lambda: rollouts.instructions(np.array([1, 0]))):
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


@pytest.mark.parametrize(("instruction", "fits"), [("é" * 128, True), ("é" * 128 + "!", False), ("", True)])
def test_an_instruction_is_kept_whole_or_refused(instruction: str, fits: bool):
    rollouts = Rollouts(SPEC)
    seen_first = observation(np.random.default_rng(0), SPACES, instruction)
    if fits:
        rollouts.begin(Ticket(0, "reach", 0, 0), seen_first)
        assert rollouts.instruction(0) == instruction
    else:
        with pytest.raises(ValueError, match="instruction of 257 bytes, at most 256 are kept: shorten"):
            rollouts.begin(Ticket(0, "reach", 0, 0), seen_first)


def test_a_simulator_may_show_neither_image_nor_state():
    rollouts = Rollouts(BLIND)
    _, rows = play(rollouts, 1, decisions=3, truncated=True)
    assert rollouts.observation_names == ("state", "elapsed")
    assert rollouts.gather(np.array([1, 1]), np.array([0, 3]), ["state"])["state"].shape == (2, 0)
    assert_holds(rollouts, 1, rows)
