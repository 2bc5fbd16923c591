"""Frames become what a vision tower sees (specification.ImageProcessing says how).

Each way of resizing is the one of a library, to the last bit where its numbers are whole: checkpoints were trained with it. Two of them are written as two
matrices, one for rows and one for columns, because each new pixel is a weighted mean of old ones.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn.functional import interpolate, pad

from rlvla3.processing.constants import constant, made_once
from rlvla3.processing.specification import ImageProcessing, Turn

FIXED_POINT = 2**22
"""Pillow's weights are whole numbers over this."""


class Images:
    """Shows the cameras of a simulator to a model."""

    def __init__(self, how: ImageProcessing) -> None:
        self._how = how

    def __call__(self, frames: Mapping[str, Tensor], batch: int, device: torch.device) -> tuple[Tensor, Tensor]:
        """{camera: uint8 [B, H, W, 3]} -> images [B, N, channels, height, width] and their mask [B, N]."""
        height, width = self._how.size
        shown = []
        for camera in self._how.cameras:
            if camera.camera is None:
                shown.append(torch.zeros(batch, 3, height, width, device=device))
            else:
                shown.append(self._prepare(frames[camera.camera]))
        pixels = torch.stack(shown, 1) if shown else torch.zeros(batch, 0, 3, height, width, device=device)
        mask = constant(tuple(camera.camera is not None for camera in self._how.cameras), torch.bool, device)
        return self._scale(pixels), mask.expand(batch, -1)

    def _prepare(self, frames: Tensor) -> Tensor:
        """uint8 [B, H, W, 3] -> pixels from 0 to 1, [B, 3, height, width]."""
        pixels = turned(frames, self._how.turn).permute(0, 3, 1, 2)
        if self._how.crop_before < 1:
            pixels = centre(pixels, self._how.crop_before)
        resized = self._resized(pixels)
        return crop_and_resize(resized, math.sqrt(self._how.crop)) if self._how.crop < 1 else resized

    def _resized(self, pixels: Tensor) -> Tensor:
        height, width = self._how.size
        old_height, old_width = pixels.shape[-2:]
        new_height, new_width = height, width
        if self._how.resize != "stretch":
            ratio = max(old_width / width, old_height / height)
            new_height, new_width = int(old_height / ratio), int(old_width / ratio)
        if self._how.filter == "bilinear":
            resized = pixels.float() / 255
            if (old_height, old_width) != (new_height, new_width):
                resized = interpolate(resized, size=(new_height, new_width), mode="bilinear", align_corners=False)
        elif self._how.filter == "pillow":
            resized = pillow_bilinear(pixels, new_height, new_width) / 255
        elif self._how.filter == "torchvision":
            resized = torchvision_bilinear(pixels.float() / 255, new_height, new_width).mul(255).floor() / 255
        elif self._how.filter == "torchvision_bicubic":
            resized = torch_bicubic(pixels, new_height, new_width) / 255
        else:
            resized = lanczos3(pixels, new_height, new_width) / 255
        top, left = height - new_height, width - new_width
        if self._how.resize == "pad":
            return pad(resized, (left // 2, left - left // 2, top // 2, top - top // 2))
        return pad(resized, (left, 0, top, 0))

    def _scale(self, pixels: Tensor) -> Tensor:
        """pixels [B, N, 3, height, width] from 0 to 1."""
        mean, std = (constant(tuple(numbers), torch.float32, pixels.device)[:, None, None] for numbers in (self._how.mean, self._how.std))
        return (pixels.repeat(1, 1, len(mean) // 3, 1, 1) - mean) / std


def turned(frames: Tensor, turn: Turn) -> Tensor:
    """frames [B, H, W, channels]."""
    sides = {"none": [], "flipped": [1], "mirrored": [2], "rotated": [1, 2]}[turn]
    return frames.flip(sides) if sides else frames


def centre(pixels: Tensor, share: float) -> Tensor:
    """The middle of pixels [..., H, W], of `share` of each side, as torchvision's centre crop places it."""
    height, width = pixels.shape[-2:]
    new_height, new_width = int(height * share), int(width * share)
    top, left = round((height - new_height) / 2), round((width - new_width) / 2)
    return pixels[..., top : top + new_height, left : left + new_width]


def pillow_bilinear(pixels: Tensor, height: int, width: int) -> Tensor:
    """Pillow's Image.resize(BILINEAR) of whole numbers [..., H, W], to the last bit.

    Rows are shortened first, and rounded. Pillow 13 begins with the columns for some sizes that change the proportions; versions before it never do.
    """
    return _in_whole_numbers(pixels, height, width, "triangle")


def torch_bicubic(pixels: Tensor, height: int, width: int) -> Tensor:
    """torch's bicubic resizing of uint8 images with antialiasing, as torchvision calls it, of whole numbers [..., H, W], to the last bit."""
    return _in_whole_numbers(pixels, height, width, "cubic")


def _in_whole_numbers(pixels: Tensor, height: int, width: int, kernel: str) -> Tensor:
    """Rows are resized, then columns, and each time rounded to whole numbers from 0 to 255. All sums are whole numbers below 2^53, so their order has no
    effect."""
    resized = pixels.double()
    for size, side in ((width, -1), (height, -2)):
        if resized.shape[side] != size:
            weights, fixed = _weights(resized.shape[side], size, kernel, resized.device), _fixed_point(resized.shape[side], size, kernel)
            weights = ((weights * fixed).abs() + 0.5).floor() * weights.sign()
            summed = resized @ weights.T if side == -1 else weights @ resized
            resized = ((summed + fixed // 2) / fixed).floor().clamp(0, 255)
    return resized.float()


def torchvision_bilinear(pixels: Tensor, height: int, width: int) -> Tensor:
    """torchvision's bilinear resizing with antialiasing, of numbers [B, channels, H, W]. An image of the right size stays as it is."""
    if pixels.shape[-2:] == (height, width):
        return pixels
    return interpolate(pixels, size=(height, width), mode="bilinear", align_corners=False, antialias=True)


def lanczos3(pixels: Tensor, height: int, width: int) -> Tensor:
    """TensorFlow's image.resize(lanczos3, antialias=True) of [..., H, W], rounded to whole numbers from 0 to 255."""
    rows, columns = (_weights(old, new, "lanczos3", pixels.device) for old, new in zip(pixels.shape[-2:], (height, width), strict=True))
    return (rows @ pixels.double() @ columns.T).round().clamp(0, 255).float()


def crop_and_resize(pixels: Tensor, share: float) -> Tensor:
    """TensorFlow's image.crop_and_resize of the middle of pixels [..., H, W] from 0 to 1, of `share` of each side, back to H x W. Bilinear.

    The steps of 1/255 are those of its convert_image_dtype, which cuts 255.5 x and does not round 255 x.
    """
    rows, columns = (_crop_weights(size, share, pixels.device) for size in pixels.shape[-2:])
    return (rows @ pixels.double() @ columns.T).mul(255.5).floor().clamp(0, 255).float() / 255


@made_once
def _weights(old: int, new: int, kernel: str, device: torch.device) -> Tensor:
    """The share of each old pixel in each new pixel: float64 [new, old]. The kernel is as wide as a new pixel where the image becomes smaller."""
    ratio = old / new
    reach = max(ratio, 1.0)
    support = reach * {"triangle": 1, "cubic": 2, "lanczos3": 3}[kernel]
    middle = (torch.arange(new, dtype=torch.float64)[:, None] + 0.5) * ratio
    pixel = torch.arange(old, dtype=torch.float64)[None]
    first, last = (middle - support + 0.5).trunc().clamp(min=0), (middle + support + 0.5).trunc().clamp(max=old)
    distance = (pixel - middle + 0.5) / reach
    if kernel == "triangle":
        weights = (1 - distance.abs()).clamp(min=0)
    elif kernel == "cubic":
        weights = _cubic(distance.abs())
    else:
        weights = torch.where(distance.abs() < 3, torch.sinc(distance) * torch.sinc(distance / 3), 0.0)
    weights = torch.where((pixel >= first) & (pixel < last), weights, 0.0)
    return (weights / weights.sum(1, keepdim=True)).to(device)


@made_once
def _fixed_point(old: int, new: int, kernel: str) -> int:
    """Weights are whole numbers over this. Pillow's is always the same; torch's is the largest power of 2 at which the largest weight has 15 bits."""
    largest = float(_weights(old, new, kernel, torch.device("cpu")).max())
    return FIXED_POINT if kernel == "triangle" else 2 ** (14 - math.floor(math.log2(largest)))


def _cubic(distance: Tensor) -> Tensor:
    """Keys' cubic kernel with a = -1/2, of distances from 0."""
    near = (1.5 * distance - 2.5) * distance**2 + 1
    far = -0.5 * (((distance - 5) * distance + 8) * distance - 4)
    return torch.where(distance < 1, near, torch.where(distance < 2, far, torch.zeros_like(far)))


@made_once
def _crop_weights(size: int, share: float, device: torch.device) -> Tensor:
    """Bilinear weights [size, size] of the middle `share` of a side. The first and the last new pixel lie on the ends of the crop."""
    place = ((1 - share) / 2 + torch.linspace(0, share, size, dtype=torch.float64)) * (size - 1)
    return (1 - (place[:, None] - torch.arange(size, dtype=torch.float64)[None]).abs()).clamp(min=0).to(device)
