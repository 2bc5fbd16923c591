"""The protocols of ManiSkill. Only SimplerEnv's can be run with the package mani_skill alone."""

from __future__ import annotations

from collections.abc import Sequence

from rlvla3.evaluation.protocol import Protocol

SIMPLER_LIMITS = {
    "PutCarrotOnPlateInScene-v1": 60,
    "PutSpoonOnTableClothInScene-v1": 60,
    "StackGreenCubeOnYellowCubeBakedTexInScene-v1": 60,
    "PutEggplantInBasketScene-v1": 120,
}
RLINF = "RLinf/RLinf, docs/source-en/rst_source/evaluations/guides/maniskill_ood.rst, evaluations/maniskill/, commit a3816b5; rl4vla, arXiv 2505.19789"
NOT_IN_PACKAGE = (
    "its scenes PutOnPlateInScene25... are no part of the package mani_skill: their code is in RLinf's repository, and their objects are in the data set "
    "RLinf/maniskill_assets of the Hugging Face hub. Use protocol simpler, whose scenes are in mani_skill"
)

PROTOCOLS: Sequence[Protocol] = (
    Protocol(
        name="simpler",
        simulator="maniskill",
        about="SimplerEnv's evaluation of the WidowX: four put-on-plate tasks in front of photographs of the Bridge data",
        source="simpler-env/SimplerEnv, scripts/octo_bridge.sh, simpler_env/evaluation/maniskill2_evaluator.py, commit 4ab7178",
        episodes=24,
        states="0-23",
        limits=SIMPLER_LIMITS,
        settings={
            "options.observation": "rgb",
            "options.control_mode": "arm_pd_ee_target_delta_pose_align2_gripper_pd_joint_pos",
            "options.end_on_success": False,
            "options.success": "success_at_end",
        },
        facts=(
            "control at 5 Hz and physics at 500 Hz, which the tasks have by themselves",
            "an episode runs to its limit, and the success of its last step counts",
        ),
        differences=(
            "SimplerEnv ran ManiSkill 2. ManiSkill 3 has the same scenes and initial states, and physics of another version",
            "SimplerEnv draws frames of 640 x 480 pixels, and the code of a policy resizes them. Here the same view is drawn as a square of "
            "simulator.options.image_size",
            "the script evaluates Octo three times, with other seeds of its sampling. Here each initial state has one episode",
        ),
    ),
    Protocol(
        name="rlinf-in-distribution",
        simulator="maniskill",
        about="RLinf's and rl4vla's evaluation on the scene of training, with the objects of training (PutOnPlateInScene25Main-v3, obj_set train)",
        source=RLINF,
        episodes=16,
        missing=NOT_IN_PACKAGE,
    ),
    Protocol(
        name="rlinf-out-of-distribution",
        simulator="maniskill",
        about="RLinf's and rl4vla's evaluation on 13 changed scenes (vision, semantics, execution), with other objects (obj_set test)",
        source=RLINF,
        episodes=16,
        missing=NOT_IN_PACKAGE,
    ),
)
