"""Whether the accounts of a run are exact, however often it was disturbed: tickets, steps, evaluations, the record and the weights."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from safetensors.numpy import load_file

from rlvla3.benchmarks.chaos.observed_run import ObservedRun
from rlvla3.benchmarks.chaos.world import LENGTH
from rlvla3.config import load_recipe
from rlvla3.observability.run_directory import version_of
from rlvla3.observability.run_record import RunRecord
from rlvla3.scheduling.recorded_run import ReplayError


def wrong_accounts(run: ObservedRun) -> list[str]:
    """What is wrong with the accounts of a run that has ended with a checkpoint, in words."""
    checkpoint = run.directory.latest_checkpoint()
    if checkpoint is None:
        return ["the run has ended without a checkpoint"]
    version, batch = version_of(checkpoint), load_recipe(run.directory.config).training.batch
    summary = run.summary
    tickets, steps = summary["tickets"], summary["environment_steps"]
    wrong = []
    if tickets["trained"] != version * batch:
        wrong.append(f"{tickets['trained']} tickets count as trained and not {version * batch}, after {version} updates of {batch}")
    if tickets["issued"] < tickets["trained"]:
        wrong.append(f"{tickets['issued']} tickets count as issued and {tickets['trained']} as trained")
    if steps != version * batch * LENGTH:
        wrong.append(f"{steps} environment steps and not {version * batch * LENGTH}, after {version} updates of {batch} episodes of {LENGTH} steps")
    return wrong + _wrong_metrics(run, version) + _wrong_record(run, version)


def other_weights(run: ObservedRun, undisturbed: ObservedRun) -> list[str]:
    """Whether the newest weights differ, in any bit, from those of a run of the same recipe and length that nothing disturbed."""
    ours, theirs = (_weights(of.directory.latest_checkpoint()) for of in (run, undisturbed))
    differ = [name for name in ours | theirs if ours.get(name) != theirs.get(name)]
    return [f"the weights of {len(differ)} tensors are not those of an undisturbed run, {differ[0]} for example"] if differ else []


def _weights(checkpoint: Path | None) -> dict[str, bytes]:
    assert checkpoint is not None
    return {"version": checkpoint.name.encode()} | {name: array.tobytes() for name, array in load_file(checkpoint / "policy" / "model.safetensors").items()}


def _wrong_metrics(run: ObservedRun, version: int) -> list[str]:
    """metrics.jsonl has each update once, unless the run has said that lines are missing; and no evaluation twice."""
    lines = Counter(record["update"] for record in run.metrics("update"))
    evaluations = Counter((record["when"], record["version"]) for record in run.metrics("evaluation"))
    twice = [f"update {update} stands in metrics.jsonl {count} times" for update, count in lines.items() if count > 1]
    twice += [f"evaluation {when} of version {at} stands in metrics.jsonl {count} times" for (when, at), count in evaluations.items() if count > 1]
    missing = sorted(set(range(1, version + 1)) - set(lines))
    is_said = any("metrics.jsonl" in record["text"] for record in run.metrics("notice"))
    return twice + ([f"updates {missing} are missing in metrics.jsonl, and no notice says so"] if missing and not is_said else [])


def _wrong_record(run: ObservedRun, version: int) -> list[str]:
    """The record has each ticket once, in the update that it belongs to."""
    if not run.directory.record.is_dir():
        return []
    try:
        RunRecord(run.directory.record).recorded_run(version)
    except ReplayError as error:
        return [f"the record is not exact: {error}"]
    return []
