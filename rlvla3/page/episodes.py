"""The films of a run: evaluation episodes and training episodes, with what a file beside each film says of it.

Invariants:
- a film has its whole name: what is still being written, and other videos, are left out;
- links are not followed, neither that of a film nor that of the folder of films. A run directory may come from somebody else, and a link in it could lead to
  any file of this user. A page or a report would hand that file on;
- a film that is removed meanwhile is left out, and the others are not.
"""

from __future__ import annotations

import os
import re
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from rlvla3.observability.film import FilmRecord, read_film_record

FILM = re.compile(r"(?P<when>[a-z]+)-(?P<task>.+)-(?P<ticket>[0-9]{1,15})-(?P<how>success|failure)\.mp4")
MOST = 200
"""The newest films that are listed."""


@dataclass(frozen=True, slots=True)
class Film:
    """when: before, during or after training, eval, or train. record: what the file beside the film says; None where it says nothing."""

    name: str
    when: str
    task: str
    ticket: int
    success: bool
    written: float
    record: FilmRecord | None


class Films:
    """The films of a folder. Ask with `newest`. What the file beside a film says is read once."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._known: dict[tuple[float, str], Film] = {}

    def newest(self) -> list[Film]:
        """The newest films, the newest first. Raises OSError where the folder may not be read."""
        newest = film_files(self._folder)[:MOST]
        films = {entry: self._known.get(entry) or _film(self._folder / entry[1], entry[0]) for entry in newest}
        self._known = {entry: film for entry, film in films.items() if film.record is not None}  # a record is written after its film
        return list(films.values())


def film_files(folder: Path) -> list[tuple[float, str]]:
    """When each film of a folder was written, and its name, the newest first. Raises OSError where the folder may not be read."""
    if folder.is_symlink():
        return []
    found: list[tuple[float, str]] = []
    with suppress(FileNotFoundError, NotADirectoryError), os.scandir(folder) as entries:
        for entry in entries:
            if FILM.fullmatch(entry.name) and entry.is_file(follow_symlinks=False):
                with suppress(FileNotFoundError):
                    found.append((entry.stat(follow_symlinks=False).st_mtime, entry.name))
    return sorted(found, reverse=True)


def film_file(folder: Path, name: str) -> Path | None:
    """The path of a film. None where the folder has no such film. Raises OSError where the folder may not be read."""
    path = folder / name
    if not FILM.fullmatch(name) or "/" in name or folder.is_symlink() or path.is_symlink() or not path.is_file():
        return None
    return path


def record_of(film: Path) -> FilmRecord | None:
    """What the file beside a film says. None where there is none, or it is a link or damaged."""
    path = film.with_suffix(".json")
    return None if path.is_symlink() else read_film_record(path)


def _film(path: Path, written: float) -> Film:
    parts = FILM.fullmatch(path.name)
    assert parts is not None
    return Film(path.name, parts["when"], parts["task"], int(parts["ticket"]), parts["how"] == "success", written, record_of(path))
