"""Numbers and results as text for people."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

Rate = Mapping[str, Any]
"""A success rate as JSON data (event_json.py)."""


def percent(share: float) -> str:
    """0.567 -> "57 %"."""
    return f"{100 * share:.0f} %"


def quantity(number: float) -> str:
    """101234 -> "101k"; 2345678 -> "2.3M"."""
    if number < 10_000:
        return f"{number:.0f}"
    return f"{number / 1e3:.0f}k" if number < 1e6 else f"{number / 1e6:.1f}M"


def size(number: float) -> str:
    """Bytes: 12900000 -> "12.3 MiB"; 1500000000 -> "1.4 GiB"."""
    return f"{number / 2**20:.1f} MiB" if number < 2**30 else f"{number / 2**30:.1f} GiB"


def number_of(number: int, noun: str) -> str:
    """(1, "ticket") -> "1 ticket"; (2, "ticket") -> "2 tickets"."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def duration(seconds: float) -> str:
    """192 -> "3 min 12 s"; 7440 -> "2 h 04 min"."""
    minutes, rest = divmod(round(seconds), 60)
    if minutes == 0:
        return f"{rest} s"
    return f"{minutes} min {rest:02d} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


def clock_time(seconds: float) -> str:
    """192 -> "3:12"."""
    minutes, rest = divmod(int(seconds), 60)
    return f"{minutes}:{rest:02d}" if minutes < 60 else f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}"


def success_with_interval(rate: Rate) -> str:
    """A rate with its interval: "57 % [47, 67]"."""
    return f"{percent(rate['successes'] / max(rate['episodes'], 1))} [{100 * rate['low']:.0f}, {100 * rate['high']:.0f}]"


def success_of_episodes(rate: Rate) -> str:
    """A rate with its interval and its episodes: "57 % [47, 67] of 96". A rate says little without them."""
    return f"{success_with_interval(rate)} of {rate['episodes']}"


def judged_by_return(successes: int, mean_return: float | None) -> bool:
    """Whether to judge by the mean return: many environments give rewards but report no success."""
    return successes == 0 and bool(mean_return)


def evaluation_result(rate: Rate) -> str:
    """The result of an evaluation: "success 57 % [47, 67]", or "mean return 475.2" where no episode succeeds and returns are not 0."""
    return f"mean return {rate['mean_return']:.1f}" if judged_by_return(rate["successes"], rate["mean_return"]) else f"success {success_with_interval(rate)}"


def episodes_of(evaluation: Rate) -> str:
    """How many episodes an evaluation has: "96 episodes", or "80 of 96 episodes" where it ended before the others."""
    planned, made = evaluation.get("planned"), evaluation["episodes"]
    return f"{made} of {number_of(planned, 'episode')}" if isinstance(planned, int) and planned > made else number_of(made, "episode")


def run_result(summary: Mapping[str, Any]) -> str:
    """The results of a run in one sentence, and a line for each task where there are several.

    "success 57 % [47, 67] -> 93 % [86, 97] (96 episodes each), 101k environment steps in 3 min 12 s, 527 steps/s, 20 updates, staleness at most 1"
    """
    before, after = summary["success_before"], summary["success_after"]
    evaluations = [rate for rate in (before, after, summary["success"]) if rate]
    parts = [_change(evaluations)] if evaluations else []
    if protocol := summary.get("protocol"):
        left = len(protocol["deviations"])
        parts.append(f"protocol {protocol['name']}" + (f" with {number_of(left, 'deviation')}" if left else ""))
    if summary["updates"]:
        steps, seconds = summary["environment_steps"], summary["training_seconds"]
        parts += [
            f"{quantity(steps)} environment steps in {duration(seconds)}",
            f"{quantity(summary['throughput'])} steps/s",
            number_of(summary["updates"], "update"),
        ]
        parts += [f"staleness at most {max(map(int, summary['staleness']), default=0)}"]
    else:
        parts += [duration(summary["wall_seconds"])]
    if best := summary.get("best"):
        parts.append(f"checkpoints/best is version {best['version']}: {evaluation_result(best)} of {number_of(best['episodes'], 'episode')}")
    if summary["tickets"]["rerun"]:
        parts.append(f"{number_of(summary['tickets']['rerun'], 'ticket')} rerun")
    if aside := summary["tickets"].get("set_aside"):
        parts.append(f"{number_of(aside, 'ticket')} set aside")
    return "\n".join([", ".join(parts), *_tasks(evaluations)])


def _change(evaluations: list[Rate]) -> str:
    texts = [evaluation_result(rate) for rate in evaluations]
    if len({words.split()[0] for words in texts}) == 1:  # "success A -> B", not "success A -> success B"
        measure = "success " if texts[0].startswith("success") else "mean return "
        texts = [texts[0], *(words.removeprefix(measure) for words in texts[1:])]
    counts = [rate["episodes"] for rate in evaluations]
    of = episodes_of(evaluations[0]) if len(set(counts)) == 1 else " and ".join(map(str, counts)) + " episodes"
    each = " each" if len(counts) > 1 and len(set(counts)) == 1 else ""
    return f"{' -> '.join(texts)} ({of}{each})"


def _tasks(evaluations: list[Rate]) -> list[str]:
    results = [rate.get("per_task", {}) for rate in evaluations]
    tasks = dict.fromkeys(task for per_task in results for task in per_task)
    width = max(map(len, tasks), default=0)
    return [f"  {task:{width}}  {' -> '.join(_of_task(per_task[task]) for per_task in results if task in per_task)}" for task in tasks]


def _of_task(rate: Rate) -> str:
    return f"{evaluation_result(rate)} of {rate['episodes']}"
