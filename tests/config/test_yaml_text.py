"""YAML as recipes are written in it: what each scalar means, what is refused and where, and that everything is read back as it was written."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import example, given
from hypothesis import strategies as st

from rlvla3.config import yaml_text
from rlvla3.config.plain_tree import DEPTH, VALUES, Word
from rlvla3.config.yaml_text import BYTES, YamlProblem, parse_yaml, read_yaml, yaml_of
from rlvla3.errors import RecipeError

SCALARS: dict[str, Any] = {
    "1e-3": 1e-3,
    "1E5": 1e5,
    "1.5e+3": 1500.0,
    "-.5": -0.5,
    "+.5e1": 5.0,
    "2.": 2.0,
    "1e0": 1.0,
    "0.0": 0.0,
    "-0.0": -0.0,
    "0": 0,
    "-7": -7,
    "+7": 7,
    "0x10": 16,
    "0o10": 8,
    "0b101": 5,
    "1_000": 1000,
    "1_0.5": 10.5,
    "9" * 99: int("9" * 99),
    ".inf": math.inf,
    "-.INF": -math.inf,
    "+.Inf": math.inf,
    "~": None,
    "null": None,
    "NULL": None,
    "true": True,
    "False": False,
    **{word: word for word in ("12:30:00", "3:1", "2020-01-01", "1__0", "_1", "1e", "e5", "0x", "1.2.3", "1,5", "5%", "y", "N", "none", "=", "nil", "trUe")},
    "'1e-3'": "1e-3",
    '"no"': "no",
    "'010'": "010",
    "!!str 1e-3": "1e-3",
    "'~'": "~",
    "! 5": "5",
    **{word: Word(word) for word in ("yes", "NO", "on", "Off", "None", "inf", "-Infinity", "nan")},
    "": Word(""),
}


@pytest.mark.parametrize("text", SCALARS)
def test_a_scalar_is_what_yaml_1_2_says(text: str) -> None:
    expected = SCALARS[text]
    found = [parse_yaml(f"a: {text}")["a"], *([parse_yaml(f"a: [{text}, 1]")["a"][0]] if text and "," not in text else [])]
    for value in found:
        assert (type(value), repr(value)) == (type(expected), repr(expected))


def test_not_a_number_is_one_word() -> None:
    assert all(math.isnan(parse_yaml(text)) for text in (".nan", ".NaN", ".NAN"))


REFUSED = {
    "a: 1\nb: 2\na: 3": (3, "a is set twice, in line 1 too"),
    "a: {b: {c: 1, c: 1}}": (1, "a.b.c is set twice"),
    "a: [1, {b: 1, 'b': 2}]": (1, "a.b is set twice"),
    "a:\n  b: 1\n  'b': 2": (3, "a.b is set twice, in line 2"),
    "1: a\n'1': b": (2, "1 is set twice"),
    "a: 010": (1, "take 010 for the number 10"),
    "a: -007": (1, "in quotes if it is text"),
    "a: 00": (1, "for the number 0"),
    "a: 1e400": (1, "1e400 is too large"),
    "a: -1e400": (1, "too large"),
    "a: 1e-400": (1, "1e-400 is too small"),
    "a: " + "9" * 5000: (1, "a number of 5000 digits, and a number has at most 100"),
    "a: 0x" + "f" * 5000: (1, "digits"),
    "a: 0." + "1" * 200: (1, "digits"),
    "a: &a [*a]": (1, "*a stands within &a itself"),
    "a: &a {b: [*a]}": (1, "*a stands within &a itself"),
    "a: *nowhere": (1, "none above"),
    "a: " + "[" * 100 + "]" * 100: (1, f"more than {DEPTH} levels"),
    "a: " + "[" * 100_000: (1, f"more than {DEPTH} levels"),
    "{a: " * 50 + "1" + "}" * 50: (1, f"more than {DEPTH} levels"),
    "a: &a [[[[[[[[[[[[[[[[[[1]]]]]]]]]]]]]]]]]]\nb: [[[[[[[[[[[[[[*a]]]]]]]]]]]]]]": (2, f"more than {DEPTH} levels"),
    "a: &a [" + "1, " * 5000 + "]\nb: [*a, *a, *a, *a]": (2, f"more than {VALUES} values"),
    "[" + "1," * VALUES + "]": (1, f"more than {VALUES} values"),
    "a: !!python/object/apply:os.getcwd []": (1, "is a tag"),
    "a: !!binary aaaa": (1, "!!binary is a tag"),
    "a: !!set {b}": (1, "!!set is a tag"),
    "a: !!timestamp 2020-01-01": (1, "is a tag"),
    "a: !!int abc": (1, "!!int is a tag"),
    "a: !mine 1": (1, "!mine is a tag"),
    "? [a, b]\n: c": (1, "a key is text"),
    "? {a: b}\n: c": (1, "a key is text"),
    "a: &a b\n*a : c": (2, "a key is text"),
    "a: 1\n---\nb: 2": (2, "a second document"),
    "<<: 3": (1, "<< takes a mapping"),
    "a: {<<: [1]}": (1, "<< takes a mapping"),
    "\tx: 1": (1, "indented by a tab"),
    "a: b: c": (1, "not YAML"),
    "a: [1": (2, "not YAML"),
    "a: 'b": (2, "not YAML"),
    "%YAML 9.9\n---\na: 1": (1, "not YAML"),
    "a: @b": (1, "not YAML"),
    "a: \x01": (0, "not YAML"),
}
LAUGHS = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "\n".join(f"{b}: &{b} [{', '.join([f'*{a}'] * 9)}]" for a, b in zip("abcdefgh", "bcdefghi", strict=True))


@pytest.mark.parametrize("text", [*REFUSED, LAUGHS], ids=lambda text: repr(text[:30]))
def test_what_is_refused_is_named_with_its_line(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    line, words = REFUSED.get(text, (5, "values"))
    with pytest.raises(YamlProblem) as raised:
        parse_yaml(text)
    assert words in raised.value.words and (raised.value.line == line or "not YAML" in words)
    assert len(raised.value.words) < 300
    monkeypatch.setattr(yaml_text, "LOADER", yaml.SafeLoader)  # where PyYAML was installed without libyaml
    with pytest.raises(YamlProblem):
        parse_yaml(text)


def test_aliases_and_merges_are_copies() -> None:
    tree = parse_yaml("a: &a {x: [1], y: 2}\nb: {<<: *a, x: 3}\nc: {x: 3, <<: [*a, {z: 4}]}\nd: *a\n'<<': 5")
    assert tree == {"a": {"x": [1], "y": 2}, "b": {"x": 3, "y": 2}, "c": {"x": 3, "y": 2, "z": 4}, "d": {"x": [1], "y": 2}, "<<": 5}
    assert tree["d"]["x"] is not tree["a"]["x"]


def test_keys_are_text_as_they_are_written() -> None:
    assert parse_yaml("{1: a, on: b, 1e-3: c, ~: d, 0x10: e, 010: f}") == {"1": "a", "on": "b", "1e-3": "c", "~": "d", "0x10": "e", "010": "f"}


texts = st.text(st.characters(exclude_categories=["Cs"])) | st.sampled_from([text for text in SCALARS if text[:1] not in "'\"!"])
numbers = st.integers(-(10**99), 10**99) | st.floats(allow_nan=False)
trees = st.recursive(
    st.none() | st.booleans() | numbers | texts, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4), max_leaves=20
)


@given(st.dictionaries(texts, trees, max_size=4))
@example({"a": "\x85\u2028\ufeff\x00\x1b\ud7ff🤖", "b " * 200: " " + "x " * 300 + "\n"})
@example({"a": [1e-320, 1e22, -0.0, 1e308, "-", "- a", "#", "a: b", "a #b", "? a", "[", "&a", "*a", "!a", "%", "@", "`"]})
def test_what_is_written_is_read_back(tree: dict[str, Any]) -> None:
    text = yaml_of(tree)
    assert repr(parse_yaml(text)) == repr(tree)
    assert text.isascii()
    assert str(yaml.safe_load(text)) == str(tree) or any(word in text for word in ("inf", "e+", "e-", "=")), "other readers should agree"


FILES: dict[str, tuple[bytes, str]] = {
    "utf-16": ("a: 1".encode("utf-16"), "is UTF-16 text, and a recipe is UTF-8"),
    "utf-16-be": (b"\xfe\xff" + "a: 1".encode("utf-16-be"), "UTF-16"),
    "utf-32": ("a: 1".encode("utf-32"), "UTF-32"),
    "no mark": ("a: 1".encode("utf-16-le"), "bytes that are 0"),
    "latin-1": (b"a: 1\nb: caf\xe9", "line 2: the byte 0xe9 is not UTF-8"),
    "cut": (b"a: \xf0\x9f\xa4", "is not UTF-8"),
    "too large": (b"# " + b"x" * BYTES, f"more than {BYTES} bytes"),
}


@pytest.mark.parametrize("name", FILES)
def test_a_file_that_is_no_utf_8_is_refused_in_words(name: str, tmp_path: Path) -> None:
    data, words = FILES[name]
    (tmp_path / "recipe.yaml").write_bytes(data)
    with pytest.raises(RecipeError, match=words):
        read_yaml(tmp_path / "recipe.yaml", "recipe", "give the path of a YAML file")


def test_a_byte_order_mark_of_utf_8_is_read(tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_bytes("a: é".encode("utf-8-sig"))
    assert read_yaml(tmp_path / "recipe.yaml", "recipe", "give the path of a YAML file") == {"a": "é"}


@pytest.mark.parametrize(("text", "line"), [("a:\n\tb: 1", 2), ("a:\n  b: 1\n\tc: 2", 3), ("a:\n  - x\n \t- y", 3)])
def test_a_tab_in_front_of_a_line_is_named(text: str, line: int) -> None:
    with pytest.raises(YamlProblem, match="indented by a tab, and YAML takes only spaces") as refused:
        parse_yaml(text)
    assert refused.value.line == line
