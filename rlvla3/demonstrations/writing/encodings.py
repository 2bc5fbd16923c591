"""How the frames of a dataset are kept: in videos of H.264 or AV1, or as PNG images in its data files.

Every second frame of a video is a key frame, as lerobot's writer has it: training reads frames in any order.
"""

from __future__ import annotations

import io
import os
from collections.abc import Generator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from rlvla3.demonstrations.demonstration_file import DemonstrationError, Frame, import_optional
from rlvla3.errors import described

Encoding = Literal["h264", "av1", "png"]

ENCODERS: Mapping[str, tuple[str, ...]] = {
    # No frame is predicted from later ones: the first frame is at time 0 for every reader.
    "h264": ("libx264", "-crf", "18", "-g", "2", "-bf", "0"),
    "av1": ("libsvtav1", "-crf", "30", "-g", "2", "-preset", "10"),
}
"""ffmpeg's encoder and its settings. crf: the quality, smaller is better. AV1 has lerobot's own."""

PNG_EFFORT = 3
"""How hard PNG tries to be small, from 0 to 9."""


def frames_of(encoding: Encoding, fps: float) -> dict[str, Any]:
    """What meta/info.json says of frames that are kept in this way."""
    if encoding == "png":
        return {"dtype": "image"}
    about = {"video.fps": fps, "video.codec": encoding, "video.channels": 3, "video.is_depth_map": False, "has_audio": False}
    return {"dtype": "video", "info": about}


def check_encoder(encoding: Encoding) -> None:
    """Raise DemonstrationError where a package is missing that writes such frames."""
    import_optional("PIL.Image" if encoding == "png" else "imageio_ffmpeg")


def png(frame: Frame) -> bytes:
    """A frame, uint8 [H, W, 3], as a PNG image."""
    content = io.BytesIO()
    import_optional("PIL.Image").fromarray(np.ascontiguousarray(frame)).save(content, "png", compress_level=PNG_EFFORT)
    return content.getvalue()


class VideoFile:
    """One video that is being written. Raises DemonstrationError where it cannot be encoded."""

    def __init__(self, path: Path, shape: tuple[int, ...], fps: float, encoding: Encoding) -> None:
        """shape: of its frames, [H, W, 3]."""
        self.path, self.frames, self._encoding = path, 0, encoding
        height, width, _ = shape
        codec, *settings = ENCODERS[encoding]
        colours = "yuv444p" if encoding == "h264" and (height % 2 or width % 2) else "yuv420p"  # 4:2:0 halves both sides
        path.parent.mkdir(parents=True, exist_ok=True)
        self._encoder: Generator[None, NDArray[np.uint8] | None, None] = import_optional("imageio_ffmpeg").write_frames(
            str(path),
            (width, height),
            fps=fps,
            codec=codec,
            pix_fmt_out=colours,
            quality=None,
            macro_block_size=1,
            ffmpeg_log_level="quiet",
            output_params=settings,
        )
        os.environ.setdefault("SVT_LOG", "1")  # the AV1 encoder says its settings on stderr otherwise
        self._send(None)

    def add(self, frame: Frame) -> None:
        self._send(np.ascontiguousarray(frame))
        self.frames += 1

    @property
    def bytes(self) -> int:
        """How large the file is by now, as far as the encoder has written it."""
        return self.path.stat().st_size if self.path.exists() else 0

    def abandon(self) -> None:
        """End the encoder of a file that is not wanted any more."""
        with suppress(OSError, RuntimeError):
            self._encoder.close()

    def close(self) -> None:
        """Complete the file. The encoder does not say whether it could write it, so its frames are counted."""
        try:
            self._encoder.close()
            written, _ = import_optional("imageio_ffmpeg").count_frames_and_secs(str(self.path))
        except (OSError, RuntimeError) as error:
            raise self._not_encoded(described(error)) from error
        if written != self.frames:
            raise self._not_encoded(f"it has {written} of {self.frames} frames")

    def _send(self, frame: NDArray[np.uint8] | None) -> None:
        try:
            self._encoder.send(frame)
        except (OSError, RuntimeError, StopIteration) as error:
            raise self._not_encoded(described(error)) from error

    def _not_encoded(self, why: str) -> DemonstrationError:
        first = why.split("FFMPEG COMMAND")[0].strip()[:300]
        return DemonstrationError(f"{self.path} could not be encoded as {self._encoding} ({first}): is the disk full? Or write --frames png")
