"""Which policy is served, and what is known about it: from a run, a checkpoint, a policy folder or a recipe."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlvla3.config import PolicyConfig, Recipe, load_recipe
from rlvla3.errors import RecipeError
from rlvla3.observability.continuing import policy_folder
from rlvla3.observability.run_directory import find_run
from rlvla3.observability.trust import check_trust
from rlvla3.policies.options import PolicyOptions
from rlvla3.policies.registry import make_policy, policy_options, read_checkpoint_config
from rlvla3.processing.presets import PRESETS
from rlvla3.processing.specification import Processing, Turn
from rlvla3.serving.forms import role
from rlvla3.types import Spaces

if TYPE_CHECKING:
    from rlvla3.policies.base import Policy


@dataclass(frozen=True, slots=True)
class Subject:
    """What is to be served, before it is built.

    place: what it is called in messages. config: how the policy is built. spaces: what it sees here; images may have another size than in training.
    turn: how frames of published policies become those that it was trained with; None where that is not known. recipe: of its run, where there is one.
    """

    place: str
    config: PolicyConfig
    spaces: Spaces
    turn: Turn | None
    recipe: Recipe | None

    def build(self) -> Policy:
        return make_policy(self.config, self.spaces).eval()

    def described(self) -> dict[str, Any]:
        """For the greeting: plain data."""
        action = self.spaces.action
        return {
            "policy": self.config.name,
            "served_from": self.place,
            "cameras": {camera: list(shape) for camera, shape in self.spaces.cameras.items()},
            "state": self.spaces.state,
            "action": {"kind": action.kind, "size": action.size, "choices": action.choices, "low": action.low, "high": action.high},
            "chunk": self.config.chunk,
        }

    def asked_of_benchmarks(self) -> dict[str, bool]:
        """What benchmarks of vla-eval are asked to send."""
        wrist = any(role(camera) == "wrist" for camera in self.spaces.cameras)
        return {**({"send_wrist_image": True} if wrist else {}), **({"send_state": True} if self.spaces.state else {})}


def find_subject(start: Path, overrides: Sequence[str], image_size: int | None, turn: Turn | None, trust: bool) -> Subject:
    """What `start` names: a run directory (its newest checkpoint), a checkpoint, a policy folder; or a recipe, with `overrides`, which names a policy.

    image_size, turn: as the user gives them. Raises RecipeError, RunDirectoryError or PolicyError where there is no policy that can be served.
    """
    check_trust(start, overrides, trust)
    if start.is_file():
        subject = _of_recipe(start, load_recipe(start, overrides))
    else:
        if overrides:
            raise RecipeError(f"{overrides[0]}: {start} is a policy with its settings. Settings belong to a recipe: give a recipe that names policy.checkpoint")
        subject = _of_folder(start)
    processing = _processing(policy_options(subject.config, subject.spaces))
    spaces = _with_images(subject.spaces, image_size, processing)
    return replace(subject, spaces=spaces, turn=turn or _known_turn(subject.recipe, processing))


def _of_folder(start: Path) -> Subject:
    place = policy_folder(start)
    saved = read_checkpoint_config(place)
    found = find_run(start) or find_run(place.parent)
    return Subject(str(place), saved.config(place), saved.spaces, None, found[0].recipe() if found else None)


def _of_recipe(start: Path, recipe: Recipe) -> Subject:
    from rlvla3.simulators.common_spaces import common_spaces

    if recipe.policy.starts_from is None:
        raise RecipeError(f"{start} names no policy to serve, and one with random weights is of no use: give policy.checkpoint=FOLDER, or a run directory")
    return Subject(f"{recipe.policy.starts_from}, as {start} says", recipe.policy, common_spaces(recipe), None, recipe)


def _processing(options: PolicyOptions) -> Processing | None:
    """How a pretrained policy is fed. None for others."""
    processing = getattr(options, "processing", None)
    return processing if isinstance(processing, Processing) else None


def _with_images(spaces: Spaces, size: int | None, processing: Processing | None) -> Spaces:
    """The spaces with the images that clients' frames are made to. A policy that resizes its frames itself takes those of any size.

    Where it resizes them as openpi's client does, resizing them on arrival is the same to the last bit, and frames that a client has resized already stay as
    they are.
    """
    if processing is None:
        if size is not None:
            raise RecipeError(f"--image-size {size}: this policy sees images of one size alone, those it was trained with. Leave --image-size out")
        return spaces
    images = processing.images
    if size is None and images.resize == "pad" and images.filter == "pillow" and images.crop_before == 1:
        height, width = images.size
    elif size is not None:
        height = width = size
    else:
        return spaces
    return replace(spaces, cameras={camera: (height, width, channels) for camera, (_, _, channels) in spaces.cameras.items()})


def _known_turn(recipe: Recipe | None, processing: Processing | None) -> Turn | None:
    """How frames that published policies see become the frames of training. Each turn is its own inverse.

    A pretrained policy turns frames itself, so the turn of a frame that comes turned is taken back. Another policy was trained with frames of its run's
    simulator, and a preset says how published frames of that simulator are turned.
    """
    if processing is not None:
        return processing.images.turn
    turns = set[Turn | None]()
    for simulator in recipe.mixed.values() if recipe else ():
        preset = PRESETS.get(simulator.name)  # type: ignore[call-overload]  # other names have no preset
        turned = preset.processing.get("images", {}).get("turn", "none") if preset else None
        turns.add("none" if turned == "mirrored" and simulator.options.get("mirrored") else turned)
    return turns.pop() if len(turns) == 1 else None
