"""The protocols of LIBERO: four, and not one. They differ in how objects settle, in limits, in episodes, and in where fixtures stand."""

from __future__ import annotations

from collections.abc import Sequence

from rlvla3.evaluation.protocol import ANY, Protocol

OPENVLA_LIMITS = {"libero_spatial": 220, "libero_object": 280, "libero_goal": 300, "libero_10": 520, "libero_90": 400}
"""A little more than the longest demonstration of each suite."""

ROTATED = "frames are rotated by 180 degrees against robosuite's: a pretrained policy gets them so by its preset (policy.options.preset: libero)"
HARD = "hard resets: a reset here gives the same states bit for bit, and is faster"
LAG = "robosuite samples what a policy sees one physics step (2 ms) before the end of an environment step, and rlvla3 does so too"
STATE = "state: position of the hand, orientation as axis times angle, both fingers. Action: -1 opens the gripper, 1 closes it"
NOISE = "the noise of a policy that samples comes from other seeds"

SETTLING = {"options.warmup_gripper": -1.0, "options.observation_lag": 1}

PROTOCOLS: Sequence[Protocol] = (
    Protocol(
        name="openpi",
        simulator="libero",
        about="openpi's client for LIBERO",
        source="Physical-Intelligence/openpi, examples/libero/main.py, commit 15a9616",
        episodes=50,
        states="all",
        limits=OPENVLA_LIMITS,
        settings={**SETTLING, "options.warmup_steps": 10, "options.fixture_seed": 7, "options.fixture_draws": "in_turn"},
        frames={"options.image_size": 256, "options.fast_rendering": False},
        rotated=True,
        chunks={ANY: 5},
        facts=(HARD, LAG, ROTATED, "frames of 256 pixels are resized to the policy's size, with padding", STATE),
        differences=(NOISE,),
    ),
    Protocol(
        name="openvla",
        simulator="libero",
        about="OpenVLA's and OpenVLA-OFT's script for LIBERO",
        source="openvla/openvla, commit c8f03f4, and moojink/openvla-oft, commit 213c5ff: experiments/robot/libero/run_libero_eval.py and libero_utils.py",
        episodes=50,
        states="all",
        limits=OPENVLA_LIMITS,
        settings={**SETTLING, "options.warmup_steps": 10, "options.fixture_seed": 0, "options.fixture_draws": "in_turn"},
        frames={"options.image_size": 256, "options.fast_rendering": False},
        rotated=True,
        chunks={"openvla_oft": 8},
        facts=(HARD, LAG, ROTATED, "the policy's gripper, 0 to 1, is made -1 or 1 and inverted: by the preset too", STATE),
        differences=(NOISE,),
    ),
    Protocol(
        name="lerobot",
        simulator="libero",
        about="lerobot-eval with --env.type=libero, as its documentation recommends it",
        source="huggingface/lerobot, src/lerobot/envs/libero.py and configs.py, docs/source/libero.mdx, commit 7427f31",
        episodes=10,
        states="0-9",
        limits={**OPENVLA_LIMITS, "libero_spatial": 280},
        settings={**SETTLING, "options.warmup_steps": 10, "options.fixture_seed": 1000, "options.fixture_draws": "by_state"},
        frames={"options.image_size": 360, "options.fast_rendering": False},
        rotated=True,
        chunks={"pi0": 10, "pi05": 10},
        facts=(HARD, LAG, ROTATED, "the seed of episode k is 1000 + k (lerobot's default --seed)", STATE),
        differences=(NOISE, "lerobot releases up to 0.6.1 may reset once more after a success, and then skip an initial state: here no state is skipped"),
    ),
    Protocol(
        name="rlinf",
        simulator="libero",
        about="RLinf's evaluation of LIBERO",
        source="RLinf/RLinf, evaluations/libero/*.yaml, examples/embodiment/config/env/libero_*.yaml, rlinf/envs/libero/libero_env.py, commit a3816b5",
        episodes=50,
        states="all",
        limits={"libero_spatial": 240, "libero_object": 280, "libero_goal": 320, "libero_10": 520, "libero_90": 512},
        limits_of={"openvla_oft": {"libero_spatial": 512, "libero_object": 512, "libero_goal": 512, "libero_10": 520, "libero_90": 512}},
        settings={**SETTLING, "options.warmup_steps": 15, "options.fixture_seed": 0, "options.fixture_draws": "by_state"},
        settings_of={"openvla_oft": {"options.warmup_gripper": 0.0}},
        frames={"options.image_size": 256, "options.fast_rendering": False},
        rotated=True,
        chunks={"pi0": 5, "pi05": 5, "openvla_oft": 8, "groot": 10},
        facts=(LAG, ROTATED, "a success counts at any step of the episode", STATE),
        differences=(
            NOISE,
            "RLinf seeds the draws of fixtures by the number of an environment in its process. So they depend on how many GPUs there are. Here initial state k "
            "has seed k",
            "OpenVLA-OFT samples at temperature 1.6 there, and takes the likeliest action here",
        ),
    ),
)
