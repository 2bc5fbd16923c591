"""The ManiSkill tasks that are known here, each with the sentence a policy is told and what its environment shows.

Our own table: a recipe is checked against it without importing the package, and a test compares it with the real environments. Tasks are left out whose
objects are drawn as a scene is built (PegInsertionSide-v1, say): in a batch their initial states would depend on the slot, not on the ticket alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

PANDA_ACTIONS: Mapping[str, int] = {"pd_joint_delta_pos": 8, "pd_ee_delta_pose": 7, "pd_ee_delta_pos": 4}
"""Control mode -> action dimensions, of the Franka Panda arm."""


@dataclass(frozen=True)
class Task:
    """One task.

    state: numbers in its full state, objects and goal among them; 0 where ManiSkill offers none. seen: numbers that go with images instead (SEEN).
    textures: ManiSkill's `obs_mode` for its images. dense: whether it has a dense reward.
    actions: control mode -> action dimensions, the first one the default. push: how far to go in one of them, a few times, for the arm to be seen to move.
    intrinsic: the camera's matrix [3, 3] for images of `native` (width, height) pixels, where it is calibrated and not given by a field of view.
    resets_alone: whether an environment of a batch can be reset while the others go on. assets: what must be in the folder of assets.
    """

    instruction: str
    state: int
    max_steps: int = 50
    cameras: tuple[str, ...] = ("base_camera",)
    seen: int = 25
    textures: str = "rgb"
    dense: bool = True
    actions: Mapping[str, int] = field(default_factory=lambda: PANDA_ACTIONS)
    push: float = 1.0
    intrinsic: tuple[tuple[float, ...], ...] = ()
    native: tuple[int, int] = (0, 0)
    resets_alone: bool = True
    assets: tuple[str, ...] = ()


SEEN = ("tcp_pose", "goal_pos")
"""What goes with images beside the joints (qpos, qvel): the pose of the gripper, and the place asked for, which PickCube and PullCube show beside them."""


def _bridge(instruction: str, max_steps: int = 60) -> Task:
    """A put-on-plate task: a WidowX arm before the pictures of the Bridge data. It settles its objects by stepping the whole batch."""
    return Task(
        instruction,
        state=0,
        max_steps=max_steps,
        cameras=("3rd_view_camera",),
        seen=23,
        textures="rgb+segmentation",  # the picture behind the objects is laid in by their outlines
        dense=False,
        actions={"arm_pd_ee_target_delta_pose_align2_gripper_pd_joint_pos": 7},
        push=0.02,  # metres
        intrinsic=((623.588, 0, 319.501), (0, 623.588, 239.545), (0, 0, 1)),
        native=(640, 480),
        resets_alone=False,
        assets=("data/tasks/bridge_v2_real2sim_dataset/custom", "data/robots/widowx/wx250s.urdf"),
    )


TASKS: Mapping[str, Task] = {
    "PickCube-v1": Task("pick up the red cube and hold it at the goal", state=42, seen=28),
    "PushCube-v1": Task("push the cube to the goal", state=35),
    "PullCube-v1": Task("pull the cube to the goal", state=35, seen=28),
    "StackCube-v1": Task("stack the red cube on the green cube", state=48, cameras=("base_camera", "hand_camera")),
    "LiftPegUpright-v1": Task("stand the peg upright", state=32),
    "PlaceSphere-v1": Task("put the sphere into the bin", state=39),
    "PokeCube-v1": Task("poke the cube with the peg", state=54),
    "RollBall-v1": Task("roll the ball to the goal", state=44, max_steps=80),
    "PutCarrotOnPlateInScene-v1": _bridge("put carrot on plate"),
    "PutSpoonOnTableClothInScene-v1": _bridge("put the spoon on the towel"),
    "StackGreenCubeOnYellowCubeBakedTexInScene-v1": _bridge("stack the green block on the yellow block"),
    "PutEggplantInBasketScene-v1": _bridge("put eggplant into yellow basket", max_steps=120),
}
