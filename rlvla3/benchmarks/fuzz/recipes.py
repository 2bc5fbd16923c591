"""Broken recipes and overrides. Each must become a Recipe that is written and read back unchanged, or be refused in words."""

from __future__ import annotations

import json
import os
from contextlib import suppress
from pathlib import Path
from random import Random
from typing import Any

import yaml

from rlvla3.benchmarks.fuzz.mutations import ODD_TEXTS, broken_bytes, broken_tree, nested, odd_value
from rlvla3.benchmarks.fuzz.subject import Subject
from rlvla3.config import Recipe, load_recipe, write_recipe
from rlvla3.errors import RecipeError
from rlvla3.preflight import preflight

CARTPOLE = {"name": "gymnasium:CartPole-v1", "shards": 2, "options": {"success_return": 475, "kwargs": {"sutton_barto_reward": False}}}
SHORT_POLE = {"name": "gymnasium:CartPole-v1", "weight": 2, "max_steps": 50, "devices": ["cpu"], "options": {"success_return": 45}}
SHORT: dict[str, Any] = {
    "seed": 1,
    "simulator": CARTPOLE,
    "policy": {"name": "actor_critic", "chunk": 1, "options": {"hidden": 64}},
    "clone": {"files": ["demos/*.hdf5"], "layout": {"state": ["qpos"], "tasks": {"a": "b"}}, "learning_rate": 1e-3},
    "algorithm": {"advantage": "grpo", "group_size": 4, "correction": {"name": "truncated", "cap": None}, "reference": {"weight": 0.1}},
    "training": {"batch": 8, "steps": 2, "device": "cpu", "betas": [0.9, 0.95], "critic": {"epochs": 1}},
    "engine": {"mode": "sync", "generators": 2, "elastic": {"least": 1}, "max_batch": "auto"},
    "memory": {"trainer": 0.5},
    "evaluation": {"episodes": 16, "seed": 3},
}
LONG: dict[str, Any] = Recipe.model_validate(
    {"simulator": CARTPOLE, "policy": SHORT["policy"], "training": SHORT["training"], "evaluation": SHORT["evaluation"]}
).model_dump(mode="json")
PLAIN: dict[str, Any] = {"simulator": CARTPOLE, "policy": SHORT["policy"], "training": SHORT["training"]}
TASKS: dict[str, Any] = {"simulator": {"name": "metaworld", "tasks": {"drawer-open-v3": 2, "window-open-v3": 1}}, "training": {"batch": 8}}
SEVERAL: dict[str, Any] = {"simulators": {"pole": CARTPOLE, "short": SHORT_POLE}, "policy": SHORT["policy"], "training": SHORT["training"]}
STARTS = (PLAIN, SHORT, LONG, TASKS, SEVERAL)

LINES = (
    *("seed: 1", "seed: 2", "<<: *a", "a: &a [*a]", "a: &a {b: *a}", "- x", "---", "...", "%YAML 9.9", "%TAG ! tag:x,2000:", "\tx: 1", "? [a, b]\n: c", "? x"),
    *("x: |", "x: >-", "key", ": x", "{", "[", "]", "}", "'", '"', "x: !!python/object/apply:os.getcwd []", "x: !!binary aaaa", "x: !!set {a, b}"),
    *("x: !!timestamp 2020-01-01", "x: !!int abc", "x: !!float x", "x: !!bool 7", "x: !<tag> y", "&a", "*a", "x: *nowhere", "@x", "`x", "x: %y"),
    *("seed: " + "9" * 5000, "seed: 0x" + "f" * 5000, "seed: 1:" + "0" * 5000, "training:", "clone:", "simulator:", "simulators:", "engine: {elastic: }"),
    *("x: " + "[" * 2000, "x: " + "{a: " * 500, "x: " + "- " * 800, "simulator: {tasks: [a/0-99999999999]}", "simulator: {tasks: {a/0-999: 1000, b: 999}}"),
    "a: &a [x, x, x, x, x, x, x, x, x]\n" + "\n".join(f"{b}: &{b} [{', '.join([f'*{a}'] * 9)}]" for a, b in zip("abcdefgh", "bcdefghi", strict=True)),
)
"""Lines that some recipe might hold, and that YAML or Python reads in a way of its own."""

CODECS = ("utf-16", "utf-16-le", "utf-32", "utf-8-sig", "latin-1", "cp1252", "utf-7")


class Recipes(Subject):
    """A case is a file recipe.yaml and a list of settings, overrides.json."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        os.chdir(folder)  # patterns of demonstration files are looked for here
        import rlvla3.algorithms.corrections
        import rlvla3.policies.base  # noqa: F401  # torch, which classes of a user's own need

        for start in STARTS:
            with suppress(*([RecipeError] if start is TASKS else [])):  # Meta-World need not be installed
                preflight(Recipe.model_validate(start), trains=True)

    def make(self, random: Random, folder: Path) -> str:
        tree = random.choice(STARTS)
        overrides: list[str] = []
        match random.choices(("tree", "settings", "line", "bytes", "codec"), (60, 15, 15, 7, 3))[0]:
            case "tree":
                changes = []
                for _ in range(random.choice((1, 1, 1, 2, 3))):
                    tree, change = broken_tree(tree, random)
                    changes.append(change)
                data, words = _yaml(tree), "; ".join(changes)
            case "settings":
                overrides, words = _overrides(tree, random)
                data = _yaml(tree)
            case "line":
                text, words = _with_line(yaml.safe_dump(tree, sort_keys=False, default_flow_style=random.choice((None, False, True))), random)
                data = text.encode()
            case "bytes":
                data, words = broken_bytes(_yaml(tree), random)
            case _:
                codec = random.choice(CODECS)
                data, words = (_yaml(tree) + "# é\n".encode()).decode().encode(codec), f"it is {codec}"
        (folder / "recipe.yaml").write_bytes(data)
        (folder / "overrides.json").write_text(json.dumps(overrides))
        return words

    def read(self, folder: Path) -> None:
        recipe = load_recipe(folder / "recipe.yaml", json.loads((folder / "overrides.json").read_text()))
        write_recipe(recipe, folder / "config.yaml")
        again = load_recipe(folder / "config.yaml")
        write_recipe(again, folder / "again.yaml")
        if (folder / "config.yaml").read_bytes() != (folder / "again.yaml").read_bytes() or repr(again) != repr(recipe):
            raise AssertionError("the recipe that is read back is another one")
        preflight(recipe, trains=True)


def _yaml(tree: Any) -> bytes:
    text: str = yaml.safe_dump(tree, sort_keys=False)
    return text.encode()


def _with_line(text: str, random: Random) -> tuple[str, str]:
    lines = text.splitlines()
    at = random.randrange(len(lines) + 1)
    match random.choice(("new", "new", "twice", "indent", "value", "deep")):
        case "twice" if at < len(lines):
            return "\n".join([*lines[: at + 1], *lines[at:]]), f"line {at} stands twice"
        case "indent" if at < len(lines):
            return "\n".join([*lines[:at], random.choice((" ", "    ", "\t")) + lines[at], *lines[at + 1 :]]), f"line {at} is indented"
        case "value" if at < len(lines) and ":" in lines[at]:
            value = random.choice((*LINES, *ODD_TEXTS)).partition(": ")[2] or random.choice(ODD_TEXTS)
            return "\n".join([*lines[:at], f"{lines[at].partition(':')[0]}: {value}", *lines[at + 1 :]]), f"the value of line {at} is {value[:40]!r}"
        case "deep":
            line = f"x: {json.dumps(nested(random.choice((10, 40, 200, 900)), random))}"
        case _:
            line = random.choice(LINES)
    indent = random.choice(("", "", "  ", "    "))
    return "\n".join([*lines[:at], *(indent + part for part in line.split("\n")), *lines[at:]]), f"before line {at} stands {line[:40]!r}"


def _overrides(tree: dict[str, Any], random: Random) -> tuple[list[str], str]:
    """Settings with odd keys or values, as the command line takes them."""
    settings: list[str] = []
    for _ in range(random.choice((1, 1, 2, 3))):
        section = random.choice(list(tree))
        keys = [section, *([random.choice(list(tree[section]))] if isinstance(tree[section], dict) and random.random() < 0.8 else [])]
        if random.random() < 0.2:
            keys += [random.choice(("", "x", "kwargs", "a.b", "name", "0", " "))]
        value = odd_value(random)
        as_text = json.dumps(value) if random.random() < 0.3 and not isinstance(value, float) else f"{value}"
        settings.append(random.choice(("{}={}", "{}={}", "{}={}", "{}", "={1}", "{} = {}")).format(".".join(map(str, keys)), as_text))
    return settings, "; ".join(setting[:60] for setting in settings)
