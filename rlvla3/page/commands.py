"""What `rlvla3 explain` and `rlvla3 report` do."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

from rlvla3.errors import RecipeError
from rlvla3.observability.figures import write_figures
from rlvla3.observability.formatting import number_of, percent, size
from rlvla3.observability.progress_line import Work, progress
from rlvla3.observability.run_directory import complete_file
from rlvla3.page.explaining import Sentence, advice_of, explain
from rlvla3.page.report import Reported, report
from rlvla3.page.report_videos import clips
from rlvla3.page.run_facts import run_facts

WIDTH = 100
"""Columns of the lines that are printed."""


def explain_run(path: Path, figures: Path | None = None) -> None:
    """Print a run in ten sentences. figures: a file for the same as data. Raises RunDirectoryError where there is no run."""
    with progress(f"reading {path}", total=1) as work:
        facts = run_facts(path, work.reach)
    with progress("rehearsing it with other settings"):
        sentences = explain(facts, advice_of(facts))
    if figures:
        write_figures({"run": str(path), "sentences": [asdict(sentence) for sentence in sentences]}, figures)
    print("\n".join(lines(sentences)))


def report_runs(paths: Sequence[Path], out: Path | None, videos_mib: float) -> None:
    """Write one HTML file of these runs. out: the file (None: report.html in the folder of the first run). videos_mib: room for the videos of all runs.

    Raises RunDirectoryError where there is no run, and RecipeError for a run that is given twice.
    """
    if repeated := [path for number, path in enumerate(paths) if path.resolve() in {other.resolve() for other in paths[:number]}]:
        raise RecipeError(f"{repeated[0]} is given twice: give each run once")
    names, runs = _names(paths), list[Reported]()
    with progress("reading", total=len(paths), unit="run") as work:
        for path in paths:
            work.reach(len(runs), now=names[path])
            facts = run_facts(path, _telling(work, len(runs), names[path]))
            found = clips(path / "videos", int(videos_mib * 2**20 / len(paths)))
            runs.append(Reported(names[path], facts, explain(facts, advice_of(facts)), found))
    final = out or paths[0] / "report.html"
    try:
        with complete_file(final) as beside:
            beside.write_text(report(runs), encoding="utf-8", errors="replace")  # the name of a folder need not be text
    except OSError as error:
        raise RecipeError(f"{final} cannot be written ({error.strerror}): name another file with --out") from error
    print(f"{final}: {number_of(len(runs), 'run')}, {size(final.stat().st_size)}. It needs no other file and no network")


def _telling(work: Work, done: int, name: str) -> Callable[[float], None]:
    """Shows how much of a run is read, with so many runs `done`."""
    return lambda share: work.reach(done, now=f"{name}, {percent(share)}")


def _names(paths: Sequence[Path]) -> dict[Path, str]:
    """What each run is called: its folder, with as many folders above it as it takes to tell them apart."""
    depth = 1
    while len({_end(path, depth) for path in paths}) < len(paths):
        depth += 1
    return {path: _end(path, depth) for path in paths}


def _end(path: Path, depth: int) -> str:
    return "/".join(path.resolve().parts[-depth:])


def lines(sentences: list[Sentence]) -> list[str]:
    """The sentences as lines of text, the topics in a column of their own."""
    width = max(len(sentence.topic) for sentence in sentences) + 2
    wrapped = (_wrapped(sentence.text, WIDTH - width) for sentence in sentences)
    return [
        f"{sentence.topic if not number else '':{width}}{text}" for sentence, texts in zip(sentences, wrapped, strict=True) for number, text in enumerate(texts)
    ]


def _wrapped(text: str, width: int) -> list[str]:
    """A percent sign stays on the line of its number."""
    return [line.replace("\N{NO-BREAK SPACE}", " ") for line in textwrap.wrap(text.replace(" %", "\N{NO-BREAK SPACE}%"), width)] or [""]
