"""What every worker did in a span of time, from the samples of a run with engine.trace (observability/tracing.py): while it goes on from RUN_DIR/stays, later
from trace.json.

Invariant: an answer is bounded, whatever the run has written. A lane has at most MOST_SPANS spans: where there are more, a span shows the stage that took most
of its time.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rlvla3.observability.meter import STAGES
from rlvla3.observability.run_directory import RunDirectory
from rlvla3.observability.sampling import SAMPLE
from rlvla3.observability.tracing import KINDS
from rlvla3.page.appended_lines import head, tail

MOST_SPANS = 1500
MOST_LANES = 200
LONGEST_S = 1e9
"""No stage is longer. What says so is damaged."""

LANE_BYTES = 2 << 20
"""Of the samples of one worker, these newest ones are read: 52,000."""

NEWEST_TRACE = 128 << 20
"""Bytes at the end of a trace.json that are read: 1.5 million stages, in about six seconds. Perfetto shows the others of a longer one."""

NAMES_BYTES = 1 << 20
"""Bytes at its beginning, where the workers have their names."""

STAGE = re.compile(
    rb'\{"ph":"X","name":"(?:waits for )?([^"]{1,40})","cat":"[a-z]+","pid":[0-9]{1,9},"tid":([0-9]{1,9}),'
    rb'"ts":([0-9]{1,15}(?:[.][0-9]{1,9})?),"dur":([0-9]{1,15}(?:[.][0-9]{1,9})?)'
    rb'(?:,"args":\{"size":([0-9]{1,9})\})?\}'
)
NAMED = re.compile(rb'\{"ph":"M","pid":[0-9]{1,9},"tid":([0-9]{1,9}),"name":"thread_name","args":\{"name":"([^"]{1,100})"\}\}')
"""The lines of a trace (observability/trace_events.py). They are millions: JSON would take minutes."""


@dataclass(frozen=True, slots=True)
class Span:
    """A stage of one worker. begin, end: seconds. size: the items of the work, 0 where unknown."""

    stage: str
    begin: float
    end: float
    size: int = 0


@dataclass(frozen=True, slots=True)
class Lane:
    """The stages of one worker, in order: SPAN [n]. names: what their numbers mean."""

    worker: str
    names: Sequence[str]
    spans: NDArray[Any]


SPAN = np.dtype([("stage", "i4"), ("size", "i4"), ("begin", "f8"), ("end", "f8")])


class Timeline:
    """The stages of all workers of a run. Ask with `lanes`; a trace.json is read again only where it has changed."""

    def __init__(self, run: RunDirectory) -> None:
        self._run = run
        self._traced: tuple[float, list[Lane]] = (0.0, [])

    def lanes(self) -> list[Lane]:
        """All workers and their newest stages. Empty where the run keeps no trace. Raises OSError where a file may not be read."""
        folder = self._run.samples
        files = sorted(folder.rglob("*.samples"))[:MOST_LANES] if folder.is_dir() else []
        if files:
            return sorted((Lane(_worker_of(path, folder), STAGES, _of_samples(tail(path, _whole(path)))) for path in files), key=_order)
        trace = self._run.trace
        written = trace.stat().st_mtime if trace.is_file() else 0.0
        if written != self._traced[0]:
            self._traced = written, sorted(_of_trace(trace), key=_order)
        return self._traced[1]


def _whole(path: Path) -> int:
    """Bytes of the newest whole samples of a file: it may end in the middle of one."""
    size = path.stat().st_size
    return min(LANE_BYTES // SAMPLE.itemsize * SAMPLE.itemsize, size) + size % SAMPLE.itemsize if size > LANE_BYTES else size


def _of_samples(content: bytes) -> NDArray[Any]:
    samples = np.frombuffer(content, SAMPLE, count=len(content) // SAMPLE.itemsize)
    known, lasts = (samples["stage"] >= 0) & (samples["stage"] < len(STAGES)), (samples["wall"] > 0) & (samples["wall"] < LONGEST_S)
    sound = samples[known & lasts & np.isfinite(samples["end"])]
    spans = np.empty(len(sound), SPAN)
    spans["stage"], spans["size"], spans["end"], spans["begin"] = sound["stage"], sound["size"], sound["end"], sound["end"] - sound["wall"]
    return spans


def _worker_of(path: Path, folder: Path) -> str:
    host = f"{path.parent.name.replace('-', ' ')}, " if path.parent != folder else ""
    return host + path.stem.replace("-", " ")


def _of_trace(path: Path) -> list[Lane]:
    """The lanes of a trace.json that rlvla3 has written: an event in each line. Of a long one, the newest stages."""
    newest = tail(path, NEWEST_TRACE).split(b"\n")
    found: dict[int, list[tuple[bytes, bytes, bytes, bytes]]] = {}
    for text in newest:
        if stage := STAGE.match(text):
            name, thread, begin, took, size = stage.groups(b"0")
            found.setdefault(int(thread), []).append((name, size, begin, took))
    named = filter(None, map(NAMED.match, (*head(path, NAMES_BYTES).split(b"\n"), *newest)))
    names = {int(worker[1]): worker[2].decode(errors="replace") for worker in named}
    return [_lane(names.get(thread, f"worker {thread}"), stages) for thread, stages in list(found.items())[:MOST_LANES]]


def _lane(worker: str, found: Sequence[tuple[bytes, bytes, bytes, bytes]]) -> Lane:
    """found: name, size, begin and length in microseconds of each stage."""
    numbers: dict[bytes, int] = {}
    spans = np.empty(len(found), SPAN)
    spans["stage"] = [numbers.setdefault(name, len(numbers)) for name, *_ in found]
    spans["size"] = [int(size) for _, size, _, _ in found]
    spans["begin"] = [float(begin) / 1e6 for *_, begin, _ in found]
    spans["end"] = spans["begin"] + [float(took) / 1e6 for *_, took in found]
    return Lane(worker, [name.decode(errors="replace") for name in numbers], spans)


def _order(lane: Lane) -> tuple[int, list[int], str]:
    kind = lane.worker.rpartition(", ")[2].split(" ")[0]
    numbers = [int(word) for word in lane.worker.replace(",", "").replace(".", " ").split() if word.isascii() and word.isdigit() and len(word) < 10]
    return KINDS.index(kind) if kind in KINDS else len(KINDS), numbers, lane.worker


def end_of(lanes: Iterable[Lane]) -> float:
    """When the last stage ended."""
    return max((float(lane.spans["end"].max()) for lane in lanes if len(lane.spans)), default=0.0)


def begin_of(lanes: Iterable[Lane]) -> float:
    """When the first stage that is known began."""
    return min((float(lane.spans["begin"].min()) for lane in lanes if len(lane.spans)), default=0.0)


def within(lane: Lane, begin: float, end: float) -> list[Span]:
    """The stages of a lane between two times, cut to them, at most MOST_SPANS."""
    inside = lane.spans[(lane.spans["end"] > begin) & (lane.spans["begin"] < end)]
    if len(inside) > MOST_SPANS:
        inside = _coarse(inside, begin, end)
    return [Span(lane.names[stage], max(since, begin), min(until, end), size) for stage, size, since, until in inside.tolist()]


def _coarse(spans: NDArray[Any], begin: float, end: float) -> NDArray[Any]:
    """SPAN [n], n <= MOST_SPANS: the time in equal parts, each with the stage that took most of it. Neighbours of one stage are one. A part in which no stage
    is known has none."""
    edges = np.linspace(0.0, end - begin, MOST_SPANS + 1)
    stages = np.unique(spans["stage"])
    spent = np.stack([np.diff(_spent_until(edges, spans[spans["stage"] == stage], begin)) for stage in stages])
    most = np.where(spent.max(axis=0) > edges[1] * 1e-6, spent.argmax(axis=0), -1)
    firsts = np.flatnonzero(np.diff(most, prepend=-2))
    found = np.zeros(len(firsts), SPAN)
    found["stage"], found["begin"], found["end"] = stages[most[firsts]], begin + edges[firsts], begin + edges[np.append(firsts[1:], MOST_SPANS)]
    return found[most[firsts] >= 0]


def _spent_until(times: NDArray[Any], spans: NDArray[Any], begin: float) -> NDArray[Any]:
    """The seconds that lie within these spans before each of `times`, which count from `begin`: sum of (t - b)+ - (t - e)+ over spans from b to e."""
    total = np.zeros(len(times))
    for ends, sign in ((spans["begin"], 1.0), (spans["end"], -1.0)):
        sorted_ends = np.sort(ends - begin)
        before = np.searchsorted(sorted_ends, times)
        total += sign * (before * times - np.append(0.0, np.cumsum(sorted_ends))[before])
    return total


def batches(lanes: Iterable[Lane], begin: float, end: float) -> dict[int, int]:
    """{decisions in an inference: inferences}, of all generators between two times."""
    sizes: Counter[int] = Counter()
    for lane in lanes:
        found = ended(lane, "infer", begin, end)
        sizes.update(found["size"][found["size"] > 0].tolist())
    return dict(sorted(sizes.items()))


def waits(lanes: Iterable[Lane], begin: float, end: float) -> list[float]:
    """The seconds of each time that a shard waited for its decisions, sorted. It holds inference and all that is before it."""
    found = (ended(lane, "decision", begin, end) for lane in lanes)
    return sorted(float(seconds) for spans in found for seconds in spans["end"] - spans["begin"])


def ended(lane: Lane, stage: str, begin: float, end: float) -> NDArray[Any]:
    """The times in a stage that ended between two times."""
    number = lane.names.index(stage) if stage in lane.names else -1
    found: NDArray[Any] = lane.spans[(lane.spans["stage"] == number) & (lane.spans["end"] > begin) & (lane.spans["end"] <= end)]
    return found
