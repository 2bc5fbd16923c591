"""YAML as recipes are written in it: the scalars of YAML 1.2, no key twice, no tags, and limits for all sizes.

Most readers in Python follow YAML 1.1, where 1e-3 is text, 010 is 8, 12:30 is 750, and on is true. A user means 1e-3 as a number and 12:30 as text. Words that
mean something else to another reader are kept as `Word`s: who knows what a setting is (loading.py) says what they mean.

Keys are text, as they are written. Anchors, aliases and merges (<<) are read.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from rlvla3.config.plain_tree import DEPTH, DIGITS, VALUES, Word
from rlvla3.errors import RecipeError

BYTES = 2**19
"""Size of a file."""

NULLS = {"~", "null", "Null", "NULL"}
TRUTHS = {"true": True, "True": True, "TRUE": True, "false": False, "False": False, "FALSE": False}
INTEGER = re.compile(r"[-+]?(0|[1-9][0-9]*(_[0-9]+)*|0x[0-9a-fA-F]+|0o[0-7]+|0b[01]+)")
FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(_[0-9]+)*(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
LEADING_ZERO = re.compile(r"[-+]?0[0-9_]+")
NOT_FINITE = {sign + word: float(sign + word[1:]) for sign in ("", "+", "-") for word in (".inf", ".Inf", ".INF")} | dict.fromkeys(
    (".nan", ".NaN", ".NAN"), float("nan")
)
WORDS = re.compile(r"|yes|Yes|YES|no|No|NO|on|On|ON|off|Off|OFF|None|[-+]?(inf|Inf|INF|infinity|Infinity)|nan|NaN|NAN")
"""What `Word` stands for. The first is nothing at all: what stands after a key with nothing behind it."""

STR, MAP, SEQ = ("tag:yaml.org,2002:" + kind for kind in ("str", "map", "seq"))
LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


MERGE = Word("<<")
"""The key of a merge. In quotes, << is a key like any other."""


class YamlProblem(Exception):
    """What is wrong with a text, in words. line: where, counted from 1; 0 where it is not known."""

    def __init__(self, words: str, line: int = 0) -> None:
        super().__init__(words)
        self.words, self.line = words, line


def read_yaml(path: Path, what: str, example: str) -> Any:
    """The tree in a file. what: "recipe", for messages. example: what to give instead of a file that is not there. Raises RecipeError."""
    try:
        if path.is_dir():
            raise RecipeError(f"{path} is a folder, and no {what}: {example}")
        if not path.is_file():
            raise RecipeError(f"{path} is a device or a pipe, and no {what}: {example}" if path.exists() else f"no {what} at {path}: {example}")
        with path.open("rb") as file:
            data = file.read(BYTES + 1)
    except OSError as error:
        raise RecipeError(f"{path} cannot be read: {error.strerror}. {example[0].upper()}{example[1:]}") from error
    if len(data) > BYTES:
        raise RecipeError(f"{path} has more than {BYTES} bytes, the most of a {what}: {example}")
    try:
        return parse_yaml(_decoded(data))
    except YamlProblem as problem:
        line = f", line {problem.line}" if problem.line else ""
        raise RecipeError(f"{path}{line}: {problem.words}") from problem


def parse_yaml(text: str) -> Any:
    """The tree that `text` stands for; an empty Word where there is nothing. Raises YamlProblem."""
    try:
        return _Builder().tree(yaml.parse(text, Loader=LOADER))
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        words = ", ".join(part for part in (error.context, error.problem) if part)
        if mark and _is_indented_by_a_tab(text, mark.line):
            words = "this line is indented by a tab, and YAML takes only spaces: write spaces instead"
            raise YamlProblem(words, mark.line + 1) from error
        raise YamlProblem(f"this is not YAML: {words}", mark.line + 1 if mark else 0) from error
    except (yaml.YAMLError, UnicodeEncodeError) as error:
        raise YamlProblem(f"this is not YAML: {' '.join(str(error).split())}") from error


def _is_indented_by_a_tab(text: str, number: int) -> bool:
    lines = text.splitlines()[number : number + 1]
    return any("\t" in line[: len(line) - len(line.lstrip())] for line in lines)


def yaml_of(tree: Mapping[str, Any]) -> str:
    """`tree` as text that `parse_yaml` reads back unchanged, and other readers of YAML too."""
    text: str = yaml.dump(tree, Dumper=_Dumper, sort_keys=False)
    return text


def _decoded(data: bytes) -> str:
    """Raises YamlProblem where it is not UTF-8."""
    for start, name in ((codecs.BOM_UTF32_LE, "UTF-32"), (codecs.BOM_UTF16_LE, "UTF-16"), (codecs.BOM_UTF16_BE, "UTF-16"), (codecs.BOM_UTF32_BE, "UTF-32")):
        if data.startswith(start):
            raise YamlProblem(f"this is {name} text, and a recipe is UTF-8: save it as UTF-8 (in PowerShell: Out-File -Encoding utf8)")
    if b"\0" in data:
        raise YamlProblem("this is no text, or no UTF-8: it holds bytes that are 0. Save it as UTF-8", data[: data.index(b"\0")].count(b"\n") + 1)
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        words = f"the byte 0x{data[error.start]:02x} is not UTF-8: save the file as UTF-8"
        raise YamlProblem(words, data[: error.start].count(b"\n") + 1) from error


class _Open:
    """A mapping or list whose end has not been read. key: of the value that comes next, in a mapping."""

    def __init__(self, value: Any, anchor: str | None) -> None:
        self.value, self.anchor = value, anchor
        self.key: str | None = None
        self.lines: dict[str, int] = {}
        self.merged: list[dict[str, Any]] = []


class _Builder:
    """From events to a tree, without recursion. It counts depth and values as it goes, so a text that is too large is left early."""

    def __init__(self) -> None:
        self._open: list[_Open] = [_Open([], None)]
        self._anchors: dict[str, Any] = {}
        self._values = 0

    def tree(self, events: Iterator[Any]) -> Any:
        documents = 0
        for event in events:
            line = event.start_mark.line + 1
            match event:
                case yaml.DocumentStartEvent():
                    documents += 1
                    if documents > 1:
                        raise YamlProblem("a second document begins here (---): keep one", line)
                case yaml.MappingStartEvent() | yaml.SequenceStartEvent():
                    self._begin(event, line)
                case yaml.MappingEndEvent() | yaml.SequenceEndEvent():
                    self._end(line)
                case yaml.ScalarEvent():
                    self._scalar(event, line)
                case yaml.AliasEvent():
                    self._alias(str(event.anchor), line)
        return self._open[0].value[0] if documents else Word()

    def _begin(self, event: Any, line: int) -> None:
        mapping = isinstance(event, yaml.MappingStartEvent)
        if event.tag not in (None, "!", MAP if mapping else SEQ):
            raise _tagged(event.tag, line)
        if self._wants_key:
            raise YamlProblem("a key is text, and this is a mapping or a list", line)
        if len(self._open) > DEPTH:
            raise YamlProblem(f"this is more than {DEPTH} levels deep, the most of a recipe", line)
        self._count(1, line)
        self._open.append(_Open({} if mapping else [], event.anchor))
        if event.anchor:
            self._anchors[event.anchor] = None  # until its end an alias would stand within itself

    def _end(self, line: int) -> None:
        ended = self._open.pop()
        for mapping in ended.merged:
            ended.value = {**ended.value, **{key: _copy(value) for key, value in mapping.items() if key not in ended.value}}
        self._put(ended.value, ended.anchor, line)

    def _scalar(self, event: Any, line: int) -> None:
        if event.tag not in (None, "!", STR):
            raise _tagged(event.tag, line)
        if self._wants_key:
            self._key(event.value, event.implicit[0] and event.value == "<<", line)
            return
        self._count(1, line)
        self._put(_resolved(event.value, line) if event.implicit[0] and event.tag is None else event.value, event.anchor, line)

    def _alias(self, anchor: str, line: int) -> None:
        if self._wants_key:
            raise YamlProblem(f"a key is text, and this is *{anchor}", line)
        if anchor not in self._anchors:
            raise YamlProblem(f"*{anchor} stands for &{anchor}, and there is none above", line)
        value = self._anchors[anchor]
        if value is None:
            raise YamlProblem(f"*{anchor} stands within &{anchor} itself", line)
        values, depth = _measured(value[0])
        if len(self._open) + depth > DEPTH + 1:
            raise YamlProblem(f"*{anchor} makes this more than {DEPTH} levels deep, the most of a recipe", line)
        self._count(values, line)
        self._put(_copy(value[0]), None, line)

    @property
    def _wants_key(self) -> bool:
        return isinstance(self._open[-1].value, dict) and self._open[-1].key is None

    def _key(self, key: str, merge: bool, line: int) -> None:
        here = self._open[-1]
        if key in here.lines and not merge:
            where = ".".join([*(outer.key for outer in self._open[:-1] if outer.key is not None), key])
            raise YamlProblem(f"{where} is set twice, in line {here.lines[key]} too: keep one of the two", line)
        here.key = MERGE if merge else key
        if not merge:
            here.lines[key] = line

    def _put(self, value: Any, anchor: str | None, line: int) -> None:
        if anchor:
            self._anchors[anchor] = (value,)
        here = self._open[-1]
        if isinstance(here.value, list):
            here.value.append(value)
        elif here.key is MERGE:
            here.merged += value if isinstance(value, list) else [value]
            if not all(isinstance(mapping, dict) for mapping in here.merged):
                raise YamlProblem("<< takes a mapping, or a list of mappings", line)
        else:
            assert here.key is not None
            here.value[here.key] = value
        here.key = None

    def _count(self, values: int, line: int) -> None:
        self._values += values
        if self._values > VALUES:
            raise YamlProblem(f"there are more than {VALUES} values here, the most of a recipe", line)


def _tagged(tag: str, line: int) -> YamlProblem:
    return YamlProblem(f"{tag.replace('tag:yaml.org,2002:', '!!')[:60]} is a tag, and a recipe has none: write the value without it", line)


def _copy(value: Any) -> Any:
    """Of a tree that is known to be small enough."""
    if isinstance(value, dict):
        return {key: _copy(part) for key, part in value.items()}
    return [_copy(part) for part in value] if isinstance(value, list) else value


def _measured(value: Any) -> tuple[int, int]:
    """How many values a tree has, and how many levels."""
    if not isinstance(value, (dict, list)):
        return 1, 0
    parts = [_measured(part) for part in (value.values() if isinstance(value, dict) else value)]
    return 1 + sum(values for values, _ in parts), 1 + max((depth for _, depth in parts), default=0)


def _resolved(text: str, line: int) -> Any:
    """What a scalar without quotes stands for."""
    if WORDS.fullmatch(text):
        return Word(text)
    if text in NULLS:
        return None
    if text in TRUTHS:
        return TRUTHS[text]
    if text in NOT_FINITE:
        return NOT_FINITE[text]
    if LEADING_ZERO.fullmatch(text):
        raise YamlProblem(
            f"some readers of YAML take {text[:40]} for the number {text[:40].lstrip('-+0') or 0}, others for an octal one: write it in "
            f"quotes if it is text, or without the first 0 if it is a number",
            line,
        )
    whole = INTEGER.fullmatch(text)
    if not whole and not FLOAT.fullmatch(text):
        return text
    if len(text.lstrip("-+")) > DIGITS:
        raise YamlProblem(f"{text[:20]}... is a number of {len(text)} digits, and a number has at most {DIGITS}", line)
    if whole:
        return int(text, 0)
    number = float(text)
    if number in (float("inf"), -float("inf")):
        raise YamlProblem(f"{text} is too large for a number: the largest is 1.79e308, and .inf is infinity", line)
    if number == 0 and any(digit in "123456789" for digit in re.split("[eE]", text)[0]):
        raise YamlProblem(f"{text} is too small for a number: the smallest above 0 is 5e-324", line)
    return number


class _Dumper(getattr(yaml, "CSafeDumper", yaml.SafeDumper)):  # type: ignore[misc]  # either is a SafeDumper
    """Puts text into quotes where any reader of YAML would take it for something else."""

    def ignore_aliases(self, data: object) -> bool:
        return True


_Dumper.add_implicit_resolver("!other", re.compile(f"(?:{'|'.join(pattern.pattern for pattern in (WORDS, LEADING_ZERO, INTEGER, FLOAT))})$"), None)
