"""The watcher that writes films into the run directory, and keeps the newest of training.

Invariants:
- a film that has a JSON file is complete: it is written last;
- a ticket that is run again replaces its film, also where it ends otherwise.
"""

from __future__ import annotations

import numpy as np

from rlvla3.observability.episode_video import FPS, write_video
from rlvla3.observability.events import EpisodeFilmed, Event
from rlvla3.observability.film import Film, film_record
from rlvla3.observability.run_directory import RunDirectory, complete_file

MOST_OF_TRAINING = 1000
"""Films of training that are kept: the newest ones. Those of evaluations are all kept."""


class VideoFiles:
    """Writes the films of a run into its folder `videos`."""

    def __init__(self, run: RunDirectory) -> None:
        self._folder = run.videos
        self._of_training: list[str] | None = None

    def on(self, event: Event) -> None:
        if isinstance(event, EpisodeFilmed):
            self._write(event.film)
            if event.film.when == "train":
                self._keep_newest(event.film.name)

    def close(self) -> None:
        """Does nothing: every film is complete."""

    def _write(self, film: Film) -> None:
        self._remove(film.name_without_outcome + "-success")
        self._remove(film.name_without_outcome + "-failure")
        video = self._folder / f"{film.name}.mp4"
        cameras = write_video(video, film.frames, film.finished.success)
        with complete_file(video.with_suffix(".npz")) as beside, beside.open("wb") as file:
            np.savez_compressed(file, **film.arrays)  # type: ignore[arg-type]  # mypy takes them for numpy's own arguments too
        with complete_file(video.with_suffix(".json")) as beside:
            beside.write_text(film_record(film, video.name, FPS, cameras).model_dump_json(), encoding="utf-8")

    def _keep_newest(self, name: str) -> None:
        if self._of_training is None:
            self._of_training = sorted(path.stem for path in self._folder.glob("train-*.json"))
        self._of_training = [*(kept for kept in self._of_training if kept != name), name]
        while len(self._of_training) > MOST_OF_TRAINING:
            self._remove(self._of_training.pop(0))

    def _remove(self, name: str) -> None:
        for ending in (".json", ".mp4", ".npz"):
            (self._folder / f"{name}{ending}").unlink(missing_ok=True)
