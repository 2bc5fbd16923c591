"""What a run goes on from: a whole checkpoint, its accounts, and the lines of metrics.jsonl until then.

Invariant: nothing here changes a file. A run that is refused later leaves everything as it was.
"""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from zipfile import is_zipfile

from rlvla3.errors import RecipeError
from rlvla3.observability.accounts import FILE, Accounts, evaluation_key
from rlvla3.observability.checksums import first_damage, has_manifest
from rlvla3.observability.metrics_lines import JsonObject, read_lines
from rlvla3.observability.run_directory import RunDirectory, RunDirectoryError, find_run, version_of
from rlvla3.types import TicketCounts

POLICY = "policy"

NEEDED = ("trainer.pt", "parameters/.metadata", f"{POLICY}/config.json", f"{POLICY}/model.safetensors")
"""Files of every checkpoint, of every release."""


@dataclass(frozen=True)
class Continuation:
    """checkpoint: where the run goes on (None: it begins anew). accounts: of what it had done by then. lines: of metrics.jsonl, those that stay.
    damaged: checkpoints and files that cannot be used, to be renamed. notices: what the user should know."""

    checkpoint: Path | None
    accounts: Accounts
    lines: Sequence[JsonObject] = ()
    damaged: Sequence[Path] = ()
    notices: Sequence[str] = ()


@dataclass(frozen=True)
class WholeCheckpoint:
    """checkpoint: whole, as far as its checksums tell (None: the run has none yet). damaged: newer ones that are not. notices: what is wrong with those."""

    checkpoint: Path | None
    damaged: Sequence[Path] = ()
    notices: Sequence[str] = ()


def whole_checkpoint(run: RunDirectory, named: Path | None = None, part: str = "") -> WholeCheckpoint:
    """The newest checkpoint that is whole, or the `named` one. part: the only folder of it that is needed, such as policy.

    Raises RunDirectoryError where the named one is damaged, or all are.
    """
    if named is not None:
        if (wrong := damage(named, part)) is not None:
            raise RunDirectoryError(f"{named} is damaged: {wrong}. {_ways_out(named)}")
        return WholeCheckpoint(named)
    if run.checkpoints.is_symlink() and not run.checkpoints.exists():
        raise RunDirectoryError(f"{run.checkpoints} is a link that leads nowhere: put its folder back, for example by mounting its disk")
    if run.checkpoints.exists() and not run.checkpoints.is_dir():
        raise RunDirectoryError(f"{run.checkpoints} is no folder, so the checkpoints of this run are not there: put the folder back")
    damaged: dict[Path, str] = {}
    for checkpoint in reversed(run.all_checkpoints()):
        if (wrong := damage(checkpoint, part)) is None:
            notices = [f"{newer} is damaged: {what}. Checkpoint {version_of(checkpoint)} is used instead" for newer, what in damaged.items()]
            return WholeCheckpoint(checkpoint, list(damaged), notices)
        damaged[checkpoint] = wrong
    if damaged and not any(checkpoint.exists() for checkpoint in damaged):
        return whole_checkpoint(run, part=part)  # the run is at work: it has written newer ones, and removed all of these
    if damaged:
        newest, wrong = next(iter(damaged.items()))
        others = f", and the {len(damaged) - 1} older ones are damaged too" if len(damaged) > 1 else ""
        raise RunDirectoryError(f"{newest} is damaged: {wrong}{others}. {_ways_out(newest)}")
    return WholeCheckpoint(None)


def damage(checkpoint: Path, part: str = "") -> str | None:
    """What is wrong with a checkpoint, in words. None where it is whole. One of an earlier release, without checksums, only has to have its files.

    part: the only folder of it that is looked at.
    """
    for name in NEEDED:
        path = checkpoint / name
        if (not part or name.startswith(f"{part}/")) and not path.is_file():
            return f"{name} is {'no file' if os.path.lexists(path) else 'missing'}"
    if (has_manifest(checkpoint) or os.path.lexists(checkpoint / FILE)) and (wrong := first_damage(checkpoint, part)) is not None:
        return wrong
    for path in sorted((checkpoint / part).rglob("*")):  # also what no checksum covers: whoever opens a pipe may wait for ever
        if not path.is_file() and not path.is_dir():
            return f"{path.relative_to(checkpoint)} is no file"
    if part:
        return None
    for name in ("trainer.pt", "parameters/.metadata"):
        if not (checkpoint / name).stat().st_size or (name == "trainer.pt" and not is_zipfile(checkpoint / name)):
            return f"{name} was cut short, or it is something else"
    try:
        accounts = Accounts.read(checkpoint)
    except RecipeError as error:
        return str(error)
    if accounts is not None and accounts.version != version_of(checkpoint):
        return f"it is the checkpoint of update {accounts.version}, and has the name of another"
    return None


def policy_folder(path: Path) -> Path:
    """Where the policy of a run (its newest whole checkpoint), of a checkpoint or of a policy folder is.

    Raises RunDirectoryError for a run without a checkpoint, and for a damaged policy. A folder that is none of the three kinds is left to
    `read_checkpoint_config` to refuse.
    """
    if found := find_run(path):
        run, checkpoint = found
        whole = whole_checkpoint(run, None if path == run.path else checkpoint, POLICY)
        if whole.checkpoint is None:
            raise RunDirectoryError(f"{run.path} holds no checkpoint yet, and so no policy: wait for its first checkpoint, or train it")
        for text in whole.notices:
            logging.getLogger(__name__).warning("rlvla3: %s", text)
        return whole.checkpoint / POLICY
    copied = path / POLICY  # a checkpoint that was copied out of its run
    folder = copied if (copied / "config.json").is_file() else path
    refuse_damaged_policy(folder)
    return folder


def refuse_damaged_policy(folder: Path) -> None:
    """Raise RunDirectoryError where `folder` is the policy of a checkpoint and its files are not as they were written."""
    if folder.name == POLICY and has_manifest(folder.parent) and (wrong := first_damage(folder.parent, POLICY)) is not None:
        raise RunDirectoryError(f"{folder.parent} is damaged: {wrong}. Use another checkpoint")


def _ways_out(checkpoint: Path) -> str:
    run = checkpoint.parent.parent
    return (
        f"Go on from another one with `rlvla3 train {run}/checkpoints/NUMBER --run-dir FOLDER`, or start a new run from its weights alone, if they are whole, "
        f"with policy.checkpoint={checkpoint / POLICY}"
    )


def continuation(run: RunDirectory, whole: WholeCheckpoint, evaluations: Sequence[Mapping[str, Any]] = ()) -> Continuation:
    """What the run in `run` goes on with from a checkpoint. evaluations: those that are known to be done. Raises OSError where its metrics cannot be read."""
    read = read_lines(run.metrics)
    notices = list(whole.notices)
    if read.damaged:
        first = f"line {read.damaged[0]}" + (f" and {len(read.damaged) - 1} more" if len(read.damaged) > 1 else "")
        notices.append(f"{run.metrics} is damaged in {first}: these lines are left out, and the file as it was is kept as {run.metrics.name}.damaged")
    damaged = [*whole.damaged, *([run.metrics] if read.damaged else [])]
    if whole.checkpoint is None:
        if done := max((line["update"] for line in read.lines if line["event"] == "update"), default=0):
            notices.append(f"{run.path} holds no checkpoint: the run begins anew, and its first {done} updates are done again")
        return _with_evaluations(Continuation(None, Accounts(), [], damaged, notices), evaluations)
    version = version_of(whole.checkpoint)
    lines = lines_until(version, read.lines)
    accounts = Accounts.read(whole.checkpoint)
    if accounts is None:
        accounts, more = _of_earlier_release(version, lines)
    else:
        more = _gaps(run, version, lines)
    told = {line["text"] for line in lines if line["event"] == "notice"}
    new = [text for text in (*notices, *more) if text not in told]
    return _with_evaluations(Continuation(whole.checkpoint, accounts, lines, damaged, new), evaluations)


def _with_evaluations(continued: Continuation, known: Sequence[Mapping[str, Any]]) -> Continuation:
    """Let the accounts have the evaluations of `known` too, and the lines those of the accounts and no others. `known` may hold later ones: they are left out.

    Of an earlier version, the accounts know all evaluations but those beside training, which end later. These, and one of their own version, may be newer than
    they are, so that only a line tells of them.
    """
    accounts, lines = continued.accounts, continued.lines
    written = {evaluation_key(line): line for line in lines if line["event"] == "evaluation"}
    newer = [
        {key: value for key, value in line.items() if key != "seconds"}
        for line in written.values()
        if line["version"] == accounts.version or line["when"] == "during"
    ]
    for record in (*newer, *known):
        if record["version"] <= accounts.version:
            accounts = accounts.and_evaluation(record)
    true = {evaluation_key(record): record for record in accounts.evaluations}
    shown = [
        {**line, **true[evaluation_key(line)]} if line["event"] == "evaluation" else line
        for line in lines
        if line["event"] != "evaluation" or evaluation_key(line) in true
    ]
    lost = [{"seconds": last_second(continued), **record} for key, record in true.items() if key not in written]
    return replace(continued, accounts=accounts, lines=[*shown, *lost])


def last_second(continuation: Continuation) -> float:
    """The seconds since the run's start, until its last line."""
    return max((line["seconds"] for line in continuation.lines), default=0.0)


def went_back(whole: WholeCheckpoint, began: Accounts, evaluations: Sequence[Mapping[str, Any]]) -> Continuation:
    """What a run goes on from when it has lost its trainer. Its lines are being written, and are not read here.

    began: the accounts that this run began with. evaluations: those that are done.
    """
    accounts = (Accounts.read(whole.checkpoint) or began) if whole.checkpoint is not None else Accounts()
    return _with_evaluations(Continuation(whole.checkpoint, accounts, [], whole.damaged, whole.notices), evaluations)


def lines_until(version: int, lines: Sequence[JsonObject]) -> list[JsonObject]:
    """The lines up to a version: of each update the last one, and of each evaluation the first one. Other lines stay."""
    last = {line["update"]: number for number, line in enumerate(lines) if line["event"] == "update"}
    seen, kept = set(), []
    for number, line in enumerate(lines):
        match line["event"]:
            case "update":
                keep = last[line["update"]] == number
            case "evaluation":
                keep = evaluation_key(line) not in seen
                seen.add(evaluation_key(line))
            case _:
                keep = True
        if keep and all(line[key] <= version for key in ("update", "version") if isinstance(line.get(key), int)):
            kept.append(line)
    return kept


def _gaps(run: RunDirectory, version: int, lines: Sequence[JsonObject]) -> list[str]:
    missing = sorted(set(range(1, version + 1)) - {line["update"] for line in lines if line["event"] == "update"})
    if not missing:
        return []
    updates = f"update {missing[0]}" if len(missing) == 1 else f"{len(missing)} updates, from {missing[0]} to {missing[-1]}"
    return [
        f"{run.metrics} has no line of {updates}: the run was killed before it wrote them, or they were lost. Tickets, steps, seconds and "
        f"evaluations are complete, because the checkpoint has them. Curves and the times of workers leave these updates out"
    ]


def _of_earlier_release(version: int, lines: Sequence[JsonObject]) -> tuple[Accounts, list[str]]:
    """The accounts of a checkpoint that has none: an earlier release wrote it. They are put together from the lines of the updates."""
    updates = {line["update"]: line for line in lines if line["event"] == "update"}
    if version and version not in updates:
        said = f"checkpoint {version} was written by an earlier release, and metrics.jsonl has no line of its update"
        return Accounts(version), [f"{said}: tickets, steps and seconds are counted from here on"]
    newest = updates.get(version)
    staleness: Counter[int] = Counter()
    for line in updates.values():
        staleness.update({int(lag): count for lag, count in line["staleness"].items()})
    accounts = Accounts(
        version,
        tickets=TicketCounts(**newest["tickets"]) if newest else TicketCounts(),
        episodes=sum(line["rollouts"]["episodes"] for line in updates.values()),
        successes=sum(line["rollouts"]["successes"] for line in updates.values()),
        environment_steps=newest["environment_steps"] if newest else 0,
        seconds=newest["wall_seconds"] if newest else 0.0,
        staleness=staleness,
        evaluations=[{key: value for key, value in line.items() if key != "seconds"} for line in lines if line["event"] == "evaluation"],
    )
    return accounts, []
