"""What a run goes on from: the newest checkpoint that is whole, with its own accounts, whatever has become of metrics.jsonl."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
import torch

from rlvla3.observability.accounts import Accounts
from rlvla3.observability.continuing import Continuation, continuation, went_back, whole_checkpoint
from rlvla3.observability.event_json import event_json
from rlvla3.observability.events import EvaluationFinished, Notice
from rlvla3.observability.intervals import success_rate
from rlvla3.observability.metrics_lines import read_lines
from rlvla3.observability.run_directory import RunDirectory, RunDirectoryError
from rlvla3.types import Finished, Ticket, TicketCounts
from tests.support.events import episodes, update

BEFORE = event_json(EvaluationFinished("before", 0, success_rate(episodes(5, 10)))) or {}


def accounts(version: int) -> Accounts:
    counts = TicketCounts(issued=64 * version + 3, trained=64 * version, rerun=2)
    return Accounts(version, counts, 64 * version, 40 * version, 4500 * version, 10.0 * version, {0: 60 * version, 1: 4 * version}, (BEFORE,))


def keep(run: RunDirectory, version: int, kept: Accounts | None) -> Path:
    """Write a checkpoint. kept: its accounts (None: those of an earlier release, which had none)."""
    with run.checkpoint(version, keep=9) as folder:
        for name in ("policy/config.json", "policy/model.safetensors", "parameters/.metadata"):
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).write_text(f"{name} of {version}")
        torch.save({}, folder / "trainer.pt")
        if kept:
            kept.write(folder)
    written = run.checkpoints / f"{version:06d}"
    if kept is None:
        (written / "manifest.json").unlink()
    return written


def write_lines(run: RunDirectory, *updates: int, others: tuple[dict[str, Any], ...] = ()) -> None:
    lines = [*(event_json(update(number)) for number in updates), *others]
    run.metrics.write_text("".join(json.dumps({"seconds": 12.5, **(line or {})}) + "\n" for line in lines))


def goes_on(run: RunDirectory) -> Continuation:
    return continuation(run, whole_checkpoint(run))


def test_the_accounts_are_the_checkpoints_also_where_metrics_were_never_written(run: RunDirectory):
    keep(run, 8, accounts(8))
    write_lines(run, 1, 2, 3)
    found = goes_on(run)
    assert found.accounts == accounts(8)
    assert [line["event"] for line in found.lines] == ["update"] * 3 + ["evaluation"], "an evaluation that the checkpoint knows comes back into the lines"
    assert len(found.notices) == 1 and "no line of 5 updates, from 4 to 8" in found.notices[0]


def test_a_gap_is_told_once(run: RunDirectory):
    keep(run, 4, accounts(4))
    write_lines(run, 1, 2, 4)
    told = goes_on(run).notices
    assert "no line of update 3" in told[0]
    write_lines(run, 1, 2, 4, others=(event_json(Notice(told[0])) or {},))
    assert goes_on(run).notices == []


@pytest.mark.parametrize("seed", range(20))
def test_lines_never_change_the_totals(run: RunDirectory, seed: int):
    """Whichever lines are there, twice, damaged or too late: totals are the checkpoint's, and no update or evaluation is there twice."""
    rng = random.Random(seed)
    version = rng.randint(1, 8)
    keep(run, version, accounts(version))
    write_lines(run, *rng.choices(range(1, 12), k=rng.randint(0, 14)), others=(BEFORE,) * rng.randint(0, 3))
    content = bytearray(run.metrics.read_bytes())
    for _ in range(rng.randint(0, 5)):
        if content:
            content[rng.randrange(len(content))] = rng.randrange(256)
    run.metrics.write_bytes(content)
    found = goes_on(run)
    assert found.accounts == accounts(version)
    numbers = [line["update"] for line in found.lines if line["event"] == "update"]
    assert len(numbers) == len(set(numbers)) and max(numbers, default=0) <= version
    evaluated = [(line["when"], line["version"]) for line in found.lines if line["event"] == "evaluation"]
    assert evaluated == [("before", 0)]


def test_updates_are_counted_exactly():
    rng, whole, steps, lags = random.Random(0), Accounts(), 0, {0: 0, 1: 0}
    for version in range(1, 30):
        lag = [rng.randint(0, 1) for _ in range(8)]
        done = [Finished(Ticket(0, "reach", 0, 0), 3, rng.randint(1, 9), rng.random() < 0.5, 0.0, oldest=version - 1 - late) for late in lag]
        whole = whole.and_update(done, TicketCounts(issued=8 * version + 5, rerun=version // 3), 2.5 * version)
        steps += sum(one.steps for one in done)
        lags = {late: count + lag.count(late) for late, count in lags.items()}
        assert (whole.version, whole.episodes, whole.environment_steps, whole.seconds, dict(whole.staleness)) == (
            version,
            8 * version,
            steps,
            2.5 * version,
            lags,
        )
        assert whole.tickets == TicketCounts(8 * version + 5, 8 * version, version // 3)


def test_accounts_come_back_as_they_were_written(tmp_path: Path):
    accounts(7).write(tmp_path)
    assert Accounts.read(tmp_path) == accounts(7)


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"version": "7"}', '{"version": 7, "staleness": {"one": 1}}', "\0"])
def test_damaged_accounts_are_damage_of_the_checkpoint(run: RunDirectory, content: str):
    keep(run, 2, accounts(2))
    newest = keep(run, 4, accounts(4))
    (newest / "accounts.json").write_text(content)
    assert whole_checkpoint(run).checkpoint == run.checkpoints / "000002"


def test_the_newest_whole_checkpoint_is_used_and_nothing_is_changed(run: RunDirectory):
    keep(run, 2, accounts(2))
    for version in (4, 6):
        (keep(run, version, accounts(version)) / "policy/model.safetensors").write_text("model of 1")
    before = sorted(path for path in run.path.rglob("*"))
    found = whole_checkpoint(run)
    assert found.checkpoint == run.checkpoints / "000002"
    assert [path.name for path in found.damaged] == ["000006", "000004"]
    assert len(found.notices) == 2 and "000006 is damaged: policy/model.safetensors has" in found.notices[0] and "Checkpoint 2 is used" in found.notices[0]
    assert sorted(path for path in run.path.rglob("*")) == before


def test_a_checkpoint_that_is_named_is_used_or_refused(run: RunDirectory):
    named = keep(run, 2, accounts(2))
    keep(run, 4, accounts(4))
    assert whole_checkpoint(run, named).checkpoint == named
    (named / "trainer.pt").write_bytes(b"")
    with pytest.raises(RunDirectoryError, match=r"000002 is damaged: trainer.pt has 0 bytes.*--run-dir FOLDER.*policy.checkpoint="):
        whole_checkpoint(run, named)
    assert whole_checkpoint(run, named, part="policy").checkpoint == named, "an evaluation needs the policy alone"


def test_a_run_whose_checkpoints_are_all_damaged_is_refused(run: RunDirectory):
    for version in (2, 4):
        (keep(run, version, accounts(version)) / "trainer.pt").unlink()
    with pytest.raises(RunDirectoryError, match=r"000004 is damaged: trainer.pt is missing, and the 1 older ones are damaged too"):
        whole_checkpoint(run)


def test_a_checkpoint_under_another_name_is_none(run: RunDirectory):
    keep(run, 2, accounts(2)).rename(run.checkpoints / "000009")
    with pytest.raises(RunDirectoryError, match="it is the checkpoint of update 2, and has the name of another"):
        whole_checkpoint(run)


@pytest.mark.parametrize("target", ["a file", "a link to nothing"])
def test_checkpoints_that_are_not_there_are_not_taken_for_a_new_run(run: RunDirectory, target: str):
    if target == "a file":
        run.checkpoints.write_text("")
    else:
        run.checkpoints.symlink_to("another disk")
    with pytest.raises(RunDirectoryError, match=r"put (the|its) folder back"):
        whole_checkpoint(run)


def test_a_checkpoint_of_an_earlier_release_counts_by_the_lines(run: RunDirectory):
    keep(run, 3, None)
    write_lines(run, 1, 2, 3, 4)
    found = goes_on(run)
    assert (found.accounts.episodes, found.accounts.successes, found.accounts.environment_steps, found.accounts.seconds) == (192, 120, 13500, 30.0)
    assert (found.accounts.tickets, found.accounts.staleness, found.notices) == (TicketCounts(200, 192, 1), {0: 180, 1: 12}, [])
    write_lines(run, 1, 2)
    found = goes_on(run)
    assert found.accounts == Accounts(3)
    assert "written by an earlier release" in found.notices[0]


def test_damaged_lines_are_left_out_and_told(run: RunDirectory):
    keep(run, 2, accounts(2))
    write_lines(run, 1, 2)
    good = run.metrics.read_bytes()
    run.metrics.write_bytes(b"[1]\n\xff\xfe\n" + good + b'{"event": "update", "update": "3", "seconds": 1}\nnull\n{"event": "upd')
    read = read_lines(run.metrics)
    assert [line["update"] for line in read.lines] == [1, 2]
    assert read.damaged == [1, 2, 5, 6], "the last line was cut off by the end of the run, which is no damage"
    found = goes_on(run)
    assert "damaged in line 1 and 3 more" in found.notices[0] and found.damaged == [run.metrics]


def test_an_evaluation_is_not_forgotten_when_the_trainer_is_lost(run: RunDirectory):
    after = BEFORE | {"when": "after", "version": 4}
    found = went_back(whole_checkpoint(run), Accounts(), [BEFORE, after])
    assert (found.checkpoint, found.accounts.version) == (None, 0)
    assert found.accounts.evaluated("before", 0) and not found.accounts.evaluated("after")
    keep(run, 4, accounts(4))
    found = went_back(whole_checkpoint(run), Accounts(), [BEFORE, after])
    assert found.accounts.evaluated("after", 4) and found.accounts.tickets == accounts(4).tickets
