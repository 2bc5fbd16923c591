"""The names of LIBERO's suites, and how long their episodes are. Data alone: nothing is read from the installed package.

LIBERO has five suites. LIBERO-PRO (arXiv 2510.03827) varies four of them. The name of such a suite is the suite that it varies, and the variation:
libero_goal_swap is libero_goal with objects in other places.
"""

from __future__ import annotations

from collections.abc import Mapping

STANDARD: Mapping[str, int] = {"libero_spatial": 220, "libero_object": 280, "libero_goal": 300, "libero_10": 520, "libero_90": 400}
"""LIBERO's own suites, each with its longest episode in steps. These are the limits of OpenVLA's published evaluations; no demonstration is longer."""

NEW_SENTENCES = ("lan", "task")
"""The variations that change the instruction. The name of the task is still the old one, so the instruction is read from the task's definition."""

ADDED_OBJECTS = ("mug", "yellow_book", "milk", "red_stick", "blue_stick", "green_mug", "rotated_stick", "diffpos_stick", "alphabet_soup", "red_box")
"""Objects that stand in the scene besides those of the task: libero_goal_with_mug."""

VARIATIONS = (*NEW_SENTENCES, "object", "swap", "env", "temp", "object_ood", "relation_ood", "semantic_ood", *(f"with_{name}" for name in ADDED_OBJECTS))

VARIANTS = tuple(f"{suite}_{variation}" for suite in ("libero_spatial", "libero_object", "libero_goal", "libero_10") for variation in VARIATIONS)
"""LIBERO-PRO's suites that vary one of LIBERO's."""

OTHERS = (
    "libero_mine",
    "libero_study_table",
    "libero_object_two_normal_episodes",
    "libero_object_matched_two_episodes",
    "libero_object_not_matched_two_episodes",
    "libero_object_triggered_episode",
    "libero_object_with_trigger",
    "libero_object_with_trigger_new",
)
"""The other suites that LIBERO-PRO names."""

SUITES = (*STANDARD, *VARIANTS, *OTHERS)

OTHER_LIMIT = 400
"""The longest episode of a suite whose name begins with none of the five. Nothing is published for these; it is the limit of libero_90."""


def longest_episode(suite: str) -> int:
    """The longest episode of `suite` in steps. A suite that varies another, and so begins with its name, has the limit of that one."""
    return next((limit for known, limit in STANDARD.items() if suite == known or suite.startswith(f"{known}_")), OTHER_LIMIT)


def suite_of_folder(folder: str) -> str | None:
    """The suite that a folder of files is named after, such as libero_goal for libero_goal_no_noops. None if it is named after no suite that is known here."""
    name = folder.casefold()
    fitting = [suite for suite in SUITES if name == suite or name.startswith(f"{suite}_")]
    return max(fitting, key=len, default=None)
