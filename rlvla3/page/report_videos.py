"""The videos of a report: the newest ones of failed and of successful episodes in turn, until they fill their room."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain, zip_longest
from pathlib import Path

from rlvla3.observability.film import read_film_record

MOST = 12
"""Videos of one run."""


@dataclass(frozen=True, slots=True)
class Clip:
    """A video. content: the bytes of the .mp4. said: what stands below it."""

    content: bytes
    success: bool
    said: str


def clips(folder: Path, room: int) -> list[Clip]:
    """Videos in `folder` that take at most `room` bytes together. Raises OSError where one may not be read."""
    found = [(path.stat().st_mtime, path) for path in folder.glob("*.mp4") if path.is_file()] if folder.is_dir() else []
    newest = [path for _, path in sorted(found, reverse=True)]
    failed, succeeded = ([path for path in newest if path.stem.endswith("-success") == success] for success in (False, True))
    chosen: list[Clip] = []
    for path in _in_turn(failed, succeeded):
        if len(chosen) == MOST:
            break
        if path.stat().st_size <= room:
            content = path.read_bytes()
            room -= len(content)
            chosen.append(Clip(content, path.stem.endswith("-success"), _said(path)))
    return chosen


def _in_turn(failed: Sequence[Path], succeeded: Sequence[Path]) -> list[Path]:
    return [path for path in chain.from_iterable(zip_longest(failed, succeeded)) if path is not None]


def _said(path: Path) -> str:
    """What the film was, where a file beside it says so (observability/film.py); else its name."""
    record = read_film_record(path.with_suffix(".json"))
    if record is None:
        return path.stem.replace("-", " ")
    text = next(filter(None, record.instructions), "")
    instruction = f"“{text}”, " if text else ""
    returned = f", return {record.episode_return:.3g}" if record.episode_return is not None else ""
    version = f", version {record.version}" if record.version >= 0 else ""
    return f"{record.task}: {instruction}{'success' if record.success else 'failure'}{returned}{version} ({record.when})"
