"""The protocols of Meta-World: its own multi-task benchmarks, and those of lerobot and RLinf."""

from __future__ import annotations

from collections.abc import Sequence

from rlvla3.evaluation.protocol import Protocol
from rlvla3.simulators.metaworld.tasks import INSTRUCTIONS

MT10 = (
    "reach-v3",
    "push-v3",
    "pick-place-v3",
    "door-open-v3",
    "drawer-open-v3",
    "drawer-close-v3",
    "button-press-topdown-v3",
    "peg-insert-side-v3",
    "window-open-v3",
    "window-close-v3",
)
ML45_TEST = ("bin-picking-v3", "box-close-v3", "hand-insert-v3", "door-lock-v3", "door-unlock-v3")
"""The five tasks that no policy of RLinf's 45 tasks was trained on."""

MT50 = tuple(INSTRUCTIONS)
ML45_TRAIN = tuple(task for task in MT50 if task not in ML45_TEST)

NUMBERED = "options.first_seed"
GOALS = "Meta-World draws goals from the seed of a benchmark. Here goal k of a task is drawn with seed k: other goals, of the same distribution"
SENTENCES = (
    "published policies learned the sentences of lerobot/metaworld_mt50, and ours are others: give theirs with simulator.options.instructions={task: sentence}"
)
NEAR_FRAMES = {"options.cameras": ["corner2_near"], "options.image_size": 480, "options.fast_rendering": False}
"""Camera corner2, moved and the right way up, as lerobot's and RLinf's data of Meta-World have it."""

BENCHMARK = "Farama-Foundation/Metaworld 3.1.1, metaworld/evaluation.py and env_dict.py"
RLINF = "RLinf/RLinf, rlinf/envs/metaworld/, examples/embodiment/config/env/metaworld_*.yaml, commit a3816b5"
RLINF_SETTINGS = {"options.warmup_steps": 16, NUMBERED: 0}
UNSEEDED = "RLinf's goals have no seed, so no two evaluations have the same. Here goal k of a task is drawn with seed k"

PROTOCOLS: Sequence[Protocol] = (
    *(
        Protocol(
            name=name,
            simulator="metaworld",
            about=f"Meta-World's own {name.upper()}: {len(tasks)} tasks, a success at any step",
            source=BENCHMARK,
            episodes=50,
            states="all",
            tasks=tasks,
            limits=dict.fromkeys(tasks, 500),
            settings={"options.warmup_steps": 0, NUMBERED: 0, "options.seeds": 50},
            differences=(GOALS, "Meta-World's own agents see the numbers of objects and goal. Here the policy sees frames and what the arm feels"),
        )
        for name, tasks in (("mt10", MT10), ("mt50", MT50))
    ),
    Protocol(
        name="lerobot",
        simulator="metaworld",
        about="lerobot-eval with --env.type=metaworld, as its documentation recommends it",
        source="huggingface/lerobot, src/lerobot/envs/metaworld.py, docs/source/metaworld.mdx, commit 7427f31",
        episodes=10,
        states="all",
        limits=dict.fromkeys(MT50, 500),
        settings={"options.warmup_steps": 0, NUMBERED: 1000, "options.seeds": 10},
        frames=NEAR_FRAMES,
        facts=("the seed of episode k is 1000 + k (lerobot's default --seed)", "a success ends the episode"),
        differences=(SENTENCES,),
    ),
    Protocol(
        name="rlinf",
        simulator="metaworld",
        about="RLinf's evaluation of all 50 tasks",
        source=RLINF,
        episodes=10,
        states="all",
        tasks=MT50,
        limits=dict.fromkeys(MT50, 100),
        settings={**RLINF_SETTINGS, "options.seeds": 10},
        frames=NEAR_FRAMES,
        chunks={"pi0": 5, "pi05": 5, "openvla_oft": 1},
        facts=("16 steps of zeros come before the episode",),
        differences=(UNSEEDED, SENTENCES, "OpenVLA-OFT samples at temperature 0.6 there, and takes the likeliest action here"),
    ),
    *(
        Protocol(
            name=name,
            simulator="metaworld",
            about=about,
            source=RLINF,
            episodes=episodes,
            states="all",
            tasks=tasks,
            limits=dict.fromkeys(tasks, 100),
            settings={**RLINF_SETTINGS, "options.seeds": episodes},
            frames=NEAR_FRAMES,
            chunks={"pi0": 5, "pi05": 5},
            facts=("16 steps of zeros come before the episode",),
            differences=(UNSEEDED, SENTENCES),
        )
        for name, about, tasks, episodes in (
            ("rlinf-in-distribution", "RLinf's evaluation of the 45 tasks of ML45 that policies are trained on", ML45_TRAIN, 10),
            ("rlinf-out-of-distribution", "RLinf's evaluation of the 5 tasks of ML45 that no policy is trained on", ML45_TEST, 20),
        )
    ),
)
