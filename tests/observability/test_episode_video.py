"""Videos of episodes."""

from __future__ import annotations

import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rlvla3.config import make_recipe
from rlvla3.observability.episode_video import VideoError, framed, write_video
from rlvla3.preflight import preflight


def test_a_video_decodes_to_as_many_frames_with_the_outcome_around_them(tmp_path: Path):
    imageio_ffmpeg = pytest.importorskip("imageio_ffmpeg")
    frames = [np.full((64, 48, 3), 10 * index, np.uint8) for index in range(20)]
    where = write_video(tmp_path / "videos" / "reach.mp4", {"front": frames, "wrist": [frame[:, :40] for frame in frames]}, success=True)
    decoder = imageio_ffmpeg.read_frames(str(tmp_path / "videos" / "reach.mp4"))
    width, height = next(decoder)["size"]
    decoded = [np.frombuffer(frame, np.uint8).reshape(height, width, 3).astype(int) for frame in decoder]
    assert len(decoded) == len(frames)
    assert min(width, height) >= 256
    red, green, blue = decoded[10][3, 3]
    assert green > red + 50
    assert green > blue + 50
    for left, top, its_width, its_height in where.values():
        assert abs(decoded[10][top : top + its_height, left : left + its_width] - 100).max() < 12
    assert where["wrist"][0] > where["front"][0] + where["front"][2]
    assert [path.name for path in (tmp_path / "videos").iterdir()] == ["reach.mp4"]


def test_frames_are_enlarged_without_smoothing():
    frame = np.zeros((2, 2, 3), np.uint8)
    frame[0, 0] = 255
    drawn = framed([frame], (1, 2, 3))
    assert drawn.shape == (272, 272, 3)
    assert {tuple(pixel) for pixel in drawn.reshape(-1, 3)} == {(0, 0, 0), (255, 255, 255), (1, 2, 3)}
    assert framed([np.zeros((300, 400, 3), np.uint8)], (0, 0, 0)).shape == (320, 416, 3)


def test_frames_that_cannot_be_a_video_are_refused(tmp_path: Path):
    with pytest.raises(ValueError, match="at least one frame"):
        write_video(tmp_path / "a.mp4", {"front": []}, success=True)
    with pytest.raises(ValueError, match="float32"):
        write_video(tmp_path / "a.mp4", {"front": [np.zeros((64, 64, 3), np.float32)]}, success=True)


def test_a_missing_encoder_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "imageio_ffmpeg", None)
    with pytest.raises(VideoError, match=r"pip install imageio-ffmpeg.*evaluation\.videos=0"):
        write_video(tmp_path / "a.mp4", {"front": [np.zeros((64, 64, 3), np.uint8)]}, success=True)
    assert not list(tmp_path.iterdir())


BUTTON = {"simulator": {"name": "metaworld", "tasks": ["button-press-topdown-v3"]}}
CARTPOLE = {"simulator": {"name": "gymnasium:CartPole-v1"}, "policy": {"name": "actor_critic", "chunk": 1}}


@pytest.mark.parametrize(
    ("tree", "of", "refused"), [(BUTTON, "evaluation", True), (BUTTON, "training", True), (BUTTON, "", False), (CARTPOLE, "training", False)]
)
def test_a_missing_encoder_is_said_before_a_run_that_would_film(monkeypatch: pytest.MonkeyPatch, tree: dict[str, Any], of: str, refused: bool):
    """CartPole has no camera to film."""
    monkeypatch.setitem(sys.modules, "imageio_ffmpeg", None)
    recipe = make_recipe(tree | {section: {"videos": int(section == of)} for section in ("training", "evaluation")})
    with pytest.raises(VideoError, match=r"training\.videos=0 and evaluation\.videos=0") if refused else nullcontext():
        preflight(recipe, trains=True, evaluates=True)
