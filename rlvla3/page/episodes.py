"""The films of a run: evaluation episodes and training episodes, with what a file beside each film says of it."""

from __future__ import annotations

import os
import re
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
        """The newest films, the newest first. A file that is removed meanwhile is left out. Raises OSError where the folder may not be read."""
        found: list[tuple[float, str]] = []
        try:
            with os.scandir(self._folder) as entries:
                found = [(entry.stat().st_mtime, entry.name) for entry in entries if FILM.fullmatch(entry.name) and entry.is_file()]
        except (FileNotFoundError, NotADirectoryError):
            return []
        newest = sorted(found, reverse=True)[:MOST]
        films = {entry: self._known.get(entry) or _film(self._folder / entry[1], entry[0]) for entry in newest}
        self._known = {entry: film for entry, film in films.items() if film.record is not None}  # a record is written after its film
        return list(films.values())


def _film(path: Path, written: float) -> Film:
    parts = FILM.fullmatch(path.name)
    assert parts is not None
    return Film(path.name, parts["when"], parts["task"], int(parts["ticket"]), parts["how"] == "success", written, read_film_record(path.with_suffix(".json")))
