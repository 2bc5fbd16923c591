"""Rules of the source: sizes of files and functions, and how tests are laid out."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

from tests.support.repository import ROOT

MOST_LINES, MOST_LINES_OF_A_FUNCTION = 400, 60

SOURCE = sorted(path for folder in ("rlvla3", "tests") for path in (ROOT / folder).rglob("*.py"))
TESTS = ROOT / "tests"


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


def long_functions(source: str, most: int) -> list[str]:
    """Functions of more than `most` lines, decorators included."""
    functions = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    lines = {node.name: (node.end_lineno or 0) - min([node.lineno, *(part.lineno for part in node.decorator_list)]) + 1 for node in functions}
    return [f"{name}: {count}" for name, count in lines.items() if count > most]


def imported(source: str) -> Iterator[str]:
    """Modules that a file imports, and all that `from` takes from them: either may be a module."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def named(source: str) -> Iterator[str]:
    """Modules of tests that a file names in strings, as recipes and processes do: module:Class."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield from re.findall(r"\btests(?:\.\w+)+(?=:\w)", node.value)


def is_of_a_test_module(name: str) -> bool:
    return name.startswith("tests.") and re.search(r"\.(test_\w+|conftest)\b", name) is not None


def test_no_file_and_no_function_is_too_long():
    """Divide a file by what its parts are about."""
    lines = {name_of(path): len(path.read_text().splitlines()) for path in SOURCE}
    assert {name: count for name, count in lines.items() if count > MOST_LINES} == {}
    functions = {name_of(path): long_functions(path.read_text(), MOST_LINES_OF_A_FUNCTION) for path in SOURCE}
    assert {name: found for name, found in functions.items() if found} == {}


def test_no_test_module_uses_another_one():
    """What several of them need stands in tests/support/."""
    uses = {}
    for path in SOURCE:
        own, source = name_of(path).removesuffix(".py").replace("/", "."), path.read_text()
        used = [*imported(source), *(name for name in named(source) if name != own)]
        uses[name_of(path)] = [name for name in used if is_of_a_test_module(name)]
    assert {name: used for name, used in uses.items() if used} == {}


def test_the_folders_of_tests_are_the_packages_of_rlvla3():
    folders = {path.parent.relative_to(TESTS) for path in TESTS.rglob("*.py")} - {Path("support")}
    packages = {path.parent.relative_to(ROOT / "rlvla3") for path in (ROOT / "rlvla3").rglob("*.py")}
    assert folders <= packages
    assert all((TESTS / folder / "__init__.py").is_file() for folder in folders)


def test_a_rule_that_is_broken_is_found():
    body = "".join(f"    x = {number}\n" for number in range(59))
    assert not long_functions(f"def short():\n{body}", 60)
    assert long_functions(f"def long():\n{body}    x = 59\n", 60) == ["long: 61"]
    assert long_functions(f"class A:\n    @property\n    async def long(self):\n{body.replace('    x', '        x')}", 60) == ["long: 61"]
    # The last one in two parts: it would be found in this file.
    source = 'from tests.links import test_rollouts\nimport tests.test_cli\nfrom tests.support import tiny\nbody = "tests.runtimes.test_local' + ':say"\n'
    assert list(filter(is_of_a_test_module, imported(source))) == ["tests.links.test_rollouts", "tests.test_cli"]
    assert list(filter(is_of_a_test_module, named(source))) == ["tests.runtimes.test_local"]


def lost_paths(source: str) -> list[int]:
    """The lines on which a program may not find what its caller finds: another PYTHONPATH, or another folder, without `python_path()`."""
    nodes = list(ast.walk(ast.parse(source)))
    pairs = [pair for node in nodes if isinstance(node, ast.Dict) for pair in zip(node.keys, node.values, strict=True)]
    replaced = [value for key, value in pairs if isinstance(key, ast.Constant) and key.value == "PYTHONPATH" and ast.unparse(value) != "python_path()"]
    calls = [node for node in nodes if isinstance(node, ast.Call) and ast.unparse(node.func) in ("subprocess.run", "subprocess.Popen")]
    settings = [(call, {keyword.arg: ast.unparse(keyword.value) for keyword in call.keywords}) for call in calls]
    elsewhere = [call for call, given in settings if given.get("cwd", "ROOT") != "ROOT" and "env" not in given]
    return [node.lineno for node in (*replaced, *elsewhere)]


def test_programs_that_tests_start_keep_the_callers_path():
    lines = (
        'run(env={"PYTHONPATH": str(ROOT)})',
        'run(env={"PYTHONPATH": python_path()})',
        "subprocess.run(words, cwd=folder)",
        "subprocess.run(words, cwd=folder, env=found)",
    )
    assert lost_paths("\n".join(lines)) == [1, 3]
    assert not [f"{name_of(path)}:{line}" for path in SOURCE if TESTS in path.parents for line in lost_paths(path.read_text())]
