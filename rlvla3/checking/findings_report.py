"""The results of an examination as lines to read and as plain data, and its frames as PNG files."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from rlvla3.checking.evidence import Evidence
from rlvla3.checking.finding import Result, Verdict
from rlvla3.checking.png import write_png
from rlvla3.observability.file_names import file_name

VERDICTS: Sequence[Verdict] = ("passed", "warning", "failed", "not applicable")
MAX_FINDINGS = 4
"""So many findings of one check are printed. The JSON file has all of them."""

WIDTH = 120
"""What is longer takes a second line."""

FRAMES_OF = ("alone", "other")
"""The episodes whose frames are written."""


def lines(results: Sequence[Result]) -> Iterator[str]:
    """One line for each check, with what is to know of it in brackets. What is wrong stands below it."""
    for result in results:
        verdict = result.verdict.upper() if result.verdict == "failed" else result.verdict
        line = f"{verdict:<16}{result.check.name:<14}{result.check.demand}"
        if result.verdict in ("passed", "not applicable") and result.messages:
            beside = f"({'; '.join(result.messages)})"
            yield f"{line} {beside}" if len(line) + len(beside) < WIDTH else f"{line}\n{' ' * 16}{beside}"
            continue
        yield line
        for message in result.messages[:MAX_FINDINGS]:
            yield textwrap.indent(message, " " * 16)
        if len(result.messages) > MAX_FINDINGS:
            yield f"{' ' * 16}and {len(result.messages) - MAX_FINDINGS} more"


def total(results: Sequence[Result]) -> str:
    """The last line: the number of checks for each verdict."""
    counts = {verdict: sum(result.verdict == verdict for result in results) for verdict in VERDICTS}
    return ", ".join(f"{count} {verdict}" for verdict, count in counts.items() if count)


def as_json(results: Sequence[Result]) -> list[dict[str, Any]]:
    return [{"check": result.check.name, "verdict": result.verdict, "found": list(result.messages)} for result in results]


def write_frames(evidence: Evidence, folder: Path) -> int:
    """Write the first and the last frame of each camera in the episodes FRAMES_OF, as PNG files. Returns the number of files."""
    folder.mkdir(parents=True, exist_ok=True)
    written = 0
    for name in FRAMES_OF:
        episode = evidence.episodes.get(name)
        seen = list(episode.observations()) if episode else []
        for number, observation in [*seen[:1], *seen[1:][-1:]]:
            for camera, image in observation.images.items():
                if episode and isinstance(image, np.ndarray) and image.dtype == np.uint8 and image.ndim == 3:
                    name = f"{file_name(episode.ticket.task)}-seed{episode.ticket.seed}-{file_name(camera, longest=60)}-{number}.png"
                    write_png(folder / name, image)
                    written += 1
    return written
