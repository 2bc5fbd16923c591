"""What `rlvla3 view` does."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from rlvla3.observability.progress_line import progress
from rlvla3.observability.run_directory import RunDirectory, complete_file
from rlvla3.viewing.datasets import dataset_episode, is_dataset
from rlvla3.viewing.films import film_episode, films_in
from rlvla3.viewing.live_shard import LiveShard
from rlvla3.viewing.rerun_log import RerunLog, need_rerun
from rlvla3.viewing.shown_episode import ShownEpisode, ViewError

FILM_ENDINGS = (".mp4", ".json", ".npz")


def view(start: Path, episode: int | None, save: Path | None, live: int | None = None) -> None:
    """Show an episode. Raises ViewError.

    start: a file of a film, a LeRobotDataset, or a run directory, whose newest film is shown. episode: the number of an episode in a dataset, or of a ticket in
    a run. save: the file to write, instead of opening the viewer. live: a shard of a run that goes on, whose decisions are shown until the run ends or the user
    interrupts.
    """
    need_rerun()
    if live is not None:
        _follow(LiveShard(RunDirectory.open(start), live), save)
        return
    shown = shown_episode(start, episode)
    if save is None:
        _write(shown, None)
        return
    with complete_file(save) as beside:
        _write(shown, beside)
    print(f"{save}: {shown.title}, {len(shown.frame_steps)} frames of {len(shown.cameras)} cameras. Open it with: rerun {save}")


def shown_episode(start: Path, episode: int | None) -> ShownEpisode:
    """The episode that `view` shows. Raises ViewError."""
    if start.suffix in FILM_ENDINGS and start.with_suffix(".json").is_file():
        return film_episode(start)
    if is_dataset(start):
        return dataset_episode(start, episode)
    folder = RunDirectory(start).videos if (start / "config.yaml").is_file() else start
    if not folder.is_dir():
        raise ViewError(f"{start} is no film, no dataset and no run directory: give RUN_DIR, RUN_DIR/videos/NAME.mp4, or the folder of a LeRobotDataset")
    films = [path for path in films_in(folder) if episode is None or path.stem.split("-")[-2:-1] == [str(episode)]]
    if not films:
        which = "no film" if episode is None else f"no film of ticket {episode}"
        raise ViewError(f"{folder} holds {which}: a run keeps films with training.videos and evaluation.videos, where a camera has three channels")
    return film_episode(films[-1])


def _follow(shard: LiveShard, save: Path | None) -> None:
    """Show the decisions of a shard as they come. A file holds what was seen until the run has ended, or the user has interrupted."""
    print(f"looking at {shard.name}, until the run ends or you press Ctrl-C", flush=True)
    with RerunLog(shard.name, save) as log, suppress(KeyboardInterrupt):
        for step, part in shard.parts():
            log.episode(part, step)
    if save is not None:
        print(f"{save}: open it with: rerun {save}")


def _write(shown: ShownEpisode, save: Path | None) -> None:
    with progress(f"writing the frames of {shown.title}"), RerunLog(shown.title, save) as log:
        log.episode(shown)
