"""Finds what is wrong with a recipe before any process starts: in well under a second, and without torch. Where a recipe names a GPU, torch is asked for it."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from threading import Timer
from typing import Any
from zipfile import is_zipfile

import psutil
from safetensors import SafetensorError, safe_open

from rlvla3.config import Recipe, check_options
from rlvla3.demonstrations.room import bytes_needed, check_room, demonstration_layout
from rlvla3.demonstrations.selection import select_demonstrations
from rlvla3.errors import RecipeError
from rlvla3.inference.choice import expected_way
from rlvla3.links.weights.between_hosts.carriers import check_carrier
from rlvla3.metadata import refuse_no_file
from rlvla3.named import load_named
from rlvla3.observability.episode_video import find_encoder
from rlvla3.observability.formatting import size
from rlvla3.observability.progress_line import progress
from rlvla3.observability.sampling import SCHEDSTAT
from rlvla3.observability.trackers.sending import check_trackers
from rlvla3.open_files import allow_open_files
from rlvla3.parts import beside_capacity, collecting_capacity, rollout_spec, training_capacity
from rlvla3.policies.options import PolicyOptions
from rlvla3.policies.registry import policy_options, read_checkpoint_config
from rlvla3.shared_memory import bytes_of
from rlvla3.simulators.common_spaces import common_spaces
from rlvla3.simulators.description import forget
from rlvla3.types import Spaces

SLOW_S = 10.0
"""A simulator that takes longer to be built is said, so that nobody takes the wait for a fault."""


def preflight(recipe: Recipe, *, clones: bool = False, trains: bool = False, evaluates: bool = False, resumes: Path | None = None) -> Spaces:
    """Check that simulator, policy and settings fit one another. Returns what the recipe's simulator shows and accepts.

    clones: whether the run clones; then demonstration files are checked too. trains: whether the episodes of updates must fit into memory, and may
    become videos. evaluates: whether evaluation episodes may become videos. resumes: the checkpoint that a run goes on from.
    Raises RecipeError, and VideoError where videos cannot be written.
    """
    _check_runtime(recipe, clones or trains, acts=clones or trains or evaluates)
    if clones or trains:
        _check_no_protocol(recipe)
        check_trackers(recipe.trackers)
    expected_way(recipe)  # raises where generators cannot act as policy.inference says
    with said_if_slow(f"waiting for {' and '.join(recipe.mixed)} to be built once, to see what it shows and accepts"):
        forget()
        spaces = common_spaces(recipe)
    with said_if_slow(f"waiting for the module of policy.name={recipe.policy.name} to be imported"):
        options = policy_options(recipe.policy, spaces)
    mirrored = [name for name, simulator in recipe.mixed.items() if simulator.options.get("mirrored")]
    options.check_fed(spaces, mirrored)
    if trains:
        options.check_training()
        if ":" in recipe.algorithm.correction.name:
            load_named(recipe.algorithm.correction.name, "algorithm.correction")  # what is no class of a module is refused before torch is imported
            from rlvla3.algorithms.corrections import make_correction

            make_correction(recipe.algorithm)
        options.precision_of(recipe.training.precision, on_gpu=False)  # raises where the policy cannot
    saved = recipe.policy.starts_from
    if saved is not None and not (options.Pretrained and recipe.policy.is_pretrained):  # `starting` has read such a checkpoint
        _check_policy(saved, f"policy.checkpoint={saved}", recipe, spaces, options)
    if resumes is not None:
        _check_whole(resumes)
        _check_policy(resumes / "policy", str(resumes / "policy"), recipe, spaces, options)
    filmed = (trains and recipe.training.videos) or (evaluates and recipe.evaluation.videos)
    if filmed and any(channels == 3 for _, _, channels in spaces.cameras.values()):
        find_encoder()
    if recipe.engine.trace and not SCHEDSTAT.exists():
        raise RecipeError(f"engine.trace needs Linux, which tells work from waiting in {SCHEDSTAT}: leave it out")
    check_data_plane(recipe, training_capacity(recipe) + beside_capacity(recipe) if trains else collecting_capacity(recipe))
    if clones and recipe.clone is not None and recipe.clone.files:
        demonstrations = select_demonstrations(recipe)
        check_room(bytes_needed(demonstration_layout(spaces, options.horizon_of(recipe.policy.chunk)), sum(one.decisions for one in demonstrations)))
        said = dict.fromkeys(instruction for one in demonstrations for instruction in one.instructions)
        recorded = replace(spaces, instructions=(*spaces.instructions, *said))  # the policy learns to read these too
        options.check(recorded, recipe.policy.chunk)
        options.check_fed(recorded, mirrored)
    return spaces


def _check_runtime(recipe: Recipe, learns: bool, acts: bool) -> None:
    """Whether the recipe can run where it asks to run: Ray, placement, open files and devices. Raises RecipeError. learns: whether it has a trainer. acts:
    whether it has generators."""
    if recipe.runtime == "ray":
        if find_spec("ray") is None:
            raise RecipeError("runtime=ray needs the package ray, which is not installed: pip install 'rlvla3[ray]'")
        if not recipe.ray.address:  # every host is this one
            check_carrier(recipe.weights.carrier)
    elif recipe.ray.address:
        raise RecipeError(f"ray.address={recipe.ray.address} names a cluster, and runtime=local uses none: set runtime=ray, or leave ray.address empty")
    elif recipe.placement.kind != "colocated":
        raise RecipeError(
            f"placement.kind={recipe.placement.kind} deals out several devices, and a run on one host does not: leave placement out and set engine.device and "
            f"training.device, set runtime=ray, or see what it would do with `rlvla3 rehearse`"
        )
    if recipe.runtime == "local":
        allow_open_files(sum(simulator.shards for simulator in recipe.mixed.values()) + recipe.engine.generators + recipe.training.ranks)
        _check_devices(recipe, learns, acts)


def _check_devices(recipe: Recipe, learns: bool, acts: bool) -> None:
    """Refuse a GPU that this machine does not have. torch is imported only where the recipe names one. learns, acts: as in `_check_runtime`."""
    named = {"engine.device": recipe.engine.device} if acts else {}
    named |= {"training.device": recipe.training.device} if learns else {}
    for key, setting in named.items():
        if setting.startswith("cuda"):
            from rlvla3.devices import choose_device

            choose_device(setting, key)


def _check_no_protocol(recipe: Recipe) -> None:
    if (protocol := recipe.evaluation.protocol) is not None:
        raise RecipeError(
            f"evaluation.protocol={protocol} is for `rlvla3 eval` alone, because a protocol fixes settings of the simulator: leave it out, and run "
            f"`rlvla3 eval RUN_DIR --protocol {protocol}` afterwards"
        )


@contextmanager
def said_if_slow(sentence: str) -> Iterator[None]:
    """Show on a terminal that the block is at work. Elsewhere, print `sentence` on stderr if it takes longer than SLOW_S."""
    if sys.stderr.isatty():
        with progress(sentence):
            yield
        return
    timer = Timer(SLOW_S, print, (f"rlvla3: {sentence}",), {"file": sys.stderr, "flush": True})
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def check_data_plane(recipe: Recipe, episodes: int) -> str:
    """The memory of a host that so many episodes take, in words. Raises RecipeError if that host is this one and has less."""
    spec = rollout_spec(recipe, episodes)
    needed, there = bytes_of(spec.arrays()), psutil.virtual_memory().total
    if recipe.runtime != "local":  # nobody knows the hosts yet
        return f"data plane {size(needed)} on every host, for {spec.capacity} episodes of {spec.rows} rows"
    if needed > there:
        raise RecipeError(
            f"the data plane needs {size(needed)} for {spec.capacity} episodes of {spec.rows} rows, and this host has {size(there)}: lower training.batch, "
            f"engine.max_staleness or simulator.max_steps, or let cameras be fewer or smaller"
        )
    return f"data plane {size(needed)} of the host's {size(there)}, for {spec.capacity} episodes of {spec.rows} rows"


def _check_whole(checkpoint: Path) -> None:
    """Refuse a checkpoint that training cannot go on from because its files are missing or cut short. It is read whole later, by the trainer."""
    trainer, described = checkpoint / "trainer.pt", checkpoint / "parameters/.metadata"
    for file in (trainer, described):
        if not file.is_file():
            raise RecipeError(f"no {file.relative_to(checkpoint)} in {checkpoint}, so training cannot be resumed from there: {_other_ways_out(checkpoint)}")
    if not is_zipfile(trainer) or not described.stat().st_size:
        damaged = described if is_zipfile(trainer) else trainer
        raise RecipeError(f"cannot read {damaged}, it is damaged or not a checkpoint: {_other_ways_out(checkpoint)}")


def _other_ways_out(checkpoint: Path) -> str:
    return f"resume from an earlier one, or start a new run from the weights alone with policy.checkpoint={checkpoint / 'policy'}"


def _settings_of_both(here: Mapping[str, Any], there: Mapping[str, Any]) -> Iterator[tuple[str, Any, Any]]:
    """The name of each setting, and its two values. Those of a section are given one by one."""
    for key, value in here.items():
        if isinstance(value, Mapping) and isinstance(there[key], Mapping) and value.keys() == there[key].keys():
            yield from _settings_of_both({f"{key}.{name}": part for name, part in value.items()}, {f"{key}.{name}": part for name, part in there[key].items()})
        else:
            yield key, value, there[key]


def _check_policy(folder: Path, named: str, recipe: Recipe, spaces: Spaces, options: PolicyOptions) -> None:
    """Refuse a saved policy that is not the recipe's, or whose weights are missing or cut short. named: what it is called in messages."""
    saved = read_checkpoint_config(folder)
    if saved.name != recipe.policy.name:
        raise RecipeError(f"{named} is a policy {saved.name}, and this recipe has policy.name={recipe.policy.name}: make the recipe's the same")
    here = options.fixed_by_weights(spaces, recipe.policy.chunk)
    there = check_options(type(options), saved.options, f"{folder}/config.json: options").fixed_by_weights(saved.spaces, saved.chunk)
    for key, value, was in _settings_of_both(here, there):
        if was != value:
            raise RecipeError(f"{named} was made with {key} {was}, and this recipe has {value}: make the recipe's the same")
    refuse_no_file(folder / "model.safetensors", "Use another checkpoint")
    try:
        safe_open(folder / "model.safetensors", framework="numpy")
    except (OSError, SafetensorError) as error:
        raise RecipeError(f"{named} has no intact model.safetensors ({error}): use another checkpoint") from error
