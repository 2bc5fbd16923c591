"""Frames become what a vision tower sees."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from rlvla3.processing.images import Images, centre, crop_and_resize, lanczos3, pillow_bilinear, turned
from rlvla3.processing.specification import CameraProcessing, ImageProcessing


def frames(*shape: int) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(sum(shape)).integers(0, 256, shape, dtype=np.uint8))


def pillow(given: torch.Tensor, height: int, width: int, filter_: Image.Resampling) -> torch.Tensor:
    """Rows first, as Pillow before version 13 does for all sizes."""
    image = Image.fromarray(given.numpy()).resize((width, given.shape[0]), filter_).resize((width, height), filter_)
    return torch.from_numpy(np.asarray(image).copy()).float()


@pytest.mark.parametrize("old", [(256, 256), (480, 640), (64, 48), (37, 91)])
@pytest.mark.parametrize("new", [(224, 224), (168, 224), (33, 50)])
def test_pillows_resize_is_reproduced_to_the_last_bit(old: tuple[int, int], new: tuple[int, int]):
    given = frames(*old, 3)
    assert torch.equal(pillow_bilinear(given.permute(2, 0, 1), *new).permute(1, 2, 0), pillow(given, *new, Image.Resampling.BILINEAR))


@pytest.mark.parametrize(("old", "new"), [((40, 256), (40, 224)), ((50, 64), (50, 224)), ((256, 40), (224, 40))])
def test_lanczos_in_one_direction_is_pillows(old: tuple[int, int], new: tuple[int, int]):
    """TensorFlow has the same kernel. It rounds once, and Pillow once in each direction. Pillow's weights are rounded a little."""
    given = frames(*old, 3)
    difference = lanczos3(given.permute(2, 0, 1), *new).permute(1, 2, 0) - pillow(given, *new, Image.Resampling.LANCZOS)
    assert float(difference.abs().max()) <= 1 and float((difference != 0).float().mean()) < 1e-3


def test_the_crop_after_resizing_is_bilinear_between_the_ends_of_the_crop():
    """A ramp stays a ramp: the first new pixel lies at 10 %, the last at 90 % of the way."""
    ramp = torch.linspace(0, 1, 11).expand(1, 11, 11)
    cropped = crop_and_resize(ramp, 0.8)
    assert torch.allclose(cropped[0, 0], torch.linspace(0.1, 0.9, 11), atol=1 / 255 + 1e-6)


def test_turns_and_the_crop_before_resizing():
    given = frames(1, 4, 6, 3)
    assert torch.equal(turned(given, "rotated"), torch.rot90(given, 2, (1, 2)))
    assert torch.equal(turned(turned(given, "flipped"), "mirrored"), turned(given, "rotated"))
    assert torch.equal(turned(given, "none"), given)
    assert torch.equal(centre(given.permute(0, 3, 1, 2), 0.5), given.permute(0, 3, 1, 2)[..., 1:3, 2:5])


@pytest.mark.parametrize("resize", ["pad", "pad_corner", "stretch"])
@pytest.mark.parametrize("filter_", ["bilinear", "pillow", "lanczos3"])
def test_a_frame_does_not_depend_on_its_neighbours(resize: str, filter_: str):
    how = ImageProcessing.model_validate({"cameras": [{"key": "a", "camera": "c"}], "size": [20, 24], "resize": resize, "filter": filter_, "crop": 0.9})
    batch = frames(5, 33, 41, 3)
    together, _ = Images(how)({"c": batch}, 5, torch.device("cpu"))
    for row in range(5):
        alone, _ = Images(how)({"c": batch[row : row + 1]}, 1, torch.device("cpu"))
        assert torch.equal(together[row], alone[0])


def test_padding_is_black_and_lies_where_it_should():
    white = torch.full((1, 10, 20, 3), 255, dtype=torch.uint8)
    for resize, top, bottom in (("pad", 5, 5), ("pad_corner", 10, 0)):
        how = ImageProcessing.model_validate({"cameras": [{"key": "a", "camera": "c"}], "size": [20, 20], "resize": resize})
        image = Images(how)({"c": white}, 1, torch.device("cpu"))[0][0, 0]
        expected = torch.ones(3, 20, 20)
        expected[:, :top] = expected[:, 20 - bottom :] = -1
        assert torch.allclose(image, expected)


def test_a_camera_that_sees_nothing_is_black_and_masked():
    how = ImageProcessing(cameras=[CameraProcessing(key="a", camera="c"), CameraProcessing(key="b")], size=(8, 8))
    images, mask = Images(how)({"c": frames(2, 8, 8, 3)}, 2, torch.device("cpu"))
    assert images.shape == (2, 2, 3, 8, 8) and bool((images[:, 1] == -1).all())
    assert mask.tolist() == [[True, False]] * 2


def test_six_numbers_show_each_image_twice():
    """OpenVLA has two vision towers, which scale differently."""
    how = ImageProcessing(cameras=[CameraProcessing(key="a", camera="c")], size=(8, 8), mean=[0.5] * 3 + [0.0] * 3, std=[0.5] * 3 + [1.0] * 3)
    given = frames(1, 8, 8, 3)
    image = Images(how)({"c": given}, 1, torch.device("cpu"))[0][0, 0]
    pixels = given[0].permute(2, 0, 1) / 255
    assert torch.allclose(image, torch.cat([pixels * 2 - 1, pixels]), atol=1e-6)
