"""A recipe with the settings of a protocol, and in words where the two differ.

The order is: the recipe, then the protocol, then what the user sets on the command line. What the protocol changes in the recipe is said, and so is each
setting of the user's that leaves the protocol. A recipe that names a protocol itself, as the one of an evaluation does, is not changed. So it repeats this
evaluation.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rlvla3.config import Overrides, Recipe, make_recipe, set_by
from rlvla3.errors import some_of
from rlvla3.evaluation.finding import find_protocol
from rlvla3.evaluation.protocol import Protocol
from rlvla3.evaluation.settings import FixedSettings, Path, fixed_settings, simulators_of
from rlvla3.metadata import shown
from rlvla3.policies.registry import options_class, policy_options
from rlvla3.policies.vla.options import VLAOptions
from rlvla3.simulators.common_spaces import common_spaces
from rlvla3.simulators.libero.tasks import task_names
from rlvla3.simulators.registry import checked_options, simulator_class


@dataclass(frozen=True)
class AppliedProtocol:
    """A protocol in a recipe.

    fixed: {setting: value}, what the protocol has. changed: where the recipe had something else. deviations: where this evaluation leaves the protocol. Without
    deviations, its figures may stand beside those of the protocol's own code.
    """

    protocol: Protocol
    recipe: Recipe
    fixed: Mapping[str, Any]
    changed: Sequence[str]
    deviations: Sequence[str]

    def json(self) -> dict[str, Any]:
        """As summary.json and results.json have it."""
        protocol = self.protocol
        return {
            "name": protocol.name,
            "simulator": protocol.simulator,
            "about": protocol.about,
            "source": protocol.source,
            "episodes_per_task": protocol.episodes,
            "fixed": dict(self.fixed),
            "facts": list(protocol.facts),
            "differences": list(protocol.differences),
            "changed": list(self.changed),
            "deviations": list(self.deviations),
        }

    def sentences(self) -> list[str]:
        """What the user should know before the evaluation begins."""
        protocol = self.protocol
        fixed = ", ".join(f"{path}={_shown(value)}" for path, value in self.fixed.items())
        said = [f"protocol {protocol.name} for {protocol.simulator}: {protocol.about} ({protocol.source}). It fixes {fixed}"]
        said += [f"protocol {protocol.name}: {fact}" for fact in protocol.facts]
        said += [f"protocol {protocol.name} sets {changed}" for changed in self.changed]
        said += [f"not as in the protocol, by what can be had here: {difference}" for difference in protocol.differences]
        said += [f"not as in the protocol, by this evaluation: {deviation}" for deviation in self.deviations]
        return said


def protocol_of(recipe: Recipe, overrides: Overrides, named: str | None = None) -> AppliedProtocol | None:
    """The protocol of an evaluation. One that the user names now, as `named` or in `overrides`, is applied; the recipe's own changes nothing, and is compared.

    None where there is none. overrides: as in `apply_protocol`. Raises RecipeError.
    """
    name = named or recipe.evaluation.protocol
    if name is None:
        return None
    return apply_protocol(name, recipe, overrides, changes=bool(named) or ("evaluation", "protocol") in set_by(overrides))


def apply_protocol(name: str, recipe: Recipe, overrides: Overrides, changes: bool = True) -> AppliedProtocol:
    """The protocol `name` in `recipe`, in which `overrides`, the settings of the user, are already applied. Raises RecipeError.

    changes: whether it changes the recipe. If not, what the recipe has otherwise is a deviation.
    """
    protocol = find_protocol(name, recipe)
    chosen = set_by(overrides)
    if not changes:
        chosen |= {(*place, "tasks") for place, config in simulators_of(recipe).items() if config.tasks != list(protocol.tasks)}
    fixed = fixed_settings(protocol, recipe, chosen)
    before = recipe.model_dump(mode="json")
    if not changes:
        chosen |= fixed.values.keys()
    tree = recipe.model_dump(mode="json")
    for path, value in fixed.values.items():
        if path not in chosen:
            _put(tree, path, value)
    tree["evaluation"]["protocol"] = name
    new = make_recipe(tree)
    usual = _options_of(recipe)
    said = {path: value for path, value in fixed.values.items() if path[-1] != "task_weights"}  # no weight outlives the tasks that it was for
    changed = [
        f"{_name(path)}={_shown(value)} in the place of the recipe's {_shown(was)}"
        for path, value in said.items()
        if path not in chosen and (was := _at(before, path, usual)) != value
    ]
    deviations = [*_deviations(protocol, fixed, new), *_tasks_left_out(protocol, new)]
    return AppliedProtocol(protocol, new, {_name(path): value for path, value in said.items()}, changed, deviations)


def _orientation(protocol: Protocol, recipe: Recipe) -> list[str]:
    """Where a policy gets frames that are not rotated as the protocol's. Ours are the right way up, so the rest of the rotation exchanges left and right."""
    if not protocol.rotated:
        return []
    pretrained = options_class(recipe.policy.name).Pretrained
    turned = pretrained and _turn(recipe) in ("mirrored", "rotated")
    if all(turned != config.options.get("mirrored", False) for config in recipe.mixed.values()):
        return []
    way_out = ": policy.options.preset=libero rotates them" if pretrained else ", as this policy was made"
    return [f"frames are not rotated by 180 degrees against robosuite's, and the protocol's are{way_out}"]


def _turn(recipe: Recipe) -> str:
    """How a pretrained policy turns frames. Raises RecipeError where its checkpoint cannot be read."""
    options = policy_options(recipe.policy, common_spaces(recipe))
    return options.processing.images.turn if isinstance(options, VLAOptions) else "none"


def _deviations(protocol: Protocol, fixed: FixedSettings, new: Recipe) -> list[str]:
    now, usual = new.model_dump(mode="json"), _options_of(new)
    yours = [
        f"{_name(path)}={_shown(has)}, and the protocol has {_shown(value)}" for path, value in fixed.values.items() if (has := _at(now, path, usual)) != value
    ]
    kept = [
        f"{_name(path)}={_shown(has)}, as this policy was made, and the protocol has {_shown(value)}"
        for path, value in fixed.kept.items()
        if (has := _at(now, path, usual)) != value
    ]
    return yours + kept + _orientation(protocol, new)


def _tasks_left_out(protocol: Protocol, recipe: Recipe) -> list[str]:
    """Published figures are of whole suites."""
    if protocol.tasks:
        (config,) = simulators_of(recipe).values()
        left = [task for task in protocol.tasks if task not in config.tasks]
        return [f"{len(left)} of the protocol's {len(protocol.tasks)} tasks are left out: {some_of(left, 5)}"] if left else []
    if protocol.simulator != "libero":
        left = [task for task in protocol.limits if task not in recipe.tasks]
        return [f"{len(left)} of the {len(protocol.limits)} tasks are left out, and published figures are of all"] if left else []
    said = []
    for suite in dict.fromkeys(task.partition("/")[0] for task in recipe.tasks):
        count, there = len(task_names(suite)), len({task for task in recipe.tasks if task.startswith(f"{suite}/")})
        if there < count:
            said.append(f"{there} of the {count} tasks of {suite}, and published figures are of all: simulator.tasks=[{suite}/0-{count - 1}] names them")
    return said


def _options_of(recipe: Recipe) -> dict[Path, Any]:
    """{path of an option: its value}, for options that the recipe does not name too. Raises RecipeError."""
    values: dict[Path, Any] = {}
    for place, config in simulators_of(recipe).items():
        options = checked_options(simulator_class(config.name), config).model_dump(mode="json")
        values |= {(*place, "options", key): value for key, value in options.items()}
    return values


def _at(tree: Mapping[str, Any], path: Path, usual: Mapping[Path, Any]) -> Any:
    """The value at `path`, or what it is by default."""
    if path in usual:
        return usual[path]
    found: Any = tree
    for key in path:
        found = found.get(key) if isinstance(found, Mapping) else None
    return found


def _put(tree: dict[str, Any], path: Path, value: Any) -> None:
    for key in path[:-1]:
        tree = tree.setdefault(key, {})
    tree[path[-1]] = value


def _shown(value: Any) -> str:
    """A list may be of 50 tasks, so it is cut between two of them."""
    return f"[{some_of(value, 5)}]" if isinstance(value, list) else shown(value)


def _name(path: Path) -> str:
    return ".".join(path)
