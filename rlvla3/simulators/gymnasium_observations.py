"""From an observation of a Gymnasium environment to images and a state.

An observation space is a tree: Dict and Tuple hold other spaces, and every other space is a part. A part becomes the image of a camera or numbers of the state.
A text is no part: it is the instruction.

Invariants:
- what an environment returns is compared with its space before it is cast: a wrong shape would be broadcast, and a wrong type cast, without a word;
- float64 stands for float32, and a whole number of one width for another; no other cast is made.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from rlvla3.errors import RecipeError
from rlvla3.simulators.base import ContractError
from rlvla3.simulators.contract import array_words
from rlvla3.simulators.gymnasium_instruction import is_text

Path = tuple[str | int, ...]
"""The keys that lead to one part of an observation. Empty if the observation has only one part."""

LEAST_PIXELS = 16
"""Images of cameras are at least this high and wide. What is smaller may be a board."""

MOST_CHANNELS = 16

COLOUR_CHANNELS = (3, 4)
"""What has so many channels, and the size of an image, may be an image although its bounds are not those of one."""

MOST_NUMBERS = 1_000_000
"""A state is not larger. A choice of n is n numbers."""

MOST_EXACT = 2**24
"""float32 holds every whole number up to here. Larger ones, such as times in seconds since 1970, would become equal to their neighbours."""

IMAGE_WORDS = "uint8 images [H, W], [H, W, channels] or [channels, H, W]"


class Part:
    """One part of an observation: the image of a camera, or numbers of the state."""

    def __init__(self, path: Path, space: spaces.Space[Any], is_image: bool) -> None:
        self.path, self.space, self.is_image = path, space, is_image
        self.name = ".".join(map(str, path)) or "image"
        self._shape = () if isinstance(space, spaces.Discrete) else tuple(space.shape or ())
        self._is_box = isinstance(space, spaces.Box)
        self._whole = not (self._is_box and space.dtype is not None and space.dtype.kind == "f")
        self._may_be_inexact = self._whole and self._is_box and bool((space.low < -MOST_EXACT).any() or (space.high > MOST_EXACT).any())  # type: ignore[attr-defined]
        self._accepted: set[np.dtype[Any]] = set()
        self.channels_first = is_image and len(self._shape) == 3 and self._shape[0] < self._shape[2]

    @property
    def count(self) -> int:
        """How many numbers of the state it is."""
        return int(spaces.flatdim(self.space))

    @property
    def image_shape(self) -> tuple[int, int, int]:
        height, width, channels = self.image(np.empty(self._shape, np.uint8)).shape
        return height, width, channels

    def image(self, array: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """`array` as [H, W, channels]. A grey image gets one channel. Of the first and the last axis, the shorter one is taken for the channels."""
        if array.ndim == 2:
            return array[:, :, None]
        return array.transpose(1, 2, 0) if self.channels_first else array

    def numbers(self, array: NDArray[Any]) -> NDArray[Any]:
        """`array` as a vector. A choice is one-hot."""
        if self._is_box:
            return array.ravel()
        return np.asarray(spaces.flatten(self.space, array.astype(self.space.dtype) if array.ndim else array.item()))

    def checked(self, value: Any) -> NDArray[Any]:
        """`value` as an array that fits the space. Raises ContractError if it does not."""
        array = value if isinstance(value, np.ndarray) else self._as_array(value)
        if array.shape != self._shape or not (array.dtype in self._accepted or self._accepts(array.dtype)):
            raise ContractError(f"{self._words()} {_value_words(value)}, but observation_space says {self._space_words()}: return what the space says")
        if self._whole and not self.is_image and not self._within(array):
            raise ContractError(
                f"{self._words()} {np.array2string(array, threshold=8)}, which is not in {self.space}: return numbers of the space, or widen it"
            )
        if self._may_be_inexact and array.size and not -MOST_EXACT <= array.min() <= array.max() <= MOST_EXACT:
            raise ContractError(
                f"{self._words()} {np.array2string(array, threshold=8)}, and a policy reads float32, which cannot tell whole numbers above {MOST_EXACT:,} from "
                f"their neighbours: return a difference, such as the time since the reset, or a share"
            )
        return array

    def _as_array(self, value: Any) -> NDArray[Any]:
        """A number or a sequence of numbers, as an array. Their type was never said, so whole numbers may stand for others."""
        try:
            array = np.asarray(value)
        except (TypeError, ValueError, RuntimeError):  # a ragged list; a tensor on a GPU
            array = np.empty((), object)
        return array.astype(np.float64) if array.dtype.kind in "iub" and not self._whole and not isinstance(value, np.generic) else array

    def _accepts(self, dtype: np.dtype[Any]) -> bool:
        accepts = dtype == np.uint8 if self.is_image else dtype.kind in "iub" if self._whole else dtype.kind == "f"
        if accepts:
            self._accepted.add(dtype)
        return accepts

    def _within(self, array: NDArray[Any]) -> bool:
        if isinstance(self.space, spaces.Box):
            return bool((array >= self.space.low).all() and (array <= self.space.high).all())
        return bool(self.space.contains(array.astype(self.space.dtype) if array.ndim else array.astype(np.int64)[()]))

    def _words(self) -> str:
        return f"the observation{f' {self.name!r}' if self.path else ''} is"

    def _space_words(self) -> str:
        return f"{self.space.dtype} {list(self._shape)}" if self._shape or self._is_box else str(self.space)


class ObservationReader:
    """Reads observations of one space. cameras: the shape [H, W, channels] of each image. state: how many numbers there are."""

    def __init__(self, space: spaces.Space[Any], name: str, images: Sequence[str] | None) -> None:
        """name: of the simulator. images: the names of the parts that are images; None: what looks like one. Raises RecipeError for an unsupported space."""
        self._space = space
        self.parts = [_part(path, inner, name, images) for path, inner in _leaves(space)]
        names = [part.name for part in self.parts]
        if twice := [part for part in names if names.count(part) > 1]:
            raise RecipeError(f"{name} shows two parts called {twice[0]!r}: give the keys of the observation space other names")
        if unknown := sorted(set(images or ()) - set(names)):
            raise RecipeError(f"simulator.options.images names {unknown[0]!r}, but {name} shows {', '.join(names)}: name some of these")
        self.cameras = {part.name: part.image_shape for part in self.parts if part.is_image}
        self.state = sum(part.count for part in self.parts if not part.is_image)
        if self.state > MOST_NUMBERS:
            largest = max((part for part in self.parts if not part.is_image), key=lambda part: part.count)
            raise RecipeError(
                f"{name} shows {self.state} numbers, and {largest.count} of them are {largest.space!s:.80}, where a choice of n is n numbers: "
                f"show at most {MOST_NUMBERS}, for example a Box in place of a choice"
            )

    def read(self, observation: Any) -> tuple[dict[str, NDArray[np.uint8]], NDArray[np.float32]]:
        """The images by camera, and the state [S]. Raises ContractError if the observation does not fit its space."""
        images: dict[str, NDArray[np.uint8]] = {}
        vectors = [np.zeros(0, np.float32)]
        for part, value in zip(self.parts, _values(self._space, observation, ()), strict=True):
            array = part.checked(value)
            if part.is_image:
                images[part.name] = part.image(array)
            else:
                vectors.append(part.numbers(array).astype(np.float32))
        return images, np.concatenate(vectors)


def _leaves(space: spaces.Space[Any], path: Path = ()) -> Iterator[tuple[Path, spaces.Space[Any]]]:
    """The parts of `space`, each with its path. A text is none of them: it is the instruction."""
    if isinstance(space, (spaces.Dict, spaces.Tuple)):
        for key, inner in space.spaces.items() if isinstance(space, spaces.Dict) else enumerate(space.spaces):
            yield from _leaves(inner, (*path, key))
    elif not is_text(space):
        yield path, space


def _values(space: spaces.Space[Any], value: Any, path: Path) -> Iterator[Any]:
    """The values of the parts, in the order of `_leaves`."""
    where = f"the observation{f' {list(path)}' if path else ''}"
    if isinstance(space, spaces.Dict):
        if not isinstance(value, Mapping):
            raise ContractError(
                f"{where} {_value_words(value)}, but observation_space is a Dict of {', '.join(map(str, space.spaces))}: return a dict of these"
            )
        if value.keys() != space.spaces.keys():
            raise ContractError(f"{where} has the keys {sorted(map(str, value))}, but observation_space {sorted(map(str, space.spaces))}: make them the same")
        for key, inner in space.spaces.items():
            yield from _values(inner, value[key], (*path, key))
    elif isinstance(space, spaces.Tuple):
        if not isinstance(value, (tuple, list)) or len(value) != len(space.spaces):
            raise ContractError(f"{where} {_value_words(value)}, but observation_space is a Tuple of {len(space.spaces)}: return a tuple of so many parts")
        for number, (inner, one) in enumerate(zip(space.spaces, value, strict=True)):
            yield from _values(inner, one, (*path, number))
    elif not is_text(space):
        yield value


def _part(path: Path, space: spaces.Space[Any], name: str, images: Sequence[str] | None) -> Part:
    """One part, as an image or as numbers. Raises RecipeError if it can be neither, or if it is not clear which."""
    part = Part(path, space, is_image=False)
    shape = space.shape or ()
    has_form = isinstance(space, spaces.Box) and space.dtype == np.uint8 and len(shape) in (2, 3) and 0 not in shape
    if images is not None and part.name in images:
        if not has_form:
            raise RecipeError(f"simulator.options.images names {part.name!r}, but it is {space}: supported are {IMAGE_WORDS}")
        return Part(path, space, is_image=True)
    has_bounds = _has_bounds_of_an_image(space)
    if images is None and has_form:
        height, width, channels = Part(path, space, is_image=True).image_shape
        has_size = min(height, width) >= LEAST_PIXELS
        if has_bounds and has_size and channels <= MOST_CHANNELS:
            return Part(path, space, is_image=True)
        if len(shape) == 3 and (has_bounds or (has_size and channels in COLOUR_CHANNELS)):
            bounds = f"{space.low.min()} to {space.high.max()}"  # type: ignore[attr-defined]  # of a Box
            raise RecipeError(
                f"{name} shows {part.name!r}, uint8 {list(shape)} within {bounds}, which may be an image or a board: set "
                f"simulator.options.images=[{part.name}] if it is an image, or simulator.options.images=[] if it is numbers"
            )
    is_array = isinstance(space, spaces.Box) and (len(shape) <= 2 or (space.dtype == np.uint8 and not has_bounds) or images is not None)
    if is_array or isinstance(space, (spaces.Discrete, spaces.MultiDiscrete, spaces.MultiBinary)):
        return part
    raise RecipeError(
        f"{name} shows {space}, which is neither an image nor a vector. Supported are {IMAGE_WORDS} within 0 to 255, vectors, Discrete, MultiDiscrete, "
        f"MultiBinary, Text, and a Dict or Tuple of these: use an observation wrapper, or set simulator.options.images=[] if a Box is numbers"
    )


def _has_bounds_of_an_image(space: spaces.Space[Any]) -> bool:
    """Whether the numbers go from 0 to 255. Those of a board have other bounds."""
    return isinstance(space, spaces.Box) and bool((space.low == 0).all() and (space.high == 255).all())


def _value_words(value: Any) -> str:
    return array_words(value) if isinstance(value, np.ndarray) else f"{type(value).__name__} {value!r:.60}"
