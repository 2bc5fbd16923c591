"""The names that clients give to cameras, state and instruction, as data: one entry for each kind of client.

A client's message is a map, which may hold maps. Its values are named by their path in it: `observation/image`, or `images/cam_high`. A form is recognised by
the names that only its clients use, so one server answers all of them at once.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from rlvla3.processing.presets import PRESETS, Role, role_of


@dataclass(frozen=True)
class Form:
    """How one kind of client names what it observes.

    known_by: a message that has one of these names is of this form.
    roles: {what a camera sees: its name}. folder: or the map that holds images by the names of cameras.
    state: ways to name the state, the first that is there is taken; each is the names of the parts that are joined.
    instruction: ways to name the instruction.
    published: whether frames are turned as published policies saw them (processing/presets.py). Otherwise they are as our simulators draw them.
    """

    name: str
    known_by: frozenset[str]
    roles: Mapping[Role, str] = field(default_factory=dict)
    folder: str = ""
    state: tuple[tuple[str, ...], ...] = ()
    instruction: tuple[str, ...] = ("prompt",)
    published: bool = True


FORMS = (
    # examples/droid/main.py of openpi.
    Form(
        "openpi's DROID client",
        known_by=frozenset({"observation/joint_position", "observation/exterior_image_1_left"}),
        roles={"base": "observation/exterior_image_1_left", "wrist": "observation/wrist_image_left"},
        state=(("observation/joint_position", "observation/gripper_position"),),
    ),
    # examples/libero/main.py of openpi.
    Form(
        "openpi's LIBERO client",
        known_by=frozenset({"observation/image", "observation/wrist_image", "observation/state"}),
        roles={"base": "observation/image", "wrist": "observation/wrist_image"},
        state=(("observation/state",),),
    ),
    # vla_eval/benchmarks/libero/benchmark.py; other benchmarks of vla-eval name their cameras differently and the rest in the same way.
    Form(
        "a benchmark of vla-eval",
        known_by=frozenset({"task_description", "states"}),
        folder="images",
        state=(("states",), ("state",)),
        instruction=("task_description",),
    ),
    # Ours. examples/aloha_real/env.py and aloha_sim of openpi have the same form, with cam_high, cam_left_wrist, ... as cameras.
    Form(
        "a client that names cameras as the policy does",
        known_by=frozenset({"images", "state", "instruction", "prompt"}),
        folder="images",
        state=(("state",),),
        instruction=("instruction", "prompt"),
        published=False,
    ),
)
"""In the order in which they are tried."""

ELAPSED, DECISION = "elapsed", "decision"
"""Names of every form that need not be given. elapsed: the share of the episode's steps that are gone. decision: the ticket and the number of the
decision, from which its noise is drawn."""


def form_of(names: frozenset[str]) -> Form | None:
    """The form of a message that has these names. Of `images/cam_high`, `images` is one too."""
    parents = {name.partition("/")[0] for name in names if "/" in name}
    return next((form for form in FORMS if form.known_by & (names | parents)), None)


def role(camera: str) -> Role | None:
    """What a camera of a policy sees, by its name: as presets and checkpoints call it."""
    for preset in PRESETS.values():
        for seen, cameras in preset.cameras.items():
            if camera in cameras:
                return seen
    return role_of(camera)
