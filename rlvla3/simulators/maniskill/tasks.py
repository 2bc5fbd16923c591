"""The ManiSkill tasks that are supported, each with its instruction and with what its environment shows and accepts.

This is our own table. A recipe is checked against it without importing the package, and a test compares it with the real environments. It leaves out tasks that
draw their objects when the scene is built (such as PegInsertionSide-v1): in a batch, their initial states would depend on the slot and not only on the ticket.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

PANDA_ACTIONS: Mapping[str, int] = {"pd_joint_delta_pos": 8, "pd_ee_delta_pose": 7, "pd_ee_delta_pos": 4}
"""Control mode -> number of action dimensions, for the Franka Panda arm."""


@dataclass(frozen=True)
class ManiSkillTask:
    """One ManiSkill task.

    state: size of the full state, objects and goal included; 0 if ManiSkill offers none. image_state: size of the state that goes with images
    (EXTRA_SHOWN_WITH_IMAGES). image_mode: ManiSkill's `obs_mode` that gives the images. dense: whether the task has a dense reward.
    actions: control mode -> number of action dimensions; the first one is the default. push: a value for one action dimension that visibly moves the arm if it
    is repeated for a few steps.
    intrinsic: the matrix [3, 3] of a calibrated camera for images of `native` (width, height) pixels; empty if the camera is given by its field of view.
    resets_alone: whether one environment of a batch can be reset while the others go on. assets: files and folders that the folder of assets must contain.
    initial_states: how many there are, where they are a fixed set (ManiSkill calls their numbers episode_id); 0 where a seed draws them.
    """

    instruction: str
    state: int
    max_steps: int = 50
    cameras: tuple[str, ...] = ("base_camera",)
    image_state: int = 25
    image_mode: str = "rgb"
    dense: bool = True
    actions: Mapping[str, int] = field(default_factory=lambda: PANDA_ACTIONS)
    push: float = 1.0
    intrinsic: tuple[tuple[float, ...], ...] = ()
    native: tuple[int, int] = (0, 0)
    resets_alone: bool = True
    initial_states: int = 0
    assets: tuple[str, ...] = ()


EXTRA_SHOWN_WITH_IMAGES = ("tcp_pose", "goal_pos")
"""The parts of ManiSkill's `extra` observation that belong to the state that goes with images, beside the joints (qpos, qvel).

They are the pose of the gripper, and the goal's position, which only PickCube and PullCube show.
"""


def _bridge(instruction: str, initial_states: int, max_steps: int = 60) -> ManiSkillTask:
    """A put-on-plate task: a WidowX arm in front of photographs from the Bridge data. Its reset steps the whole batch until the objects rest.

    Its objects stand at one of some places and are turned in one of some ways. initial_states: the places times the ways.
    """
    return ManiSkillTask(
        instruction,
        state=0,
        max_steps=max_steps,
        cameras=("3rd_view_camera",),
        image_state=23,
        image_mode="rgb+segmentation",  # the segmentation is needed to put the photograph behind the objects
        dense=False,
        actions={"arm_pd_ee_target_delta_pose_align2_gripper_pd_joint_pos": 7},
        push=0.02,  # metres
        intrinsic=((623.588, 0, 319.501), (0, 623.588, 239.545), (0, 0, 1)),
        native=(640, 480),
        resets_alone=False,
        initial_states=initial_states,
        assets=("data/tasks/bridge_v2_real2sim_dataset/custom", "data/robots/widowx/wx250s.urdf"),
    )


TASKS: Mapping[str, ManiSkillTask] = {
    "PickCube-v1": ManiSkillTask("pick up the red cube and hold it at the goal", state=42, image_state=28),
    "PushCube-v1": ManiSkillTask("push the cube to the goal", state=35),
    "PullCube-v1": ManiSkillTask("pull the cube to the goal", state=35, image_state=28),
    "StackCube-v1": ManiSkillTask("stack the red cube on the green cube", state=48, cameras=("base_camera", "hand_camera")),
    "LiftPegUpright-v1": ManiSkillTask("stand the peg upright", state=32),
    "PlaceSphere-v1": ManiSkillTask("put the sphere into the bin", state=39),
    "PokeCube-v1": ManiSkillTask("poke the cube with the peg", state=54),
    "RollBall-v1": ManiSkillTask("roll the ball to the goal", state=44, max_steps=80),
    "PutCarrotOnPlateInScene-v1": _bridge("put carrot on plate", 12 * 2),
    "PutSpoonOnTableClothInScene-v1": _bridge("put the spoon on the towel", 12 * 2),
    "StackGreenCubeOnYellowCubeBakedTexInScene-v1": _bridge("stack the green block on the yellow block", 24 * 1),
    "PutEggplantInBasketScene-v1": _bridge("put eggplant into yellow basket", 8 * 8, max_steps=120),
}
