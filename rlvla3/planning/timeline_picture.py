"""The picture of a timeline. A few workers of each kind have a lane. The upper panel shows the last updates, the lower one a few decisions in detail."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

from rlvla3.errors import ExplainedError
from rlvla3.observability.formatting import percent
from rlvla3.observability.meter import IDLE
from rlvla3.observability.run_directory import complete_file
from rlvla3.planning.timeline import UPDATES, Timeline, TimelineLane
from rlvla3.runtimes.virtual.spans import Span

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.patches import Patch

MAX_SHOWN: Mapping[str, int] = {"trainer": 1, "generator": 3, "shard": 6}
"""The most lanes of each kind of worker."""

COLOURS: Mapping[str, str] = {
    "train": "#d55e00",
    "fit_critic": "#cc79a7",
    "publish": "#000000",
    "infer": "#e69f00",
    "load_weights": "#f0e442",
    "simulate": "#0072b2",
    "reset": "#56b4e9",
    "offload": "#009e73",
    "start": "#009e73",
}
"""The palette of Okabe and Ito, whose colours colour-blind readers can tell apart."""

WAITING, ADMISSION = "#ebebeb", "#b0b0b0"
CAUSES = {"ticket": (ADMISSION, "waits for a ticket (staleness bound)"), "": (WAITING, "waits for decision, requests or trajectories")}

CLOSE_UP = 12
"""The width of the lower panel, in decisions of a shard."""


class PictureError(ExplainedError, RuntimeError):
    """A picture cannot be drawn on this machine. The message says what is missing, and how to install it."""


def need_matplotlib() -> None:
    """Raise PictureError if matplotlib is missing. It is called before anything is rehearsed."""
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise PictureError("the picture needs matplotlib, which is not installed: pip install 'rlvla3[plots]', or leave --picture out") from error


def draw_timeline(timeline: Timeline, path: Path, title: str) -> None:
    """Draw the timeline into `path`, in the format of its suffix (.png, .svg, .pdf)."""
    from matplotlib.figure import Figure

    lanes = _shown(timeline)
    spans = {lane.worker: [span for span in timeline.spans if span.worker == lane.worker] for lane in lanes}
    stages = {span.stage for shown in spans.values() for span in shown}
    figure = Figure(figsize=(11, 2.4 + 0.56 * len(lanes)), dpi=150, layout="constrained")
    above, below = figure.subplots(2, 1)
    _panel(above, lanes, spans, timeline.begin, timeline.end, timeline.begin)
    for published in timeline.published[:-1]:
        above.axvline(published.at - timeline.begin, color="black", linewidth=1, linestyle=":")
    above.set_title(f"{UPDATES} updates of {_counted(lanes, timeline)}; dotted: a version has arrived everywhere; right: time busy", fontsize=9, loc="left")
    begin, end = _close_up(lanes, spans, timeline)
    _panel(below, lanes, spans, begin, end, timeline.begin)
    below.set_title("in detail", fontsize=9, loc="left")
    below.set_xlabel("virtual time (s)")
    above.axvspan(begin - timeline.begin, end - timeline.begin, facecolor="none", edgecolor="black", linewidth=1.2)
    figure.suptitle(title, fontsize=10)
    figure.legend(handles=_legend(stages), loc="outside lower center", ncols=5, frameon=False, fontsize=8.5)
    path.parent.mkdir(parents=True, exist_ok=True)
    with complete_file(path) as beside:
        figure.savefig(beside, metadata={"Software": None} if path.suffix == ".png" else None)


def _shown(timeline: Timeline) -> list[TimelineLane]:
    """A few lanes of each kind of worker, evenly spread over all of them. The trainer is at the top."""
    shown: list[TimelineLane] = []
    for kind, most in MAX_SHOWN.items():
        of_kind = [lane for lane in timeline.lanes if lane.kind == kind]
        count = min(most, len(of_kind))
        shown += [of_kind[number * len(of_kind) // count] for number in range(count)]
    return shown


def _counted(lanes: Sequence[TimelineLane], timeline: Timeline) -> str:
    """How many of the workers are shown: "3 of 8 generators and 6 of 64 shards"."""
    return " and ".join(f"{sum(lane.kind == kind for lane in lanes)} of {timeline.count(kind)} {kind}s" for kind in ("generator", "shard"))


def _panel(axes: Axes, lanes: Sequence[TimelineLane], spans: Mapping[str, Sequence[Span]], begin: float, end: float, origin: float) -> None:
    """The lanes from `begin` to `end`, drawn in seconds since `origin`."""
    for row, lane in enumerate(lanes):
        inside = [span for span in spans[lane.worker] if span.end > begin and span.begin < end]
        for colour in {_colour(span.stage): None for span in inside}:
            bars = [(max(span.begin, begin) - origin, min(span.end, end) - max(span.begin, begin)) for span in inside if _colour(span.stage) == colour]
            axes.broken_barh(bars, (row - 0.4, 0.8), facecolor=colour, linewidth=0)
        busy = sum(min(span.end, end) - max(span.begin, begin) for span in inside if span.stage not in IDLE)
        axes.annotate(percent(busy / (end - begin)), (1, row), xycoords=("axes fraction", "data"), xytext=(4, 0), textcoords="offset points", va="center")
    axes.set_xlim(begin - origin, end - origin)
    axes.set_ylim(len(lanes) - 0.4, -0.6)
    axes.set_yticks(range(len(lanes)), [lane.worker for lane in lanes])
    axes.tick_params(left=False, labelsize=9)
    axes.spines[["top", "right", "left"]].set_visible(False)


def _close_up(lanes: Sequence[TimelineLane], spans: Mapping[str, Sequence[Span]], timeline: Timeline) -> tuple[float, float]:
    """Begin and end of the lower panel: CLOSE_UP decisions around the end of the first update, or the whole timeline if it is shorter."""
    whole = timeline.end - timeline.begin
    calls = [sum(span.stage == "simulate" for span in spans[lane.worker]) for lane in lanes if lane.kind == "shard"]
    width = whole * min(CLOSE_UP / max(median(calls), 1), 1.0)
    begin = min(max(timeline.published[0].at - width / 5, timeline.begin), timeline.end - width)
    return begin, begin + width


def _colour(stage: str) -> str:
    return CAUSES.get(stage, CAUSES[""])[0] if stage in IDLE else COLOURS.get(stage, COLOURS["start"])


def _legend(stages: set[str]) -> list[Patch]:
    from matplotlib.patches import Patch

    busy = [Patch(color=colour, label=stage.replace("_", " ")) for stage, colour in COLOURS.items() if stage in stages]
    waiting = [
        Patch(color=colour, label=label) for stage, (colour, label) in CAUSES.items() if stage in stages or (not stage and stages - {"ticket"} & set(IDLE))
    ]
    return busy + waiting
