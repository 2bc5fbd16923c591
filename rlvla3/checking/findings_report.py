"""What an examination found: lines to read, plain data, and frames to look at."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from rlvla3.checking.evidence import Evidence
from rlvla3.checking.finding import Result, Verdict
from rlvla3.checking.png import write_png

VERDICTS: Sequence[Verdict] = ("passed", "warning", "failed", "not applicable")
MOST_FINDINGS = 4
"""Of one check that are printed; all are in the JSON."""

FRAMES_OF = ("alone", "other")


def lines(results: Sequence[Result]) -> Iterator[str]:
    """One line a check, and its findings below it."""
    for result in results:
        verdict = result.verdict.upper() if result.verdict == "failed" else result.verdict
        reason = f" ({result.words[0]})" if result.verdict == "not applicable" else ""
        yield f"{verdict:<16}{result.check.name:<14}{result.check.demand}{reason}"
        if not reason:
            for words in result.words[:MOST_FINDINGS]:
                yield textwrap.indent(words, " " * 16)
            if len(result.words) > MOST_FINDINGS:
                yield f"{' ' * 16}and {len(result.words) - MOST_FINDINGS} more"


def total(results: Sequence[Result]) -> str:
    """The last line: how many of each."""
    counts = {verdict: sum(result.verdict == verdict for result in results) for verdict in VERDICTS}
    return ", ".join(f"{count} {verdict}" for verdict, count in counts.items() if count)


def as_json(results: Sequence[Result]) -> list[dict[str, Any]]:
    return [{"check": result.check.name, "verdict": result.verdict, "found": list(result.words)} for result in results]


def write_frames(evidence: Evidence, folder: Path) -> int:
    """The first and the last frame of each camera in two episodes, as PNG files. Returns how many."""
    folder.mkdir(parents=True, exist_ok=True)
    written = 0
    for name in FRAMES_OF:
        played = evidence.plays.get(name)
        seen = list(played.observations()) if played else []
        for number, observation in [*seen[:1], *seen[1:][-1:]]:
            for camera, image in observation.images.items():
                if played and isinstance(image, np.ndarray) and image.dtype == np.uint8 and image.ndim == 3:
                    task = played.ticket.task.replace("/", "_").replace(":", "_")
                    write_png(folder / f"{task}-seed{played.ticket.seed}-{camera}-{number}.png", image)
                    written += 1
    return written
