"""Shared arrays, doorbells and rollouts, between two real processes and by hand."""

from __future__ import annotations

import asyncio
import gc
import re
import sys
import time
from multiprocessing import resource_tracker
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes

from rlvla3.links.data_plane import DataPlane
from rlvla3.links.doorbell import Doorbell
from rlvla3.links.rollouts import Rollouts, RolloutSpec
from rlvla3.links.weights.versions import WeightMemory
from rlvla3.scheduling.sharding import Sharding, lay_out
from rlvla3.shared_memory import ALIGNMENT, SharedArrays
from rlvla3.types import ActionSpace, Field, Finished, Observation, Outcome, Purpose, Spaces, Ticket
from tests.support.processes import PATIENCE_S, another_process

# Shared arrays


def double(arrays: SharedArrays) -> None:
    for array in arrays.values():
        array *= 2


def test_what_one_process_writes_the_other_reads():
    layout = {"image": Field((2, 3), np.uint8), "none": Field((4, 0), np.float32), "one": Field((), np.int64), "state": Field((5,), np.float32)}
    arrays = SharedArrays(layout)
    for array in arrays.values():
        array[...] = np.arange(1, array.size + 1).reshape(array.shape)
    with another_process(double, arrays):
        pass
    assert list(arrays) == list(layout)
    for name, array in arrays.items():
        assert (array.shape, array.dtype) == (layout[name].shape, layout[name].dtype)
        np.testing.assert_array_equal(array, 2 * np.arange(1, array.size + 1).reshape(array.shape))


shapes = st.one_of(st.just(()), st.just((3, 0)), array_shapes(max_dims=3, max_side=9))
layouts = st.lists(st.tuples(shapes, st.sampled_from([np.bool_, np.uint8, np.int16, np.float32, np.float64])), max_size=8)


@given(layouts)
def test_arrays_begin_as_zeros_on_cache_lines_of_their_own(fields: list[tuple[tuple[int, ...], Any]]):
    arrays = SharedArrays({str(number): Field(shape, dtype) for number, (shape, dtype) in enumerate(fields)})
    for number, array in enumerate(arrays.values()):
        assert not array.any()
        assert array.ctypes.data % ALIGNMENT == 0 or not array.size
        array[...] = number + 1
    for number, (array, (_, dtype)) in enumerate(zip(arrays.values(), fields, strict=True)):
        assert (array == np.array(number + 1, dtype)).all()


def test_an_array_outlives_the_plane_it_came_from():
    array = SharedArrays({"numbers": Field((3,), np.int64)})["numbers"]
    gc.collect()
    array[:] = 7
    assert array.sum() == 21


def look(*links: Any) -> None:
    """What a worker does with links at the least: being handed them."""


@pytest.mark.skipif(sys.platform != "linux", reason="looks at /proc")
def test_links_have_no_name_in_the_file_system_and_leave_no_descriptor_behind():
    resource_tracker.ensure_running()  # multiprocessing starts it once, with the first process
    before, named = descriptors(), named_memory()  # some of another library's, of an earlier test
    links = [DataPlane(SPEC, lay_out([Sharding(2, 2)], 2), generators=2), WeightMemory(), Doorbell()]
    assert named_memory() == named
    with another_process(look, *links):
        assert len(descriptors()) > len(before)
    links.clear()
    gc.collect()
    assert descriptors() == before


def named_memory() -> set[str]:
    """The files of shared memory that this process has mapped."""
    return set(re.findall(r"/dev/shm/\S*", Path("/proc/self/maps").read_text()))


def descriptors() -> dict[str, str]:
    """The open descriptors of this process, and what they are of; that of the listing itself is gone by the time it is looked at."""
    return {path.name: str(path.readlink()) for path in Path("/proc/self/fd").iterdir() if path.is_symlink()}


# Doorbells

RINGS = 6000
"""Of three writers: more than fit into a pipe at once."""


def ring_often(bell: Doorbell, writer: int) -> None:
    for number in range(RINGS):
        bell.ring(writer * RINGS + number)


async def hear(bell: Doorbell, count: int) -> list[int]:
    heard: list[int] = []
    while len(heard) < count:
        await asyncio.wait_for(bell.wait(), PATIENCE_S)
        heard += bell.collect()
    return heard


def test_no_ring_of_many_writers_is_lost_torn_or_overtaken():
    bell = Doorbell()
    with another_process(ring_often, bell, 0), another_process(ring_often, bell, 1), another_process(ring_often, bell, 2):
        heard = asyncio.run(hear(bell, 3 * RINGS))
    for writer in range(3):
        assert [number for number in heard if number // RINGS == writer] == list(range(writer * RINGS, (writer + 1) * RINGS))
    assert bell.collect() == []


def waited(bell: Doorbell, *, deadline: float | None = None, meanwhile: Any = None) -> float:
    """Seconds that a wait took. meanwhile: called once it has begun."""

    async def wait() -> float:
        began = time.monotonic()
        if meanwhile is not None:
            asyncio.get_running_loop().call_soon(meanwhile)
        await asyncio.wait_for(bell.wait(None if deadline is None else began + deadline), PATIENCE_S)
        return time.monotonic() - began

    return asyncio.run(wait())


def test_a_ring_before_the_wait_ends_it_and_stays_to_be_collected():
    bell = Doorbell()
    for number in (7, 3, 7):
        bell.ring(number)
    waited(bell)
    assert bell.collect() == [7, 3, 7]
    assert bell.collect() == []


def test_a_ring_ends_a_wait_long_before_its_deadline():
    bell = Doorbell()
    assert waited(bell, deadline=PATIENCE_S, meanwhile=lambda: bell.ring(5)) < PATIENCE_S / 2
    assert bell.collect() == [5]


def test_a_wait_ends_at_its_deadline_with_nothing_heard():
    bell = Doorbell()
    assert 0.03 <= waited(bell, deadline=0.03) < PATIENCE_S / 2
    assert bell.collect() == []


def test_a_deadline_that_has_passed_does_not_wait():
    assert waited(Doorbell(), deadline=-1.0) < PATIENCE_S / 2


# Rollouts

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


def test_a_block_holds_its_newest_ticket_alone_and_says_so():
    rollouts = Rollouts(SPEC)
    for index in range(3):
        play(rollouts, index, decisions=4)
    _, beside = play(rollouts, 1, decisions=2)

    _, rows = play(rollouts, 3, decisions=1)

    assert rollouts.decisions(3) == 1
    assert_holds(rollouts, 3, rows)
    assert_holds(rollouts, 1, beside)
    for ask in (lambda: rollouts.decisions(0), lambda: rollouts.episode(0, "actions"), lambda: rollouts.instruction(0)):
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
