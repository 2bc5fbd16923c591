"""Recipes: what is written is read back, and every mistake ends in a sentence."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin

import pytest
from hypothesis import HealthCheck, event, given, reject, settings
from hypothesis import strategies as st
from pydantic.fields import FieldInfo

from rlvla3.config import Recipe, load_recipe, make_recipe, write_recipe
from rlvla3.config.schema import alternatives, is_section
from rlvla3.config.section import LARGEST, Limit
from rlvla3.errors import RecipeError
from tests.support.runs import countdown

# What is written is read back

texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=20) | st.sampled_from(
    ["1e-3", "no", "yes", "0x10", "010", "12:30:00", "2020-01-01", "", "~", "null", "None", ".inf", "inf", "1_000", "=", "<<", "a: b", "- a", "#", "🤖", "\x85"]
)
free_numbers = st.floats() | st.integers(-(10**99), 10**99) | st.sampled_from([math.inf, -math.inf, math.nan, -0.0, 1e-320, 2**64, 10**99])
free_values = st.recursive(
    st.none() | st.booleans() | free_numbers | texts, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3), max_leaves=6
)


def values(annotation: Any, limits: tuple[Any, ...] = ()) -> st.SearchStrategy[Any]:
    """Values that a setting of this type may have. limits: gt, ge and le, as pydantic keeps them."""
    if get_origin(annotation) is Annotated:
        inner, *extra = get_args(annotation)
        return values(inner, (*limits, *(part for info in extra for part in (info.metadata if isinstance(info, FieldInfo) else [info]))))
    if len(alternatives(annotation)) > 1:
        return st.one_of([values(kind, limits) for kind in alternatives(annotation)])
    if is_section(annotation):
        return st.fixed_dictionaries({}, optional={name: values(field.annotation, tuple(field.metadata)) for name, field in annotation.model_fields.items()})
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Literal:
        return st.sampled_from(arguments)
    if origin is dict:
        return st.dictionaries(texts, values(arguments[1]), max_size=3)
    if origin is list:
        return st.lists(values(arguments[0]), max_size=3, unique_by=repr)
    if origin is tuple:
        return st.tuples(*map(values, arguments)).map(list)
    if annotation is Any:
        return free_values
    return scalars(annotation, {name: getattr(limit, name) for limit in limits for name in ("gt", "ge", "lt", "le", "allow_inf_nan") if hasattr(limit, name)})


def scalars(kind: Any, limits: dict[str, Any]) -> st.SearchStrategy[Any]:
    low, high = limits.get("ge", limits.get("gt", 0)), limits.get("le", limits.get("lt", LARGEST))
    if kind is int:
        return st.integers(low + ("gt" in limits), min(high, low + 8)) | st.integers(low + ("gt" in limits), high)
    if kind is float:
        return st.floats(low, high, exclude_min="gt" in limits) | (st.just(math.inf) if "allow_inf_nan" in limits else st.nothing())
    return {bool: st.booleans(), str: texts, Path: texts.filter(bool), type(None): st.none()}[kind]


@given(st.data())
@settings(max_examples=300, suppress_health_check=[HealthCheck.filter_too_much, HealthCheck.too_slow], deadline=None)
def test_every_recipe_is_read_back_as_it_was_written(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    """Settings that do not go together are refused, so each tree holds few."""
    tree: dict[str, Any] = {}
    for name in data.draw(st.lists(st.sampled_from(list(Recipe.model_fields)), max_size=3, unique=True)):
        drawn = data.draw(values(Recipe.model_fields[name].annotation, tuple(Recipe.model_fields[name].metadata)))
        tree[name] = dict(data.draw(st.permutations(list(drawn.items())))[:2]) if isinstance(drawn, dict) else drawn
    try:
        recipe = make_recipe(tree)
    except RecipeError:
        event("refused")
        reject()
    event("read back")
    path = tmp_path_factory.mktemp("recipe") / "config.yaml"
    write_recipe(recipe, path)
    again = load_recipe(path)
    assert repr(again) == repr(recipe)  # nan is not equal to itself
    assert repr(make_recipe(recipe.model_dump(mode="json"))) == repr(recipe)


ODD = {"text": "1e-3", "no": "no", "hex": "0x10", "time": "12:30:00", "date": "2020-01-01", "none": "None", "empty": "", "octal": "010", "tilde": "~"}
NUMBERS = {"inf": math.inf, "low": -math.inf, "nan": math.nan, "large": 10**99, "small": 1e-320, "zero": -0.0, "seed": 2**64, "one": 1.0}


def test_settings_of_any_kind_are_read_back(tmp_path: Path) -> None:
    kwargs = ODD | NUMBERS | {key: key for key in ("1e-3", "on", "", "0x10", "a.b")} | {"deep": [[{"a": [None, True]}]]}
    recipe = make_recipe(countdown(simulator={"options": {"kwargs": kwargs}}, training={"gradient_clip": math.inf}))
    write_recipe(recipe, tmp_path / "config.yaml")
    again = load_recipe(tmp_path / "config.yaml")
    assert repr(again.simulator.options["kwargs"]) == repr(kwargs)
    assert again.training.gradient_clip == math.inf


# Bounds


def numeric_fields(schema: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, bool, bool]]:
    """The path of each number in a recipe; whether it is whole; whether it may be infinite."""
    for name, field in schema.model_fields.items():
        for kind in alternatives(field.annotation):
            limits = field.metadata
            if get_origin(kind) is Annotated:
                kind, *limits = get_args(kind)
                limits = [part for info in limits for part in (info.metadata if isinstance(info, FieldInfo) else [info])]
            if is_section(kind):
                yield from numeric_fields(kind, (*path, name))
            elif kind in (int, float):
                yield ".".join((*path, name)), kind is int, any(getattr(limit, "allow_inf_nan", False) for limit in limits)


FIELDS = list(numeric_fields(Recipe))


def test_all_numbers_of_a_recipe_are_found() -> None:
    names = [name for name, _, _ in FIELDS]
    assert len(names) > 60 and {"seed", "engine.max_batch", "engine.elastic.least", "clone.learning_rate", "training.critic.batch"} <= set(names)
    assert [name for name, _, limit in FIELDS if limit] == [
        *("algorithm.advantage_clip", "algorithm.clip_high", "algorithm.correction.cap", "algorithm.sampler_cap", "training.gradient_clip")
    ], f"a {Limit} says in docs/settings.md that it may be .inf"


@pytest.mark.parametrize(("name", "whole", "limit"), FIELDS, ids=lambda value: value if isinstance(value, str) else "")
def test_every_number_has_bounds(name: str, whole: bool, limit: bool) -> None:
    impossible: list[Any] = [
        -1,
        -math.inf,
        math.nan,
        True,
        "many",
        [1],
        {"a": 1},
        *([] if limit else [math.inf, 1e300, 10**90]),
        *([2**64, 1.5] if whole else []),
    ]
    for value in impossible:
        with pytest.raises(RecipeError, match=name.replace(".", r"\.")) as raised:
            make_recipe({}, [f"{name}={value}"] if value in (True, "many") else {name: value})
        assert len(str(raised.value)) < 1500


# Mistakes

MISTAKES: list[tuple[str, list[str], str]] = [
    ("seed: 1\nseed: 2", [], r"line 2: seed is set twice, in line 1 too"),
    ("training: {batch: 8}\nseed: 1\ntraining: {steps: 2}", [], "line 3: training is set twice"),
    ("simulator: {options: {kwargs: {a: 1, a: 2}}}", [], "simulator.options.kwargs.a is set twice"),
    ("", ["simulator.options={kwargs: {a: 1, a: 2}}"], "kwargs.a is set twice"),
    ("engine: {mode: [x]}", [], r"engine.mode: .*'sync', .*given \['x'\]"),
    ("engine: {mode: {}}", ["engine.mode=sync", "engine.mode=[x]"], "engine.mode: "),
    ("algorithm: {advantage: {}}", [], "algorithm.advantage: "),
    ("algorithm: {correction: {name: [a]}}", [], "algorithm.correction.name: Input should be a valid string"),
    ("seed: 2020-99-99", [], "seed: Input should be a valid integer"),
    ("seed: 12:30:00", [], "seed: Input should be a valid integer"),
    ("seed: 18446744073709551616", [], "seed: Input should be less than or equal to 9223372036854775807"),
    ("training: {learning_rate: .inf}", [], "training.learning_rate: Input should be .*finite|less than or equal to 10"),
    ("training: {learning_rate: .nan}", [], "training.learning_rate: Input should be a finite number"),
    ("training: {batch: true}", [], "training.batch: Input should be a number, given True"),
    ("training: {batch: None}", [], "training.batch is None without quotes.*write null"),
    ("policy: {checkpoint: None}", [], "policy.checkpoint is None without quotes"),
    ("policy: {checkpoint: ''}", [], "policy.checkpoint: Input should be a path"),
    ("policy: {checkpoint: ~nobody-of-this-name/a}", [], "nobody here is called nobody-of-this-name"),
    ('policy: {checkpoint: "a\\0b"}', [], "policy.checkpoint: Input should be a path"),
    ("policy: {checkpoint: " + "a" * 300 + "}", [], "at most 255 bytes"),
    ("clone: {files: " + "a/" * 3000 + "}", [], "clone.files: Input should be a path"),
    ("simulator: {options: {kwargs: {mode: off}}}", [], "kwargs.mode is off without quotes.*write false, or 'off'"),
    ("simulator: {options: {kwargs: {bounds: [0, inf]}}}", [], "kwargs.bounds is inf without quotes.*write .inf, or 'inf'"),
    ("simulator: {options: {kwargs: {gain: -inf}}}", [], "write -.inf"),
    ("", ["simulator.options.kwargs.sparse=yes"], "simulator.options.kwargs.sparse is yes without quotes.*write true"),
    ("simulator: {options: {kwargs: {joint: 010}}}", [], "take 010 for the number 10"),
    ("simulator: {options: {kwargs: {limit: 1e999}}}", [], "1e999 is too large"),
    ("simulator: {tasks: [a/0-99999999999]}", [], "names tasks from 0 to 99999999999"),
    ("simulator: {tasks: [a/0-999999999]}", [], "names tasks from 0 to 999999999"),
    ("simulator: {tasks: [a/9-0]}", [], "the first number is the smaller one"),
    ("simulator: {tasks: [1]}", [], "simulator.tasks.0: Input should be a valid string, given 1"),
    ("simulator: {tasks: {a/0-399: 1000, b: 999}}\nevaluation: {episodes: 999}", [], "a round of turns"),
    ("engine: {device: meta}", [], "engine.device: Input should be auto, cpu, cuda or cuda:N, given 'meta'"),
    ("training: {device: 'cuda:x'}", [], "training.device: Input should be auto, cpu, cuda or cuda:N"),
    ("training: {device: 'cuda:99999999'}", [], "training.device: "),
    ("simulator: {devices: [mps]}", [], "simulator.devices.0: Input should be cpu, cuda, cuda:N or egl:N"),
    ("simulator: {timeout_s: 1.0e+30}", [], "simulator.timeout_s: Input should be less than or equal to 1000000"),
    ("training: {batch: 2147483647, steps: 2}", [], r"training.steps to one of \[1, 2147483647\]"),
    ("training: null", [], "training: is a section, given None"),
    ("", ["clone="], r"clone= says nothing: write clone=\{\}"),
    ("", ["simulator.options="], "simulator.options= says nothing"),
    ("simulators: {name: 3}", [], "simulators.name: is a section, given 3"),
    ("simulators: {name: {shard: 3}}", [], "simulators.name.shard: unknown key, did you mean shards"),
    ("- a\n- b", [], "holds a list, and a recipe is a mapping"),
    ("just text", [], "holds a str, and a recipe is a mapping"),
    ("a: 1\n---\nb: 2", [], "line 2: a second document"),
    ("simulator: &a {options: {x: *a}}", [], r"\*a stands within &a itself"),
    ("", [".".join("a" * 50) + "=1"], "has more than 32 parts"),
    ("", ["=3"], "a name is missing before the ="),
    ("", ["training.batch"], "is not a setting: write key=value"),
    ("", ["seed=" + "9" * 5000], "a number of 5000 digits"),
    ("simulator: {tasks: [" + "1, " * 500 + "]}", [], "... and 490 more"),
    ("x" * 500 + ": 1", [], "unknown key"),
]


@pytest.mark.parametrize(("text", "overrides", "words"), MISTAKES, ids=[repr(words)[:60] for _, _, words in MISTAKES])
def test_a_mistake_is_named_in_words(text: str, overrides: list[str], words: str, tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text(text)
    with pytest.raises(RecipeError, match=words) as raised:
        load_recipe(tmp_path / "recipe.yaml", overrides)
    assert len(str(raised.value)) < 2000


def test_mistakes_of_python_callers_are_named_in_words() -> None:
    loop: dict[str, Any] = {}
    loop["simulator"] = {"options": loop}
    wide: list[Any] = []
    wide += [wide] * 9
    for overrides, words in (
        (loop, "more than 32 levels"),
        ({"simulator.options.a": wide}, "more than 32 levels"),
        ({"simulator.options.a": 10**5000}, "a number of more than 100 digits"),
        ({"simulator.options.a": "\ud800"}, "half a character"),
        ({"simulator.options": {0: 1, "0": 2}}, "has the key 0 twice"),
        ({"simulator.options": {(1, 2): 3}}, "keys of a recipe are text"),
        ({"training.updates": 1, "training": {"updates": 2}}, "training.updates is set twice"),
        ({10**5000: 1}, "a key of the recipe is a number of more than 100 digits"),
        ({(10**5000,): 1}, "the recipe has the key a number of thousands of digits, and keys of a recipe are text"),
        (10**5000, "a number of thousands of digits is one setting where several may stand"),
        ([3], "a list of settings holds text"),
        ([10**5000], "a number of thousands of digits is not a setting"),
        (None, "is one setting where several may stand"),
    ):
        with pytest.raises(RecipeError, match=words):
            make_recipe({}, overrides)  # type: ignore[arg-type]


# What a reader expects


@pytest.mark.parametrize("section", [name for name, field in Recipe.model_fields.items() if any(map(is_section, alternatives(field.annotation)))])
def test_an_empty_section_is_a_section_with_its_defaults(section: str, tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text(f"{section}:\nseed: 3")
    assert load_recipe(tmp_path / "recipe.yaml") == make_recipe({section: {}, "seed": 3})


def test_nothing_is_nothing_where_no_section_stands(tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text("clone:\npolicy:\n  checkpoint:\n  options:\nsimulators:\nengine: {elastic: , generators: 2}")
    recipe = load_recipe(tmp_path / "recipe.yaml")
    assert recipe.clone is not None and recipe.engine.elastic is not None
    assert (recipe.policy.checkpoint, recipe.policy.options, recipe.simulators) == (None, {}, {})
    assert load_recipe(tmp_path / "recipe.yaml", ["clone=null"]).clone is None
    for nothing in ("", "# only a remark"):
        (tmp_path / "recipe.yaml").write_text(nothing)
        with pytest.raises(RecipeError, match="is empty: write at least one setting"):
            load_recipe(tmp_path / "recipe.yaml")
        assert load_recipe(tmp_path / "recipe.yaml", ["seed=0"]) == Recipe()


def test_a_number_is_a_number_wherever_it_stands(tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text("training: {learning_rate: 1e-3}\nsimulator: {options: {kwargs: {gain: 1e-3, steps: 1_000, time: 12:30:00}}}")
    recipe = load_recipe(tmp_path / "recipe.yaml", ["simulator.options.kwargs.low=-1e5", "clone.learning_rate=2E-4"])
    assert recipe.simulator.options == {"kwargs": {"gain": 1e-3, "steps": 1000, "time": "12:30:00", "low": -1e5}}
    assert recipe.training.learning_rate == 1e-3 and recipe.clone is not None and recipe.clone.learning_rate == 2e-4


def test_words_are_truth_values_where_such_a_setting_stands_and_text_where_text_does(tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text("engine: {record: no, trace: yes}\nsimulator: {tasks: [on, no, 'off'], options: {flag: 'no'}}")
    recipe = load_recipe(tmp_path / "recipe.yaml")
    assert (recipe.engine.record, recipe.engine.trace, recipe.simulator.tasks) == (False, True, ["on", "no", "off"])
    assert recipe.simulator.options == {"flag": "no"}


def test_the_home_folder_is_meant_by_its_sign(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    recipe = make_recipe({"policy": {"checkpoint": "~/policy"}, "clone": {"files": ["~/demos/*.hdf5", "a~b"]}})
    assert recipe.policy.checkpoint == tmp_path / "policy"
    assert recipe.clone is not None and recipe.clone.files == [f"{tmp_path}/demos/*.hdf5", "a~b"]


def test_no_recipe_and_a_folder_are_refused_in_words(tmp_path: Path) -> None:
    for path, words in (
        (tmp_path / "nothing.yaml", "no recipe at"),
        (tmp_path, "is a folder, and no recipe"),
        (Path("/dev/zero"), "is a device or a pipe, and no recipe"),
    ):
        with pytest.raises(RecipeError, match=words):
            load_recipe(path)
