"""Writes episodes to Rerun: to a file, or to the viewer. Needs rerun-sdk (the extra `view`).

    cameras/front        the frames of a camera, as JPEG
    state                the numbers of the robot's state
    action/planned/0     the first number of each planned action, and
    action/executed/0    of each action that was executed
    value, reward        one number each
    instruction          what the policy was told, from the step on at which it was told

All of it is on one time line, `step`: environment steps.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from rlvla3.viewing.shown_episode import Frame, Series, ShownEpisode, ViewError

APPLICATION, TIMELINE = "rlvla3", "step"

JPEG_QUALITY = 90

MOST_PLOTS = 8
"""Plots of actions, one for each of their numbers. More than that do not fit on a screen; all are written."""

AT_ONCE = 64
"""Frames that are written together. So memory holds few of them."""


def need_rerun() -> Any:
    """The module rerun. Raises ViewError where it is missing."""
    if find_spec("rerun") is None:
        raise ViewError("`rlvla3 view` needs the package rerun-sdk, which is not installed: pip install 'rlvla3[view]'")
    import rerun

    return rerun


class RerunLog:
    """One recording of Rerun. save: the file that it goes to (None: a viewer, which is started where none is open).

    with RerunLog("my run", save=Path("episode.rrd")) as log:
        log.episode(shown)
    """

    def __init__(self, name: str, save: Path | None) -> None:
        self._rerun, self._planned = need_rerun(), False
        self._stream = self._rerun.RecordingStream(APPLICATION)
        if save is not None:
            self._stream.save(str(save))
        else:
            self._open_viewer()
        self._stream.send_recording_name(name)

    def __enter__(self) -> RerunLog:
        return self

    def __exit__(self, *_: object) -> None:
        self._stream.flush()
        self._stream.disconnect()

    def episode(self, shown: ShownEpisode, first: int = 0) -> None:
        """Write an episode. first: the step of the time line that it begins at."""
        if not self._planned:
            self._stream.send_blueprint(self._blueprint(shown))
            self._planned = True
        for camera, frames in shown.cameras.items():
            self._frames(f"cameras/{camera}", [first + step for step in shown.frame_steps], frames)
        for name, series in shown.series.items():
            self._series(name, Series(series.steps + first, series.values))
        for step, text in shown.texts:
            self._text("instruction", first + step, text)
        if shown.outcome is not None:
            self._text("outcome", first + shown.outcome[0], shown.outcome[1])

    def _open_viewer(self) -> None:
        try:
            self._stream.spawn()
        except RuntimeError as error:
            raise ViewError(
                f"the viewer of Rerun could not be started ({error}): write a file with --save FILE.rrd, and open it where there is a screen"
            ) from error

    def _frames(self, entity: str, steps: Sequence[int], frames: Iterable[Frame]) -> None:
        waiting: list[bytes] = []
        done = 0
        for frame in frames:
            waiting.append(_jpeg(frame))
            if len(waiting) == AT_ONCE:
                self._images(entity, steps[done : done + len(waiting)], waiting)
                done, waiting = done + len(waiting), []
        self._images(entity, steps[done : done + len(waiting)], waiting)

    def _images(self, entity: str, steps: Sequence[int], images: Sequence[bytes]) -> None:
        if not images:
            return
        rr = self._rerun
        columns = rr.EncodedImage.columns(blob=images, media_type=["image/jpeg"] * len(images))
        self._stream.send_columns(entity, self._times(steps), columns)

    def _series(self, name: str, series: Series) -> None:
        scalars = self._rerun.Scalars
        if name.startswith("action/"):  # planned and executed numbers are drawn on one plot for each number
            for place in range(series.values.shape[1]):
                self._stream.send_columns(f"{name}/{place}", self._times(series.steps), scalars.columns(scalars=series.values[:, place]))
        else:
            self._stream.send_columns(name, self._times(series.steps), scalars.columns(scalars=series.values))

    def _text(self, entity: str, step: int, text: str) -> None:
        self._stream.set_time(TIMELINE, sequence=step)
        self._stream.log(entity, self._rerun.TextDocument(text))

    def _times(self, steps: Iterable[int]) -> list[Any]:
        return [self._rerun.TimeColumn(TIMELINE, sequence=list(map(int, steps)))]

    def _blueprint(self, shown: ShownEpisode) -> Any:
        """Where everything stands on the screen: cameras and text above, curves below."""
        import rerun.blueprint as rrb

        numbers = max((series.values.shape[1] for name, series in shown.series.items() if name.startswith("action/")), default=0)
        cameras = [rrb.Spatial2DView(origin=f"cameras/{camera}", name=camera) for camera in shown.cameras]
        texts = rrb.Vertical(rrb.TextDocumentView(origin="instruction", name="instruction"), rrb.TextDocumentView(origin="outcome", name="outcome"))
        plots = [
            rrb.TimeSeriesView(contents=[f"action/planned/{place}", f"action/executed/{place}"], name=f"action {place}")
            for place in range(min(numbers, MOST_PLOTS))
        ]
        curves = [rrb.TimeSeriesView(origin=name, name=name) for name in ("state", "value", "reward", "version") if name in shown.series]
        return rrb.Blueprint(rrb.Vertical(rrb.Horizontal(*cameras, texts), rrb.Grid(*plots, *curves)), rrb.TimePanel(timeline=TIMELINE))


def _jpeg(frame: Frame) -> bytes:
    """A frame [H, W, 3], or one of another number of channels, as JPEG. Of more than three channels the first three are shown."""
    from PIL import Image

    colours = frame[..., :3] if frame.shape[-1] >= 3 else frame[..., 0]
    written = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(colours)).save(written, "JPEG", quality=JPEG_QUALITY)
    return written.getvalue()
