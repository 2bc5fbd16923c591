"""A report: one HTML file of one or several runs, to send to a colleague. It holds its pictures, videos and styles, and asks for nothing else.

Invariants:
- nothing of a run stands in the file as code: texts are escaped, and the file says that a browser may load nothing and run nothing;
- the file is no larger than its videos may be, and what curves of bounded size take.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from importlib.resources import files
from typing import Any

from rlvla3.observability.intervals import wilson
from rlvla3.observability.run_directory import RunDirectory
from rlvla3.page.colours import COLOURS, colour_of
from rlvla3.page.curves import Curve, Rate, pooled
from rlvla3.page.explaining import Sentence
from rlvla3.page.report_timeline import timeline
from rlvla3.page.report_videos import Clip
from rlvla3.page.run_facts import RunFacts
from rlvla3.page.run_metrics import WHOLE, shares
from rlvla3.page.run_settings import RunSettings, differing
from rlvla3.page.svg import SERIES, Series, bars, curves
from rlvla3.version import __version__

POINTS = 24
"""A curve of success has at most so many points: each is a sum over neighbours, with its interval."""

LARGEST = 1e30
"""Larger numbers are no measurement, and no chart can show them beside others."""

CHARTS: Mapping[str, tuple[str, ...]] = {
    "mean return of training episodes": ("rollouts/return",),
    "environment steps per second": ("engine/throughput",),
    "mean staleness, in versions": ("engine/staleness",),
    "policy loss": ("learner/policy_loss",),
    "value loss": ("learner/value_loss",),
    "approximate KL to the behaviour policy": ("learner/approx_kl",),
    "effective sample size": ("learner/effective_sample_size",),
    "clipped ratios": ("learner/clip_share",),
    "entropy": ("learner/entropy",),
    "explained variance of the critic": ("learner/explained_variance",),
}
"""The charts beside that of success, and the curves that each shows."""

POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; media-src data:"
"""What a browser may do with the file: show it."""


@dataclass(frozen=True)
class Reported:
    """A run in a report. name: what it is called there. clips: its videos."""

    name: str
    facts: RunFacts
    sentences: Sequence[Sentence]
    clips: Sequence[Clip]


def report(runs: Sequence[Reported]) -> str:
    """The HTML file of these runs. Charts show all of them together, each in a colour of its own."""
    style = (files("rlvla3.page") / "report.css").read_text(encoding="utf-8")
    title = ", ".join(run.name for run in runs)
    parts = [_head(runs), *(_words(run, len(runs) > 1) for run in runs), _settings(runs), _charts(runs), *(_time(run) for run in runs)]
    parts += [*(_videos(run) for run in runs), *(_notices(run) for run in runs)]
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>'
        f'<meta name="viewport" content="width=device-width, initial-scale=1"><meta http-equiv="Content-Security-Policy" content="{POLICY}">'
        f"<style>{style}</style></head><body><main>{''.join(parts)}</main><footer>Made by rlvla3 {__version__}.</footer></body></html>\n"
    )


def _head(runs: Sequence[Reported]) -> str:
    legend = "".join(f'<li><i style="background:var(--series-{number % SERIES})"></i>{escape(run.name)}</li>' for number, run in enumerate(runs))
    return f"<h1>{'A run' if len(runs) == 1 else f'{len(runs)} runs'} of rlvla3</h1><ul class=legend>{legend}</ul>"


def _words(run: Reported, named: bool) -> str:
    rows = "".join(f"<dt>{escape(sentence.topic)}</dt><dd class={sentence.verdict}>{escape(sentence.text)}</dd>" for sentence in run.sentences)
    return _section(f"In words{_of(run, named)}", f"<dl>{rows}</dl>")


def _settings(runs: Sequence[Reported]) -> str:
    """One run: what differs from the defaults. Several: what differs between them, and what all of them have changed."""
    settings = {run.name: run.facts.settings for run in runs}
    unread = "".join(f"<p>{escape(run.name)}: {escape(run.facts.settings.unread)}</p>" for run in runs if run.facts.settings.unread)
    if len(runs) == 1:
        (one,) = settings.values()
        rows = [(name, one.values[name], one.defaults.get(name, "—")) for name in one.changed]
        return _section("Settings that are no defaults", unread + _table(("setting", "this run", "default"), rows))
    different = [(name, *(values.get(run, "—") for run in settings)) for name, values in differing(settings).items()]
    common = [(name, value) for name, value in _common(settings).items()]
    return _section("Settings in which the runs differ", unread + _table(("setting", *settings), different)) + _section(
        "Settings that all runs share and that are no defaults", _table(("setting", "all runs"), common)
    )


def _common(settings: Mapping[str, RunSettings]) -> dict[str, Any]:
    first, *others = settings.values()
    return {
        name: first.values[name]
        for name in first.changed
        if all(name in other.values and repr(other.values[name]) == repr(first.values[name]) for other in others)
    }


def _charts(runs: Sequence[Reported]) -> str:
    drawn = [_success(runs, seconds=False), _success(runs, seconds=True)]
    for title, names in CHARTS.items():
        series = [
            Series(run.name, _points(run.facts.metrics.curves[name]), colour=number)
            for number, run in enumerate(runs)
            for name in names
            if name in run.facts.metrics.curves
        ]
        drawn.append(curves(series, title, "updates"))
    charts = "".join(drawn)
    return _section("Curves", f"{_alike(runs)}<div class=charts>{charts}</div>" if charts else "<p>No update is finished yet.</p>")


def _alike(runs: Sequence[Reported]) -> str:
    """What to know of the bands of success where episodes come in groups. Empty where they do not."""
    grouped = [run.name for run in runs if run.facts.recipe is not None and run.facts.recipe.algorithm.group_size > 1]
    if not grouped:
        return ""
    return (
        f"<p>In {escape(', '.join(grouped))}, the episodes of a group share an initial state, so they are alike. The true bands are wider than those shown.</p>"
    )


def _success(runs: Sequence[Reported], seconds: bool) -> str:
    """The success of training episodes, with its interval; dots of evaluations would be few, so they stand in the words."""
    series = []
    for number, run in enumerate(runs):
        found = pooled(list(run.facts.metrics.rollouts.get(WHOLE, ())), POINTS)
        across = [rate.place.seconds / 60 if seconds else float(rate.place.steps) for rate in found]
        band = [(x, *wilson(rate.successes, rate.episodes)) for x, rate in zip(across, found, strict=True)]
        series.append(Series(run.name, [(x, _share(rate)) for x, rate in zip(across, found, strict=True)], band, number))
    return curves(series, "success of training episodes", "minutes" if seconds else "environment steps", rate=True)


def _points(curve: Curve) -> list[tuple[float, float]]:
    return [(float(point.place.update), point.value) for point in curve.points() if abs(point.value) < LARGEST]


def _share(rate: Rate) -> float:
    return rate.successes / rate.episodes


def _time(run: Reported) -> str:
    """Where every second went: shares of the time of each kind of worker, and an excerpt of the time line."""
    whole: dict[str, dict[str, float]] = {}
    for kind, buckets in run.facts.metrics.spent.items():
        total: dict[str, float] = {}
        for bucket in buckets:
            for stage, spent in bucket.spent.items():
                total[stage] = total.get(stage, 0.0) + spent
        if rows := shares(total):
            whole[kind] = dict(sorted(rows.items(), key=lambda row: list(COLOURS).index(row[0]) if row[0] in COLOURS else len(COLOURS)))
    if not whole:
        return ""
    stages = dict.fromkeys(stage for row in whole.values() for stage in row)
    legend = "".join(f'<li><i style="background:{colour_of(stage)}"></i>{escape(stage)}</li>' for stage in stages)
    drawn = bars(whole, "shares of time by kind of worker", {stage: colour_of(stage) for stage in stages})
    return _section(f"Where the time went: {run.name}", f"<ul class=legend>{legend}</ul>{drawn}{timeline(RunDirectory(run.facts.path))}")


def _videos(run: Reported) -> str:
    if not run.clips:
        return ""
    shown = "".join(
        f'<figure class="{"good" if clip.success else "bad"}"><video controls loop muted playsinline src="data:video/mp4;base64,{_text(clip.content)}"></video>'
        f"<figcaption>{escape(clip.said)}</figcaption></figure>"
        for clip in run.clips
    )
    return _section(f"Episodes: {run.name}", f"<div class=videos>{shown}</div>")


def _notices(run: Reported) -> str:
    told = run.facts.metrics.notices
    if not told:
        return ""
    rows = [(f"{notice.seconds:.0f} s", notice.text) for notice in told]
    return _section(f"Notices: {run.name}", _table(("after", "what was said"), rows))


def _section(title: str, content: str) -> str:
    return f"<section><h2>{escape(title)}</h2>{content}</section>"


def _table(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    body = "".join(f"<tr>{''.join(f'<td>{escape(str(cell))}</td>' for cell in row)}</tr>" for row in rows)
    if not body:
        return "<p>None.</p>"
    return f"<div class=wide><table><thead><tr>{''.join(f'<th>{escape(cell)}</th>' for cell in head)}</tr></thead><tbody>{body}</tbody></table></div>"


def _of(run: Reported, named: bool) -> str:
    return f": {run.name}" if named else ""


def _text(content: bytes) -> str:
    return b64encode(content).decode("ascii")
