"""What `rlvla3 check --policy` does."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import Any

from rlvla3.checking.commands import simulator_config
from rlvla3.checking.findings_report import as_json, lines, total
from rlvla3.checking.policy_specification import run_policy_checks
from rlvla3.checking.policy_trial import INSTRUCTIONS, PolicyTrial
from rlvla3.checkpoints.checkpoint import read_checkpoint
from rlvla3.config import PolicyConfig, make_recipe, path_of
from rlvla3.config.policy import is_saved_policy
from rlvla3.errors import RecipeError
from rlvla3.observability.continuing import policy_folder
from rlvla3.observability.figures import write_figures
from rlvla3.observability.trust import check_trust
from rlvla3.policies.registry import POLICIES, policy_options, read_checkpoint_config
from rlvla3.preflight import said_if_slow
from rlvla3.simulators.description import described
from rlvla3.types import ActionSpace, Spaces

SIMULATOR = "simulator."
"""A setting that begins so is one of --simulator. The others are the policy's."""

CAMERAS: Sequence[dict[str, tuple[int, int, int]]] = ({"front": (64, 64, 3), "wrist": (64, 64, 3)}, {"front": (64, 64, 3)}, {})
ROBOT_CAMERAS = {"agentview": (64, 64, 3), "robot0_eye_in_hand": (64, 64, 3)}
"""Those of LIBERO, because a pretrained policy's checkpoint has to know what it is shown."""

ACTIONS = (ActionSpace("continuous", 7), ActionSpace("discrete", 1, choices=4))
STATE, MAX_STEPS = 8, 100


def check_policy(name: str, settings: Sequence[str], simulator: str | None, chunk: int, figures: Path | None, trust: bool = False) -> bool:
    """Put a policy on trial and print what was found. Returns whether all checks passed.

    name: as in a recipe; or the folder of a run, of a policy, or of a checkpoint, ours or that of other software.
    settings: those of a recipe's policy section, such as options.head=tokens, and with `simulator.` in front those of the simulator.
    simulator: whose observations the policy is shown. None: made-up ones, or those of the folder.
    figures: a file for the findings. Raises RecipeError where the policy cannot be built.
    """
    config, spaces = policy_on_trial(name, settings, simulator, chunk, trust)
    print(_described(name, config, spaces), flush=True)
    with said_if_slow(f"waiting for {name} to be built, to act and to be trained, as the checks ask it to; Ctrl-C ends them"):
        results = run_policy_checks(PolicyTrial(config, spaces))
    print("\n".join([*lines(results), total(results)]))
    passed = all(result.verdict != "failed" for result in results)
    if figures is not None:
        write_figures({name: {"passed": passed, "checks": as_json(results)}}, figures)
    return passed


def policy_on_trial(name: str, settings: Sequence[str], simulator: str | None, chunk: int, trust: bool = False) -> tuple[PolicyConfig, Spaces]:
    """The policy's config, and the spaces that it is to be built for. Raises RecipeError, and RunDirectoryError for a folder that is not to be trusted."""
    for_simulator = [setting.removeprefix(SIMULATOR) for setting in settings if setting.startswith(SIMULATOR)]
    if for_simulator and simulator is None:
        raise RecipeError(f"{SIMULATOR}{for_simulator[0]} is a setting of a simulator, and none is named: add --simulator NAME")
    own = [setting for setting in settings if not setting.startswith(SIMULATOR)]
    tree, spaces = _starting_point(name, chunk, trust)
    for setting in own:
        if setting.startswith("policy."):
            raise RecipeError(f"{setting}: with --policy, a setting has no `policy.` in front: write {setting.removeprefix('policy.')}")
    config = make_recipe({"policy": tree}, [f"policy.{setting}" for setting in own], source=f"--policy {name}").policy
    if simulator is not None:
        spaces = described(simulator_config(simulator, for_simulator, config.chunk)).spaces
    if spaces is None:
        spaces = _fitting_spaces(config)
    policy_options(config, spaces)
    return config, spaces


def _starting_point(name: str, chunk: int, trust: bool) -> tuple[dict[str, Any], Spaces | None]:
    """The policy section of a recipe for `name`, and the spaces that a saved policy was made for."""
    if name in POLICIES or ":" in name or not path_of(name).exists():
        return {"name": name, "chunk": chunk}, None
    check_trust(path_of(name), trust=trust)
    folder = policy_folder(path_of(name))
    if is_saved_policy(folder) or not folder.is_dir():
        saved = read_checkpoint_config(folder)
        return saved.config(folder).model_dump(mode="json"), saved.spaces
    return {"name": read_checkpoint(folder).family, "chunk": chunk, "checkpoint": str(folder)}, None


def _fitting_spaces(config: PolicyConfig) -> Spaces:
    """The first of some made-up spaces that the policy accepts. Raises the RecipeError of the first where it accepts none."""
    refusals = []
    for action, cameras in product(ACTIONS, (ROBOT_CAMERAS, *CAMERAS) if config.is_pretrained else CAMERAS):
        spaces = Spaces(cameras, STATE, action, MAX_STEPS, INSTRUCTIONS)
        try:
            policy_options(config, spaces)
        except RecipeError as error:
            refusals.append(error)
        else:
            return spaces
    raise refusals[0]


def _described(name: str, config: PolicyConfig, spaces: Spaces) -> str:
    """The policy, its settings that are not the default, and what it is shown."""
    given = config.model_dump(exclude_defaults=True, exclude={"name", "checkpoint"}, mode="json")
    settings = "".join(f", {key}={value}" for key, value in given.items())
    cameras = ", ".join(f"{camera} {height} x {width}" for camera, (height, width, _) in spaces.cameras.items()) or "none"
    action = spaces.action
    accepts = f"{action.size} numbers from {action.low:g} to {action.high:g}" if action.kind == "continuous" else f"one of {action.choices} choices"
    return (
        f"{name}: chunk={config.chunk}{settings.replace(f', chunk={config.chunk}', '')}\ncameras: {cameras}; state: {spaces.state} numbers; actions: {accepts}"
    )
