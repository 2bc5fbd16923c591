"""From a client's message to what the policy sees.

Invariants:
- a message either becomes an observation that fits the policy, or is refused in words: nothing that is missing is made up;
- pixels are changed in three ways only, which are said: numbers from 0 to 1 become 0 to 255, frames are turned, and frames of another size are resized.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rlvla3.errors import some_of
from rlvla3.inference.misfits import misfits
from rlvla3.processing.specification import Turn
from rlvla3.serving.forms import ELAPSED, FORMS, Form, form_of, role
from rlvla3.serving.messages import MessageError
from rlvla3.simulators.contract import array_words
from rlvla3.types import Observation, Spaces

DEEPEST = 4
"""Maps within maps of a message."""

TURNED: Mapping[Turn, tuple[int, ...]] = {"none": (), "flipped": (0,), "mirrored": (1,), "rotated": (0, 1)}
"""The sides of a frame that are reversed."""

STATE, INSTRUCTION = "state", "instruction"
"""What `keys` may name beside cameras."""


class Observing:
    """Makes observations of messages.

    spaces: of the policy. turn: how frames of published policies become those that this policy was trained with; None where nobody knows. keys: {a camera,
    `state` or `instruction`: the names that the clients give it, joined where there are several}; the form of a message says what is not named here.
    instruction: what a client is taken to have said that says nothing. tell: takes what the user of the server should know, once.
    """

    def __init__(
        self,
        spaces: Spaces,
        turn: Turn | None,
        keys: Mapping[str, Sequence[str]] | None = None,
        instruction: str | None = None,
        tell: Callable[[str], None] = lambda _: None,
    ) -> None:
        self._spaces, self._turn, self._keys, self._instruction, self._tell = spaces, turn, keys or {}, instruction, tell
        self._told: set[str] = set()

    def __call__(self, message: object) -> Observation:
        """The observation of a message. Raises MessageError."""
        given = dict(_named_values(message))
        form = form_of(frozenset(given))
        if form is None and not self._keys:
            known = "; ".join(f"{form.name}: {', '.join(sorted(form.known_by))}" for form in FORMS)
            raise MessageError(f"no client is known that names an observation like this: given {_names(given)}. Known names: {known}")
        form = form or FORMS[-1]
        images = {camera: self._image(camera, given, form) for camera in self._spaces.cameras}
        elapsed = given.get(ELAPSED, 0.0)
        if not isinstance(elapsed, int | float | np.number):
            raise MessageError(f"{ELAPSED}: given {_kind(elapsed)}, expected a number from 0 to 1")
        observation = Observation(images, self._state(given, form), self._said(given, form), float(elapsed))
        if faults := list(misfits(observation, self._spaces)):
            raise MessageError("; ".join(faults))
        return observation

    def _image(self, camera: str, given: Mapping[str, Any], form: Form) -> NDArray[np.uint8]:
        name = self._name_of(camera, given, form)
        height, width, channels = self._spaces.cameras[camera]
        frame = _frame(name, given[name], channels)
        if form.published:
            if self._turn is None:
                raise MessageError(
                    f"{name}: clients of published policies send frames that are turned, and it is not known whether this policy was trained with such "
                    f"frames: start the server with --turn none, mirrored, flipped or rotated"
                )
            frame = np.flip(frame, TURNED[self._turn])
        if frame.shape[:2] != (height, width):
            if channels not in (1, 3, 4):
                raise MessageError(f"{name}: given {frame.shape[0]} x {frame.shape[1]} pixels, the policy sees {height} x {width}: send that size")
            self._tell_once(
                f"{name} comes with {frame.shape[0]} x {frame.shape[1]} pixels and is resized to {height} x {width}, which the policy sees: with padding where "
                f"the proportions differ, by Pillow's bilinear filter, as openpi's client does"
            )
            frame = resized(frame, height, width)
        return np.ascontiguousarray(frame)

    def _name_of(self, camera: str, given: Mapping[str, Any], form: Form) -> str:
        """The name of the image that `camera` is shown."""
        if camera in self._keys:
            (name,) = self._keys[camera]
        elif form.folder:
            name = self._in_folder(camera, given, form)
        else:
            sees = role(camera)
            rivals = [other for other in self._spaces.cameras if other != camera and role(other) == sees]
            if sees is None or sees not in form.roles or rivals:
                raise MessageError(
                    f"{form.name} sends {', '.join(form.roles.values())}, and it is not known which of them the policy's camera {camera} sees: start the "
                    f"server with --key {camera}=NAME"
                )
            name = form.roles[sees]
        if name not in given:
            raise MessageError(f"{name} is missing, which the policy's camera {camera} sees: given {_names(given)}")
        return name

    def _in_folder(self, camera: str, given: Mapping[str, Any], form: Form) -> str:
        own = f"{form.folder}/{camera}"
        alike = [name for name in given if name.startswith(form.folder + "/") and role(name) is not None and role(name) == role(camera)]
        return own if own in given or len(alike) != 1 else alike[0]

    def _state(self, given: Mapping[str, Any], form: Form) -> NDArray[np.float32]:
        if not self._spaces.state:
            return np.zeros(0, np.float32)
        ways = [tuple(self._keys[STATE])] if STATE in self._keys else form.state
        for way in ways:
            if all(name in given for name in way):
                return np.concatenate([_numbers(name, given[name]) for name in way])
        raise MessageError(f"{' or '.join(' and '.join(way) for way in ways)} is missing, a state of {self._spaces.state} numbers: given {_names(given)}")

    def _said(self, given: Mapping[str, Any], form: Form) -> str:
        names = self._keys.get(INSTRUCTION, form.instruction)
        said: Any = next((given[name] for name in names if name in given), self._instruction)
        if said is None:
            raise MessageError(f"{' or '.join(names)} is missing, the instruction: send it, or start the server with --instruction TEXT")
        try:
            text = said.decode() if isinstance(said, bytes) else said
        except UnicodeDecodeError as error:
            raise MessageError(f"the instruction is no UTF-8 ({said[:40]!r}): send a text") from error
        if not isinstance(text, str):
            raise MessageError(f"the instruction is {_kind(text)}: send a text")
        return text

    def _tell_once(self, text: str) -> None:
        if text not in self._told and len(self._told) < 100:
            self._told.add(text)
            self._tell(text)


def resized(frame: NDArray[np.uint8], height: int, width: int) -> NDArray[np.uint8]:
    """A frame [H, W, 1, 3 or 4] scaled into height x width with its proportions kept, in the middle of black, by Pillow's bilinear filter.

    The sizes are those of openpi_client.image_tools.resize_with_pad, to the pixel.
    """
    from PIL import Image

    ratio = max(frame.shape[1] / width, frame.shape[0] / height)
    rows, columns = max(int(frame.shape[0] / ratio), 1), max(int(frame.shape[1] / ratio), 1)
    picture = Image.fromarray(np.ascontiguousarray(frame[..., 0] if frame.shape[2] == 1 else frame))
    scaled = np.asarray(picture.resize((columns, rows), Image.Resampling.BILINEAR)).reshape(rows, columns, -1)
    top, left = (height - rows) // 2, (width - columns) // 2
    padded = np.zeros((height, width, frame.shape[2]), np.uint8)
    padded[top : top + rows, left : left + columns] = scaled
    return padded


def _frame(name: str, given: object, channels: int) -> NDArray[np.uint8]:
    """A client's image as uint8 [H, W, channels]: numbers from 0 to 1 become 0 to 255, and channels that come first go last, as in openpi."""
    if not isinstance(given, np.ndarray) or given.ndim != 3 or 0 in given.shape or channels not in (given.shape[0], given.shape[2]):
        raise MessageError(f"{name}: given {_kind(given)}, expected an image: uint8 [height, width, {channels}]")
    frame = given if given.shape[2] == channels else np.moveaxis(given, 0, 2)
    if frame.dtype.kind == "f":
        if not (np.isfinite(frame).all() and frame.min() >= 0 and frame.max() <= 1):
            raise MessageError(f"{name}: given {_kind(given)} with other numbers than 0 to 1: send uint8 with numbers from 0 to 255")
        return (255 * frame).astype(np.uint8)
    if frame.dtype != np.uint8:
        raise MessageError(f"{name}: given {_kind(given)}, expected an image: uint8 [height, width, {channels}]")
    return frame


def _numbers(name: str, given: object) -> NDArray[np.float32]:
    """A state, or a part of one, as float32 [n]. A single number counts as a part."""
    listed = isinstance(given, int | float | list | tuple) and not isinstance(given, bool)
    try:
        numbers = np.asarray(given) if listed or isinstance(given, np.ndarray | np.number) else None
    except ValueError:  # lists of different lengths
        numbers = None
    if numbers is None or numbers.dtype.kind not in "fiu" or numbers.ndim > 1:
        raise MessageError(f"{name}: given {_kind(given)}, expected a state: float32 [n]")
    with np.errstate(over="ignore"):  # what float32 does not hold becomes infinite, and is refused as such
        return np.atleast_1d(numbers).astype(np.float32)


def _named_values(message: object, before: str = "", depth: int = 0) -> Iterator[tuple[str, Any]]:
    """The values of a map with their paths."""
    if not isinstance(message, dict):
        raise MessageError(f"an observation is a map of names to values, and {_kind(message)} came")
    for key, value in message.items():
        name = before + (key if isinstance(key, str) else f"{key!r}")
        if isinstance(value, dict):
            if depth == DEEPEST:
                raise MessageError(f"{before} has maps within maps, more than {DEEPEST} deep")
            yield from _named_values(value, name + "/", depth + 1)
        else:
            yield name, value


def _names(given: Mapping[str, Any]) -> str:
    return some_of([f"{name:.80}" for name in given]) or "nothing"


def _kind(value: object) -> str:
    return array_words(value) if isinstance(value, np.ndarray | np.generic) else f"{value!r:.60}"
