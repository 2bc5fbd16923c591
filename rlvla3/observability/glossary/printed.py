"""The glossary as text for a terminal, and as the page docs/metrics.md."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator

from rlvla3.errors import RecipeError
from rlvla3.observability.glossary.metric import Group, Metric

WIDTH = 120

CONDITIONS = ("If ", "At ", "Above", "Below", "Near ")
"""What advice begins with that says itself when it applies."""

INTRODUCTION = """\
# Metrics

<!-- `make metrics` makes this page from the code. To change it, change rlvla3/observability/glossary/. -->

What each number of a run means, its unit, its formula, what is normal, and what to do if it is not. `rlvla3 metrics`
prints it, and `rlvla3 metrics kl` prints the entries whose names hold `kl`.

- A name with a slash, such as `learner/approx_kl`, is a curve. TensorBoard and all
  [trackers](tracking.md) have the same names.
- A name with points, such as `update.learner.approx_kl`, is a place in a line of `metrics.jsonl`, behind the line's
  event. Names that begin with `machine` are places in a line of `machine.jsonl`.
- `{task}` stands for any task, and `[...]` for a part that may be left out.
- What is normal is what these algorithms usually show. A run may differ and learn well.
"""


def page(groups: tuple[Group, ...]) -> str:
    """The page, as Markdown."""
    return "\n".join([INTRODUCTION, *(line for group in groups for line in _section(group))]).rstrip() + "\n"


def text(groups: tuple[Group, ...], word: str = "", width: int = 80) -> str:
    """The entries whose name holds `word`, for a terminal. Raises RecipeError where there is none."""
    found = [(group, [metric for metric in group.metrics if word.lower() in f"{metric.curve} {metric.line}".lower()]) for group in groups]
    if not any(metrics for _, metrics in found):
        raise RecipeError(f"no metric has {word[:100]!r} in its name: `rlvla3 metrics` prints all of them")
    lines = []
    for group, metrics in found:
        if metrics:
            lines += [group.title.upper(), *textwrap.wrap(group.about, width), ""]
        for metric in metrics:
            lines.append(f"{metric.name}{f' ({metric.unit})' if metric.unit else ''}")
            lines += textwrap.wrap(_words(metric), width, initial_indent="    ", subsequent_indent="    ", break_long_words=False, break_on_hyphens=False)
            lines += [f"    metrics.jsonl: {metric.line}"] * bool(metric.curve and metric.line) + [""]
    return "\n".join(lines).rstrip()


def _section(group: Group) -> Iterator[str]:
    yield f"## {group.title}\n"
    yield from (*textwrap.wrap(group.about, WIDTH, break_on_hyphens=False), "")
    for metric in group.metrics:
        names = " = ".join(f"`{name}`" for name in (metric.curve, metric.line) if name)
        entry = f"- **{names}**{f' ({metric.unit})' if metric.unit else ''}. {_words(metric, code='`')}"
        yield from textwrap.wrap(entry, WIDTH, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False)
    yield ""


def _words(metric: Metric, code: str = "") -> str:
    """What an entry says beside its name."""
    parts = [metric.meaning]
    if metric.formula:
        parts.append(f"Formula: {code}{metric.formula}{code}.")
    if metric.normal:
        parts.append(f"Normal: {_begun(metric.normal)}")
    if metric.otherwise:
        parts.append(metric.otherwise if metric.otherwise.startswith(CONDITIONS) else f"If not: {_begun(metric.otherwise)}")
    return " ".join(parts)


def _begun(sentence: str) -> str:
    """A sentence behind a colon: it begins small, unless its first word is a name."""
    first = sentence.partition(" ")[0]
    return sentence if first.upper() == first else sentence[0].lower() + sentence[1:]
