"""An excerpt of the time line for a report: what every worker did during two updates of the settled run."""

from __future__ import annotations

import math

from rlvla3.observability.meter import IDLE
from rlvla3.observability.run_directory import RunDirectory
from rlvla3.page.colours import colour_of
from rlvla3.page.svg import Stretch, lanes
from rlvla3.page.timeline import Span, Timeline, begin_of, ended, within

UPDATES, LONGEST_S = 2, 60.0
"""The excerpt ends with a publication after two thirds of the run, where it has settled and simulators still have tickets of later updates. It begins so many
publications before that, but at most so many seconds."""

MOST_LANES = 24
"""What a picture can show."""


def timeline(run: RunDirectory) -> str:
    """The excerpt as SVG. Empty where the run keeps no trace, and before its first publication. Raises OSError where a file may not be read."""
    found = Timeline(run).lanes()
    published = sorted(end for lane in found for end in ended(lane, "publish", 0.0, math.inf)["end"].tolist())
    if not published:
        return ""
    middle = max(2 * len(published) // 3, min(UPDATES, len(published) - 1))
    end = published[middle]
    begin = max(published[middle - UPDATES] if middle >= UPDATES else 0.0, end - LONGEST_S, begin_of(found))
    rows = {lane.worker: [_stretch(span) for span in within(lane, begin, end)] for lane in found[:MOST_LANES]}
    left_out = f"; {len(found) - MOST_LANES} more workers are not shown" if len(found) > MOST_LANES else ""
    return lanes(rows, f"what every worker did during {UPDATES} updates{left_out}", begin, end)


def _stretch(span: Span) -> Stretch:
    return Stretch(f"waits for {span.stage}" if span.stage in IDLE else span.stage, span.begin, span.end, colour_of(span.stage))
