"""Several trainer ranks: the same update as on one, whatever lies where; checkpoints for any number of them; and what becomes of a run that loses one."""

from __future__ import annotations

import errno
import os
import queue
import shutil
import signal
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlvla3.config import make_recipe
from rlvla3.errors import RecipeError
from rlvla3.observability.accounts import Accounts
from rlvla3.observability.run_directory import RunDirectory, version_of
from rlvla3.policies.running_normalisation import COUNTED
from rlvla3.scheduling.streamer import Streamer
from rlvla3.training.checkpoint import CheckpointError, CheckpointWriter
from rlvla3.training.learner import Learner
from rlvla3.training.ranks import SINGLE_RANK, RankLost, Ranks
from rlvla3.types import MicroBatch
from tests.support.ranks import LIMIT_S, Done, Lost, Work, alone, do, do_all, lose_the_other, together
from tests.support.runs import Run, countdown
from tests.support.thorough import thorough
from tests.support.tiny import TinyPolicy, tiny_recipe, tiny_rollouts

pytestmark = pytest.mark.usefixtures("no_run_outlives_its_test")
GROUPS = {"advantage": "grpo", "group_size": 2, "filter_groups": True}
FULL = {"sharding": "full"}
STALE_AND_UNEVEN = {
    "gae with a critic": Work(algorithm={"kl_stop": 5.0}),
    "gae in shards": Work(algorithm={"kl_stop": 5.0}, training=FULL),
    "v-trace": Work(algorithm={"correction": "vtrace"}),
    "v-trace in shards": Work(algorithm={"correction": "vtrace"}, training=FULL),
    "no fresh decision": Work(all_stale=True),
    "no fresh decision, in shards": Work(all_stale=True, training=FULL),
    "the sampler is corrected": Work(algorithm={"sampler_correction": "truncated"}),
    "the sampler is corrected, around the behaviour policy, in shards": Work(
        algorithm={"sampler_correction": "truncated", "correction": "none", "kl_stop": 5.0}, training=FULL
    ),
    # Of the first step's two groups one is filtered out, and with it all of a rank's decisions.
    "grpo, nothing for a rank": Work(algorithm=GROUPS, successes=(0, 1, 4)),
    "grpo, nothing for a rank, in shards": Work(algorithm=GROUPS, successes=(0, 1, 4), training=FULL),
    "grpo, a step without gradient": Work(algorithm=GROUPS, successes=(0,), training=FULL),
    "mini vla in shards": Work(
        "mini_vla", algorithm={"reference": {"weight": 0.2}}, training=FULL | {"critic": {"warmup": 1, "epochs": 1}, "steps": 1, "micro_batch": 5}, updates=3
    ),
    "adapters in shards": Work("adapters", training=FULL | {"epochs": 1, "steps": 1, "micro_batch": 5}, updates=2),
}
IN_BF16 = Work("mini_vla", exact=False, training=FULL | {"precision": "bf16", "epochs": 1, "steps": 1, "micro_batch": 5}, updates=2)
KEPT = Work(algorithm={"reference": {"weight": 0.2}}, training=FULL, updates=2)


@pytest.fixture(scope="module")
def kept_in(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("run")


@pytest.fixture(scope="module")
def by_two(kept_in: Path) -> dict[str, list[Done]]:
    """What both of two ranks have, of every work."""
    works = STALE_AND_UNEVEN | {"bf16": IN_BF16, "kept": replace(KEPT, keep_in=kept_in)}
    return dict(zip(works, zip(*together(2, do_all, list(works.values())), strict=True), strict=True))  # type: ignore[arg-type]


@pytest.mark.slow
@pytest.mark.parametrize("name", STALE_AND_UNEVEN)
def test_two_ranks_make_the_updates_of_one(by_two: dict[str, list[Done]], name: str) -> None:
    """Law 3 across ranks: every gradient, every metric and the weights, with uneven and stale episodes, several steps and epochs."""
    one = alone(STALE_AND_UNEVEN[name])
    for rank in by_two[name]:
        assert len(rank.gradients) == len(one.gradients) > 0
        for ours, whole in zip(rank.gradients, one.gradients, strict=True):
            assert np.abs(ours - whole).max() <= 1e-10 * np.abs(whole).max() + 1e-15
        if not name.startswith("grpo"):  # there, no decision may be left to learn from
            assert all("sampler_mismatch_p99" in measured for measured in rank.metrics[STALE_AND_UNEVEN[name].all_stale :])
        for measured, expected in zip(rank.metrics, one.metrics, strict=True):
            assert list(measured) == list(expected)
            assert measured == pytest.approx(expected, rel=1e-9, abs=1e-12)
        for parameter, expected_weights in one.weights.items():
            np.testing.assert_allclose(rank.weights[parameter], expected_weights, rtol=1e-9, atol=1e-9)


@pytest.mark.slow
def test_both_ranks_have_the_same_bits(by_two: dict[str, list[Done]]) -> None:
    for first, second in by_two.values():
        assert {name: array.tobytes() for name, array in first.weights.items()} == {name: array.tobytes() for name, array in second.weights.items()}
        assert first.metrics == second.metrics


@pytest.mark.slow
def test_low_precision_comes_near_and_keeps_weights_in_full(by_two: dict[str, list[Done]]) -> None:
    one, low = alone(IN_BF16), by_two["bf16"][0]
    distances = [float(np.linalg.norm(ours - whole) / np.linalg.norm(whole)) for ours, whole in zip(low.gradients[:1], one.gradients, strict=False)]
    assert all(1e-5 < distance < 0.05 for distance in distances)
    assert {array.dtype for name, array in low.weights.items() if not name.endswith(COUNTED)} == {np.dtype(np.float32)}  # what is only counted with is fp64


@pytest.mark.slow
@pytest.mark.parametrize("ranks", [1, *thorough(4)])
def test_a_checkpoint_of_two_ranks_is_resumed_on_others(by_two: dict[str, list[Done]], kept_in: Path, ranks: int) -> None:
    """The loss curve goes on as if nothing had been."""
    assert by_two["kept"]
    whole = alone(replace(KEPT, updates=4))
    rest = replace(KEPT, first=2, begin_from=kept_in / "checkpoints" / "000002")
    resumed = [alone(rest)] if ranks == 1 else together(ranks, do, rest)
    for each in resumed:
        for measured, expected in zip(each.metrics, whole.metrics[2:], strict=True):
            assert measured == pytest.approx(expected, rel=1e-9, abs=1e-12)
        for name, expected_weights in whole.weights.items():
            np.testing.assert_allclose(each.weights[name], expected_weights, rtol=1e-9, atol=1e-9)


@st.composite
def updates(draw: st.DrawFn) -> tuple[dict[str, Any], list[int], list[int]]:
    """Settings of a streamer, decisions of each ticket of an update, and the order in which they arrive."""
    group_size, groups, steps = draw(st.integers(1, 3)), draw(st.integers(1, 5)), draw(st.integers(1, 3))
    batch = group_size * groups * steps
    shape = {"batch": batch, "group_size": group_size, "steps": steps, "epochs": 2, "micro_batch": draw(st.integers(1, 9)), "streaming": draw(st.booleans())}
    return shape, draw(st.lists(st.integers(1, 6), min_size=batch, max_size=batch)), draw(st.permutations(range(batch)))


def rounds(streamer: Streamer, decisions: list[int], order: list[int], bursts: list[int]) -> list[MicroBatch]:
    """One rank's micro-batches, where arrivals are heard of in bursts."""
    heard, left, emitted = iter(bursts), iter(order), []
    for micro_batch in streamer.update(0):
        emitted += [micro_batch] if micro_batch is not None else []
        for _ in range(max(next(heard, 1), micro_batch is None)):
            if (ticket := next(left, None)) is not None:
                streamer.arrived(ticket, decisions[ticket])
    return emitted


@settings(max_examples=150)
@given(updates(), st.integers(1, 4), st.lists(st.lists(st.integers(0, 5), max_size=12), min_size=4, max_size=4))
def test_ranks_agree_on_every_round_whenever_they_hear_of_arrivals(update: tuple[dict[str, Any], list[int], list[int]], ranks: int, bursts: Any) -> None:
    shape, decisions, order = update
    of_rank = [rounds(Streamer(**shape, seed=3, rank=rank, ranks=ranks), decisions, order, bursts[rank]) for rank in range(ranks)]
    for parts in zip(*of_rank, strict=True):  # as many on each
        assert len({(part.epoch, part.step, part.closes_step, part.closes_epoch) for part in parts}) == 1
        assert any(len(part) for part in parts) and all(len(part) <= shape["micro_batch"] for part in parts)
        assert all((part.tickets // shape["group_size"] % ranks == rank).all() for rank, part in enumerate(parts))
    emitted = Counter((part.epoch, *pair) for parts in of_rank for part in parts for pair in zip(part.tickets.tolist(), part.rows.tolist(), strict=True))
    assert emitted == Counter((epoch, ticket, row) for epoch in range(2) for ticket in range(shape["batch"]) for row in range(decisions[ticket]))
    if shape["steps"] * ranks <= shape["batch"] // shape["group_size"]:
        firsts = [{part.step: len(part) for part in reversed(parts) if part.epoch == 0} for parts in of_rank]
        assert all(
            len(step) == shape["steps"] and min(step.values()) > 0 for step in firsts
        )  # so a rank has a decision to pass over where it has none to learn


def near(weights: dict[str, bytes], others: dict[str, bytes]) -> bool:
    return weights.keys() == others.keys() and all(
        np.allclose(np.frombuffer(weights[name], np.float32), np.frombuffer(others[name], np.float32), rtol=0, atol=1e-6) for name in weights
    )


@pytest.mark.slow
def test_runs_come_to_the_same_weights_on_one_and_two_ranks(tmp_path: Path, nothing_left: None) -> None:
    streamed = {"max_batch": None, "max_wait_ms": None, "max_staleness": 0, "streaming": True}
    one = Run(tmp_path / "1", countdown(engine={"mode": "sync"})).finished()
    full = Run(tmp_path / "2", countdown(engine={"mode": "sync"}, training={"ranks": 2, "sharding": "full", "checkpoint_every": 2})).finished()
    none = Run(tmp_path / "3", countdown(engine=streamed, training={"ranks": 2, "deterministic": True})).finished()
    for run in (full, none):
        assert run.summary["tickets"] == one.summary["tickets"] == {"issued": 32, "trained": 32, "rerun": 0, "set_aside": 0}
        assert near(run.weights(4), one.weights(4))
        assert {worker["name"] for worker in run.summary["workers"]} >= {"trainer", "trainer 1"}

    shutil.rmtree(full.folder / "checkpoints" / "000004")
    resumed = Run(tmp_path, None, full.folder, "training.ranks=1", "training.sharding=none").finished()
    assert near(resumed.weights(4), one.weights(4))


@pytest.mark.slow
def test_a_rank_that_is_gone_is_missed_at_once() -> None:
    told, _ = together(2, lose_the_other)
    assert told.startswith("told: trainer rank 0 does not hear from another rank")


# Checkpoints that cannot be written


@pytest.mark.slow
@pytest.mark.parametrize("room_comes", [True, *thorough(False)])
def test_a_run_that_cannot_write_checkpoints_goes_on_and_tries_the_last_one_again(tmp_path: Path, room_comes: bool, nothing_left: None) -> None:
    patience = {"checkpoint_patience_s": 3600 if room_comes else 1}
    recipe = countdown(simulator={"options": {"kwargs": {"step_s": 0.02}}}, training={"updates": 1000, "checkpoint_every": 3, **patience})
    run = Run(tmp_path, recipe)
    folder, aside = run.folder / "checkpoints", tmp_path / "aside"

    def said(words: str) -> list[str]:
        return [notice["text"] for notice in run.records("notice") if words in notice["text"]]

    run.until(lambda: folder.exists() and RunDirectory(run.folder).latest_checkpoint())
    folder.rename(aside)
    folder.write_text("in the way")
    run.until(lambda: len(said("could not be written in")) >= 3)
    assert all("Training goes on" in text for text in said("could not be written in"))
    os.killpg(run.process.pid, signal.SIGTERM)
    if room_comes:
        run.until(lambda: said("The weights stay in memory"))
        folder.unlink()
        aside.rename(folder)
    printed = run.wait()
    assert "Traceback" not in printed
    newest = RunDirectory(run.folder).latest_checkpoint()
    if room_comes:
        assert run.process.returncode == 128 + signal.SIGTERM and newest and version_of(newest) == run.summary["updates"]
        assert run.summary["ended"] == "interrupted by SIGTERM"
    else:
        assert run.process.returncode == 2 and len(list(aside.iterdir())) >= 1
        assert "It was tried for 1 s (training.checkpoint_patience_s)" in printed.splitlines()[-1]
        folder.unlink()  # the test's own


def checkpoints_in(folder: Path, ranks: Ranks, most: int = 5) -> tuple[CheckpointWriter, queue.Queue[str]]:
    """Those of a learner, and what they tell."""
    told: queue.Queue[str] = queue.Queue()
    learner = Learner(TinyPolicy(), tiny_recipe(), tiny_rollouts(1), "cpu", ranks)
    return CheckpointWriter(RunDirectory(folder), most, learner, "tests.support.tiny:TinyPolicy", told.put), told


def kept(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / "checkpoints").iterdir())


def test_a_checkpoint_that_cannot_be_written_is_told_of_at_once_and_the_next_makes_up_for_it(tmp_path: Path) -> None:
    checkpoints, told = checkpoints_in(tmp_path, SINGLE_RANK)
    (tmp_path / "checkpoints").write_text("in the way")
    checkpoints.begin(Accounts(1))
    assert "checkpoint 1 could not be written" in told.get(timeout=LIMIT_S)  # nobody has asked
    (tmp_path / "checkpoints").unlink()
    checkpoints.begin(Accounts(2))
    checkpoints.begin(Accounts(3))
    checkpoints.finish()
    assert told.empty() and kept(tmp_path) == ["000002", "000003"]


def test_the_checkpoint_of_an_evaluation_is_there_until_it_is_known_whether_it_is_the_best(tmp_path: Path) -> None:
    checkpoints, told = checkpoints_in(tmp_path, SINGLE_RANK, most=1)
    checkpoints.keep(1)
    checkpoints.write(Accounts(1))
    checkpoints.keep(2)  # the first evaluation has just ended, and a second one begins before the writer knows
    checkpoints.begin(Accounts(2))
    checkpoints.begin(Accounts(3))
    checkpoints.keep_best(1)
    checkpoints.let_go(1)
    checkpoints.write(Accounts(4))
    assert told.empty() and kept(tmp_path) == ["000001", "000002", "000004", "best"]
    checkpoints.keep_best(2)
    checkpoints.let_go(2)
    checkpoints.write(Accounts(5))
    assert told.empty() and kept(tmp_path) == ["000002", "000005", "best"]


def test_those_under_way_are_told_of_and_the_last_is_an_error_that_may_be_tried_again(tmp_path: Path) -> None:
    checkpoints, told = checkpoints_in(tmp_path, SINGLE_RANK)
    (tmp_path / "checkpoints").write_text("in the way")
    for version in (1, 2, 3):
        checkpoints.begin(Accounts(version))
    with pytest.raises(CheckpointError, match=f"checkpoint 3 could not be written in {tmp_path}/checkpoints .*make sure that the disk has room"):
        checkpoints.finish()
    assert [told.get(timeout=LIMIT_S)[:12] for _ in range(3)] == ["checkpoint 1", "checkpoint 2", "checkpoint 3"]
    for _ in range(2):
        with pytest.raises(CheckpointError, match="checkpoint 4 could not be written"):
            checkpoints.write(Accounts(4))
    assert told.empty()  # who waits for it hears of it as an error
    (tmp_path / "checkpoints").unlink()
    checkpoints.write(Accounts(4))
    assert kept(tmp_path) == ["000004"]


def test_the_user_who_asked_for_a_checkpoint_hears_that_it_is_there(tmp_path: Path) -> None:
    checkpoints, told = checkpoints_in(tmp_path, SINGLE_RANK)
    checkpoints.begin(Accounts(1))
    checkpoints.begin(Accounts(2), asked=True)
    checkpoints.finish()
    assert told.get(timeout=LIMIT_S).startswith("checkpoint 2 kept in")
    assert told.empty()


TROUBLES = ("rank 0 has no folder", "rank 0 cannot write", "rank 1 cannot write")


def write_in_trouble(ranks: Ranks, folder: Path, troubles: Sequence[str]) -> dict[str, list[str]]:
    """What becomes, on one of two ranks, of a checkpoint that has each of `troubles` and of one after it that has none."""
    return {trouble: _write_in_trouble(ranks, folder / trouble, trouble) for trouble in troubles}


def _write_in_trouble(ranks: Ranks, folder: Path, trouble: str) -> list[str]:
    from torch.distributed.checkpoint.filesystem import FileSystemWriter

    def full(*_: Any, **__: Any) -> Any:
        if trouble == "rank 1 is gone":
            os._exit(1)
        raise OSError(errno.ENOSPC, "No space left on device")

    folder.mkdir(exist_ok=True)
    checkpoints, _ = checkpoints_in(folder, ranks)
    came_of_it = []
    with pytest.MonkeyPatch.context() as patch:
        if trouble == "rank 0 has no folder" and ranks.first:
            patch.setattr(RunDirectory, "checkpoint", full)
        elif trouble == "rank 0 cannot write" and ranks.first:
            patch.setattr(TinyPolicy, "save", full)
        elif trouble.startswith("rank 1") and not ranks.first:
            patch.setattr(FileSystemWriter, "write_data", full)
        for version in (1, 2):
            try:
                checkpoints.begin(Accounts(version))
                checkpoints.finish()
                came_of_it.append("")
            except (CheckpointError, RankLost) as error:
                came_of_it.append(f"{type(error).__name__}: {error}")
            patch.undo()
    return came_of_it


@pytest.mark.slow
def test_all_ranks_know_of_a_checkpoint_that_one_cannot_write_and_go_on(tmp_path: Path) -> None:
    for rank in together(2, write_in_trouble, tmp_path, TROUBLES):
        for failed, written in rank.values():
            assert failed.startswith("CheckpointError: checkpoint 1 could not be written") and "No space left on device" in failed
            assert written == ""
    assert [kept(tmp_path / trouble) for trouble in TROUBLES] == [["000002"]] * 3


@pytest.mark.slow
def test_a_rank_that_is_gone_in_the_midst_of_a_checkpoint_is_missed_and_nothing_is_kept(tmp_path: Path) -> None:
    first, gone = together(2, write_in_trouble, tmp_path, ["rank 1 is gone"])
    assert isinstance(gone, Lost) and first["rank 1 is gone"][0].startswith("RankLost")
    assert kept(tmp_path / "rank 1 is gone") == []


@pytest.mark.parametrize(
    ("training", "message"),
    [
        ({"batch": 8, "steps": 4, "ranks": 3}, "training.ranks=3 is more than the 2 groups of an optimizer step"),
        ({"compile": True, "sharding": "full", "ranks": 2}, "leave one of the two out"),
    ],
)
def test_settings_that_do_not_go_together_are_refused(training: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        make_recipe({"training": training})
