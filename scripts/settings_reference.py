"""Writes docs/settings.md: `make settings`.

Types, limits and defaults come from the schema, and meanings from the strings under the fields (rlvla3/config/section.py says why they are read from the
source). No simulator needs to be installed.
"""

from __future__ import annotations

import ast
import inspect
import re
import sys
import textwrap
import types
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import yaml
from pydantic.fields import FieldInfo

from rlvla3.config import CORRECTION_NAMES, AlgorithmConfig, CorrectionConfig, EngineConfig, Mode, Recipe, Section
from rlvla3.config.plain_tree import DEPTH, VALUES
from rlvla3.config.section import LARGEST, LARGEST_FLOAT
from rlvla3.config.yaml_text import BYTES
from rlvla3.policies.options import FlowOptions
from rlvla3.policies.registry import POLICIES, options_class
from rlvla3.policies.vla.options import FlowVLAOptions, VLAOptions
from rlvla3.runtimes.virtual.costs import Cost, HostProfile, MemoryProfile, Profile
from rlvla3.simulators.gymnasium import GymnasiumOptions
from rlvla3.simulators.registry import simulator_class

INTRODUCTION = f"""\
# Settings

<!-- `make settings` makes this page from the code. To change it, change the strings under the fields. -->

A recipe is a YAML file with the settings that differ from their defaults. On the command line every setting can be
given as `key=value`, such as `rlvla3 train recipes/quickstart.yaml training.updates=10`. The value is YAML, and `null`
is YAML's word for no value. `rlvla3 check RECIPE` prints a recipe with all of its settings.

Unknown keys and values out of range are refused. `make settings` makes this page from the code.

## How a recipe is read

- A recipe is a UTF-8 file. It has at most {BYTES // 1024} KiB, {VALUES} values and {DEPTH} levels.
- Numbers are those of YAML 1.2: `1e-3` is 0.001 everywhere, also under `options`. `0x10` and `1_000` are numbers too.
  `12:30:00` and `2020-01-01` are text. `010` is refused: some programs take it for 8, others for 10.
- Keys are text, as they are written. A key that stands twice is refused. On the command line a setting may be repeated,
  and the last one counts.
- `yes`, `no`, `on` and `off` switch a setting that is `true` or `false`. Where a text is expected, they are text. Under
  `options` they are refused without quotes, as are `inf` and `nan`: write `true`, `.inf` or `"no"`.
- A section with nothing in it, such as `clone:` alone on a line, is a section with its defaults. To have none, write
  `clone: null`. Any other key with nothing behind it is `null`.
- Anchors, aliases and merges (`<<`) are read. Tags such as `!!set` are refused.
- In paths, `~` is your home folder.
- A number is finite, unless its entry here says that `.inf` is possible. An integer is at most {LARGEST}, and any
  other number at most {LARGEST_FLOAT}, unless its entry has another limit.
"""

WIDTH = 120

DEPENDING: Mapping[type[Section], tuple[str, Sequence[str], Mapping[str, Any]]] = {
    EngineConfig: ("mode", get_args(Mode), {}),
    AlgorithmConfig: ("advantage", get_args(AlgorithmConfig.model_fields["advantage"].annotation), {"group_size": 2}),
    CorrectionConfig: ("name", CORRECTION_NAMES, {}),
    FlowOptions: ("method", get_args(FlowOptions.model_fields["method"].annotation), {}),
}
"""Sections with defaults that depend on another of their keys: the key, its values, and what else these values need."""

SIMULATORS = ("metaworld", "libero", "maniskill", "robosuite", "robocasa")
"""In the order of docs/simulators.md."""

TYPES = {int: "integer", float: "number", bool: "`true` or `false`", str: "string", Path: "path", Any: "anything"}


def page() -> str:
    """The whole page."""
    parts = [INTRODUCTION, *section(Recipe, "", "Recipe"), *profile()]
    return "\n".join(parts).rstrip() + "\n"


def profile() -> Iterator[str]:
    """The part about profiles. A cost and its fields stand there once."""
    yield from wrapped(
        "A profile is a YAML file of its own. `rlvla3 profile RECIPE` makes one, and `rlvla3 rehearse` and `rlvla3 plan` read it. See docs/planning.md.",
        heading="## Profile",
    )
    yield from entries(Profile, "")
    schemas: dict[str, type[Section]] = {"Costs": Cost, "`host` of a profile": HostProfile, "`memory` of a profile": MemoryProfile}
    for name, schema in schemas.items():
        yield from wrapped(about(schema), heading=f"### {name}")
        yield from entries(schema, "")


def section(schema: type[Section], key: str, title: str = "") -> Iterator[str]:
    """A section and the sections in it. key: where it stands in the recipe, "" for the recipe itself."""
    yield from wrapped(about(schema), heading=f"##{'#' * key.count('.')} {title or f'`{key}`'}")
    inner = {name: part for name, field in schema.model_fields.items() if (part := section_of(field.annotation)) and not is_mapping(field.annotation)}
    first = {part: name for name, part in reversed(inner.items())}
    alike = {part: f"`{key}.{first[part]}`" for part, count in Counter(inner.values()).items() if count > 1}
    yield from entries(schema, key, elsewhere=alike)
    for name, part in inner.items():
        if first[part] == name:  # other keys with the same settings refer to it
            yield from section(part, f"{key}.{name}" if key else name)
    match key:
        case "simulator":
            told: dict[type[Section], str] = {}
            for name in SIMULATORS:
                yield from options(f"Options of simulator {name}", simulator_class(name).Options, "simulator.options", told)
            yield from options("Options of Gymnasium environments", GymnasiumOptions, "simulator.options", told)
        case "policy":
            yield from policies()


def policies() -> Iterator[str]:
    """The options of all policies. What several of them have stands once, and the others refer to it."""
    told: dict[type[Section], str] = {}
    pretrained = [name for name in POLICIES if issubclass(options_class(name), VLAOptions)]
    for name in [name for name in POLICIES if name not in pretrained]:
        yield from options(f"Options of policy {name}", options_class(name), "policy.options", told, of=f" of {name}")
    yield from options("Options of all pretrained policies", VLAOptions, "policy.options", told)
    yield from options("Options of pretrained policies that denoise", FlowVLAOptions, "policy.options", told, of=" of pretrained policies")
    for name in pretrained:
        yield from options(f"Options of policy {name}", options_class(name), "policy.options", told, of=f" of {name}")


def options(title: str, schema: type[Section], key: str, told: dict[type[Section], str], of: str = "") -> Iterator[str]:
    """The options of a simulator or a policy, and the sections in them.

    told: from each section that has been printed to its title. of: whose section it is, as words behind the titles of inner sections.
    """
    told[schema] = title
    yield from wrapped(about(schema), heading=f"### {title}")
    here: dict[str, type[Section]] = {}
    for name in fields(schema, told):
        if (inner := section_of(schema.model_fields[name].annotation)) is not None and inner not in told:
            told[inner], here[name] = f"`{key}.{name}`{of}", inner
    elsewhere = {inner: title for inner, title in told.items() if inner not in here.values()}
    yield from entries(schema, key, told, elsewhere)
    if (base := next((base for base in schema.__mro__[1:] if base in told), None)) is not None:
        yield from (f"All other settings: {reference(told[base])}.", "")
    for name, inner in here.items():
        yield from options(told[inner], inner, f"{key}.{name}", told, of)


def fields(schema: type[Section], told: Mapping[type[Section], str]) -> list[str]:
    """The names of a section's keys, without those that it has from a section that has been printed."""
    bases = [base for base in schema.__mro__ if base is schema or (issubclass(base, Section) and base not in told)]
    return [name for name in schema.model_fields if any(name in base.__annotations__ for base in bases)]


def reference(title: str) -> str:
    """A link to the part of this page with this title, by the anchor that GitHub makes of it."""
    return f"[{title}](#{re.sub(r'[^a-z0-9_ -]', '', title.lower()).replace(' ', '-')})"


def entries(
    schema: type[Section], key: str, told: Mapping[type[Section], str] | None = None, elsewhere: Mapping[type[Section], str] | None = None
) -> Iterator[str]:
    """The list of a section's keys. told: see `options`. elsewhere: those of them that do not stand below. Raises ValueError if a key has no meaning."""
    known = meanings(schema)
    for name in fields(schema, told or {}):
        field = schema.model_fields[name]
        inner = section_of(field.annotation)
        if name not in known and inner is None:
            raise ValueError(f"{schema.__name__}.{name} has no meaning: write a string under the field")
        if inner is not None and inner is not Cost and not known.get(name):
            known[name] = about(inner).partition("\n\n")[0]
        default = default_of(schema, name, field)
        words = f"- **`{key + '.' if key else ''}{name}`** ({type_of(field.annotation, field.metadata)}{'; ' + default if default else ''}). {known[name]}"
        if inner is not None and elsewhere and inner in elsewhere:
            words += f" Its settings: {reference(elsewhere[inner])}."
        yield from textwrap.wrap(linked(words), WIDTH, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False)
    yield ""


def wrapped(text: str, heading: str) -> Iterator[str]:
    yield from (heading, "")
    for paragraph in text.split("\n\n"):
        yield from (*textwrap.wrap(linked(paragraph), WIDTH, break_long_words=False, break_on_hyphens=False), "")


def linked(text: str) -> str:
    """The text with links to the pages that it names."""
    return re.sub(r"\bdocs/(\w+\.md)", r"[\1](\1)", text)


# Meanings


def meanings(schema: type[Section]) -> dict[str, str]:
    """The strings under the fields of a section, those of the classes it extends included."""
    found: dict[str, str] = {}
    for base in reversed(schema.__mro__):
        if issubclass(base, Section):
            (tree,) = ast.parse(textwrap.dedent(inspect.getsource(base))).body
            assert isinstance(tree, ast.ClassDef)
            found |= strings_under_fields(tree)
    return found


def strings_under_fields(tree: ast.ClassDef) -> dict[str, str]:
    """From each field of a class to the string under it, in one line."""
    return {
        statement.target.id: " ".join(following.value.value.split())
        for statement, following in pairwise(tree.body)
        if isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name)
        if isinstance(following, ast.Expr) and isinstance(following.value, ast.Constant) and isinstance(following.value.value, str)
    }


def about(schema: type[Section]) -> str:
    """What a section is, in paragraphs of one line."""
    return "\n\n".join(" ".join(paragraph.split()) for paragraph in inspect.cleandoc(schema.__doc__ or "").split("\n\n"))


# Types, limits and defaults


def type_of(annotation: Any, metadata: Sequence[Any] = ()) -> str:
    """What may stand at a key, in words. metadata: its limits."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        inner, *extra = arguments
        return type_of(inner, [*metadata, *(limit for info in extra for limit in (info.metadata if isinstance(info, FieldInfo) else [info]))])
    if origin in (Union, types.UnionType):
        words = [type_of(kind, metadata) for kind in arguments if kind is not types.NoneType] + ["`null`"] * (types.NoneType in arguments)
        return (", or " if any("," in word for word in words) else " or ").join(words)
    if origin is Literal:
        return choices([str(choice) for choice in arguments])
    if (schema := section_of(annotation)) is not None:
        return "mapping from a name to a section" if is_mapping(annotation) else "cost" if schema is Cost else "section"
    if origin is list:
        least = next((limit.min_length for limit in metadata if hasattr(limit, "min_length")), 0)
        return f"list of {f'{least} or more ' if least else ''}{plural(arguments[0])}"
    if origin is tuple:
        return f"pair of {plural(arguments[0])}"
    if origin is dict:
        return "mapping" if arguments[1] is Any else f"mapping from {type_of(arguments[0])} to {type_of(arguments[1])}"
    return TYPES[annotation] + limits(metadata, whole=annotation is int)


def plural(item: Any) -> str:
    """What several items are called."""
    words = type_of(item)
    kind, _, rest = words.partition(" ")
    return f"{kind}s {rest}".rstrip() if kind in ("integer", "number", "string") else words


def limits(metadata: Sequence[Any], whole: bool) -> str:
    """Limits in words, such as " from 0 to 1". whole: of integers."""
    found = {name: getattr(limit, name) for limit in metadata for name in ("gt", "ge", "lt", "le", "multiple_of") if hasattr(limit, name)}
    if found.get("le") in (LARGEST, LARGEST_FLOAT):  # the page says so once
        found.pop("le")
    if whole and "gt" in found:
        found["ge"] = found.pop("gt") + 1
    if {"ge", "le"} <= found.keys():
        said = [f" from {found['ge']} to {found['le']}"]
    else:
        words = {"gt": " above {}", "ge": ", {} or more", "lt": ", below {}", "le": ", at most {}"}
        said = [words[name].format(found[name]) for name in words if name in found]
    if "multiple_of" in found:
        said.append(f", a multiple of {found['multiple_of']}")
    if any(getattr(limit, "allow_inf_nan", False) for limit in metadata):
        said.append(", or `.inf`")
    return "".join(said)


def default_of(schema: type[Section], name: str, field: FieldInfo) -> str:
    """The default in words, "" for a section that is always there."""
    if not field.is_required():
        default = field.get_default(call_default_factory=True)
        if isinstance(default, Cost):
            return "default no cost"
        if isinstance(default, Section):
            return f"default {value(changed)}" if (changed := differences(default)) else ""
        return "" if section_of(field.annotation) and default == {} else f"default {value(default)}"
    if schema not in DEPENDING:
        return "" if section_of(field.annotation) else "required"
    key, choices_of_key, also = DEPENDING[schema]
    found: dict[str, list[str]] = {}
    for choice in choices_of_key:
        default = getattr(schema.model_validate({key: choice, **also}), name)
        found.setdefault(value(default), []).append(choice)
    return "default " + ", ".join(f"{default} with {choices(names)}" for default, names in found.items())


def differences(section: Section) -> dict[str, Any]:
    """The settings of a default section that differ from those that its own class has by default. Those that depend on others are not among them."""
    if issubclass(type(section), tuple(DEPENDING)):
        return {}
    own = {name: field.get_default(call_default_factory=True) for name, field in type(section).model_fields.items() if not field.is_required()}
    return {name: given for name, given in section.model_dump(mode="json").items() if name in section.model_fields_set and given != own.get(name)}


def choices(names: Sequence[str]) -> str:
    *most, last = [f"`{name}`" for name in names]
    return f"{', '.join(most)} or {last}" if most else last


def value(default: Any) -> str:
    """A value as it stands in a recipe."""
    if isinstance(default, float):
        return f"`{default:g}`" if abs(default) < 1e6 else f"`{default:.4g}`".replace("e+", "e")
    if isinstance(default, list | tuple) and len(default) > 8:
        return f"`[{default[0]:g}, {default[1]:g}, ..., {default[-1]:g}]`"
    if default == "":
        return "empty"
    plain = list(default) if isinstance(default, tuple) else default
    return f"`{yaml.safe_dump(plain, default_flow_style=True, width=1000).removesuffix('...' + chr(10)).strip()}`"


def section_of(annotation: Any) -> type[Section] | None:
    """The section that a key holds, itself or as the values of a mapping."""
    if isinstance(annotation, type) and issubclass(annotation, Section):
        return annotation
    return next((found for argument in get_args(annotation) if (found := section_of(argument))), None)


def is_mapping(annotation: Any) -> bool:
    return get_origin(annotation) is dict


if __name__ == "__main__":
    sys.stdout.write(page())
