"""The videos of a report: the newest ones of failed and of successful episodes in turn, until they fill their room."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain, zip_longest
from pathlib import Path

from rlvla3.page.episodes import film_files, record_of

MOST = 12
"""Videos of one run."""


@dataclass(frozen=True, slots=True)
class Clip:
    """A video. content: the bytes of the .mp4. said: what stands below it."""

    content: bytes
    success: bool
    said: str


def clips(folder: Path, room: int) -> list[Clip]:
    """Films in `folder` that take at most `room` bytes together. Raises OSError where one may not be read."""
    newest = [folder / name for _, name in film_files(folder)]
    failed, succeeded = ([path for path in newest if path.stem.endswith("-success") == success] for success in (False, True))
    chosen: list[Clip] = []
    for path in _in_turn(failed, succeeded):
        if len(chosen) == MOST:
            break
        if (content := _content(path, room)) is not None:
            room -= len(content)
            chosen.append(Clip(content, path.stem.endswith("-success"), _said(path)))
    return chosen


def _content(path: Path, most: int) -> bytes | None:
    """The bytes of a film. None where it has more than `most`, or has been removed meanwhile."""
    try:
        return path.read_bytes() if path.stat().st_size <= most else None
    except FileNotFoundError:
        return None


def _in_turn(failed: Sequence[Path], succeeded: Sequence[Path]) -> list[Path]:
    return [path for path in chain.from_iterable(zip_longest(failed, succeeded)) if path is not None]


def _said(path: Path) -> str:
    """What the film was, where a file beside it says so (observability/film.py); else its name."""
    record = record_of(path)
    if record is None:
        return path.stem.replace("-", " ")
    text = next(filter(None, record.instructions), "")
    instruction = f"“{text}”, " if text else ""
    returned = f", return {record.episode_return:.3g}" if record.episode_return is not None else ""
    version = f", version {record.version}" if record.version >= 0 else ""
    return f"{record.task}: {instruction}{'success' if record.success else 'failure'}{returned}{version} ({record.when})"
