"""What README.md, CONTRIBUTING.md and docs/ refer to exists: links and their anchors, commands, settings, targets of make, and files of this repository."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from urllib.parse import unquote

import pytest

from rlvla3.cli import _parse
from rlvla3.config import load_recipe
from rlvla3.errors import RecipeError
from rlvla3.planning.papers import PAPERS
from tests.support.examples import examples
from tests.support.repository import ROOT

DOCUMENTS = [path for path in (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))) if path.is_file()]

FENCE = re.compile(r"^(?P<indent> *)(?P<fence>```+|~~~+)(?P<language>[\w-]*)[^\n]*\n(?P<body>.*?)^ *(?P=fence) *$", re.S | re.M)
CODE = re.compile(r"(`+)(?!`)(.+?)(?<!`)\1(?!`)", re.S)
LINK = re.compile(r"""\]\(\s*<?([^)\s>]+)>?(?:\s+"[^"]*")?\s*\)|^\[[^\]]+\]:\s*(\S+)|<[^<>]*\b(?:href|src|srcset)="([^"]+)\"""", re.M)
SHELL = {"", "bash", "console", "sh", "shell", "text"}
"""Languages of fenced blocks that show commands."""

FOREIGN = {
    *examples(),  # docs/extending.md: the reader's own files
    "client.json",  # docs/serving.md: what a client writes
    "my_robot.py",  # docs/python.md: the reader's own module
    "scripts/create_dataset.py",  # LIBERO's
    "regenerate_libero_dataset.py",  # OpenVLA's
    "norm_stats.json",  # of checkpoints of other software, as are the next two
    "dataset_statistics.json",
    "metadata.json",
    "metrics.jsonl",  # of a run directory, as are the lines below
    "machine.jsonl",
    "trained_on.json",
    "summary.json",
    "results.json",
    "results.png",
    "trace.json",
    "logs/",
    "config.yaml",
    "checkpoints/",
    "checkpoints/best",
    "evaluation/success",  # a name of TensorBoard
    "record/",
    "record/recipe.yaml",
    "policy/",
    "parameters/",
    "accounts.json",
    "manifest.json",
    "videos/",
    "evaluations/",
    "replays/",
    "recordings/",
    "dataset/",
    "meta/rlvla3.json",
}
"""Files and folders that documents name and that are not in this repository."""

PLACEHOLDERS = re.compile(r"\b(DATE-TIME|DIR|FILE|FOLDER|M|N|NAME|RECIPE|RUN_DIR|S|SUITE|TASK)\b|\bruns/|\*")
"""What stands for something that the reader has, or that a run makes."""

ENDINGS: tuple[list[str], ...] = ([], ["x"], ["x", "x"], ["1"], ["x", "--out", "x"], ["ladder"])
"""What completes a command of the text: an argument, two, a number, what `bench parity` must have, a benchmark."""

MADE = re.compile(r".*\.profile\.yaml|reach\.yaml")
"""Recipes and profiles that commands of the documents make, or the reader."""


in_each_document = pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))


def text_of(document: Path) -> str:
    """A document without its fenced blocks."""
    return FENCE.sub("", document.read_text(encoding="utf-8"))


@cache
def anchors(document: Path) -> frozenset[str]:
    """The anchors that GitHub makes of a document's headings, and those that its HTML names."""
    text = text_of(document)
    found: set[str] = set(re.findall(r"<[^<>]*\b(?:id|name)=\"([^\"]+)\"", text))
    for heading in re.findall(r"^#{1,6} +(.*?)[ #]*$", text, re.M):
        plain = re.sub(r"!?\[([^\]]*)\]\([^)]*\)", r"\1", heading).replace("`", "").replace("*", "")
        slug = re.sub(r"[^\w\- ]", "", plain.lower()).replace(" ", "-")
        number = 1
        unique = slug
        while unique in found:
            unique, number = f"{slug}-{number}", number + 1
        found.add(unique)
    return frozenset(found)


@in_each_document
def test_every_link_leads_somewhere(document: Path) -> None:
    for found in LINK.finditer(CODE.sub("", text_of(document))):
        link = next(group for group in found.groups() if group)
        if re.match(r"[a-z][a-z0-9+.-]*:", link):
            continue
        path, _, anchor = unquote(link).partition("#")
        target = (document.parent / path).resolve() if path else document
        assert target.exists(), f"{link}: no such file"
        assert target.is_relative_to(ROOT), f"{link}: out of the repository"
        if anchor:
            assert target.suffix == ".md", f"{link}: an anchor in a file that is no document"
            assert anchor in anchors(target), f"{link}: {target.name} has {', '.join(sorted(anchors(target)))}"


def words(line: str) -> Iterator[list[str]]:
    """The commands of a line, each as a shell would split it, without redirections and variables set for it."""
    lexer = shlex.shlex(line, posix=True, punctuation_chars="|&;<>")
    lexer.whitespace_split = True
    command: list[str] = []
    skip = False
    for word in lexer:
        if set(word) <= set("|&;"):
            yield command
            command = []
        elif set(word) <= set("<>"):
            skip = True
        elif skip:
            skip = False
        elif command or not re.fullmatch(r"\w+=\S*", word):
            command.append(word)
    yield command


def commands(document: Path, program: str) -> Iterator[list[str]]:
    """Arguments of each command line in the document's fenced blocks that runs `program`. Where lines begin with $, the others are output."""
    for block in FENCE.finditer(document.read_text(encoding="utf-8")):
        if block["language"] not in SHELL:
            continue
        lines = [line.strip() for line in block["body"].replace("\\\n", " ").splitlines()]
        if any(line.startswith("$ ") for line in lines):
            lines = [line[2:] for line in lines if line.startswith("$ ")]
        for line in lines:
            if re.match(rf"(\w+=\S* +)*(\S*/)?{program}( |$)", line):
                yield from (command[1:] for command in words(line) if command and Path(command[0]).name == program)


@in_each_document
def test_every_command_is_understood(document: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for command in commands(document, "rlvla3"):
        line = shlex.join(["rlvla3", *command])
        if command in (["--help"], ["--version"], ["eval", "--protocols"]):
            continue
        try:
            arguments = _parse(command)
        except SystemExit:
            pytest.fail(f"{line}: {capsys.readouterr().err}")
        check_files(line, command)
        paper, profile = getattr(arguments, "paper", None), getattr(arguments, "profile", None)
        assert paper is None or paper in PAPERS, f"{line}: there are {', '.join(PAPERS)}"
        if profile and not str(profile).endswith(".yaml"):
            assert (ROOT / "rlvla3" / "profiles" / f"{profile}.yaml").is_file(), f"{line}: no profile {profile}"
        check_settings(line, command)


def check_files(line: str, command: list[str]) -> None:
    for word in command:
        if word.endswith(".yaml") and not PLACEHOLDERS.search(word) and not MADE.fullmatch(word):
            assert (ROOT / word).is_file(), f"{line}: no file {word}"


def check_settings(line: str, command: list[str]) -> None:
    """Where a recipe of the repository is given settings, it accepts them."""
    recipes = [word for word in command if (ROOT / word).is_file()]
    settings = [word for word in command if re.match(r"\w[\w.]*=", word) and not PLACEHOLDERS.search(word)]
    if len(recipes) == 1:
        try:
            load_recipe(ROOT / recipes[0], settings)
        except RecipeError as error:
            pytest.fail(f"{line}: {error}")


@in_each_document
def test_commands_within_the_text_exist(document: Path) -> None:
    """Within a sentence a command may be incomplete, such as `rlvla3 replay`: one of the ENDINGS makes it a whole one."""
    for _, code in CODE.findall(text_of(document)):
        command = code.replace("[", "").replace("]", "").split()
        if command[:1] == ["rlvla3"] and len(command) > 1:
            assert any(parses([*command[1:], *ending]) for ending in ENDINGS), f"{code}: rlvla3 has no such command or option"


def parses(command: list[str]) -> bool:
    try:
        _parse(["1" if word == "N" else word for word in command])
    except SystemExit as ended:
        return not ended.code
    return True


@in_each_document
def test_every_target_of_make_exists(document: Path) -> None:
    targets = set(re.findall(r"^([\w-]+):(?!=)", (ROOT / "Makefile").read_text(), re.M))
    named = [word for command in commands(document, "make") for word in command]
    named += [word for _, code in CODE.findall(text_of(document)) if code.startswith("make ") for word in code.split()[1:]]
    for word in named:
        assert "=" in word or word.startswith("-") or word in targets, f"make {word}: the Makefile has {', '.join(sorted(targets))}"


@cache
def repository() -> frozenset[str]:
    """The names of all files and folders (with a slash at the end), and each such name without one or more of its first folders."""
    names = set()
    for top in ROOT.iterdir():
        if top.name in {".git", ".venv", "runs", "build", "dist"} or top.name.endswith("_cache"):
            continue
        for path in (top, *(top.rglob("*") if top.is_dir() else ())):
            parts = path.relative_to(ROOT).parts
            names |= {"/".join(parts[start:]) + ("/" if path.is_dir() else "") for start in range(len(parts))}
    return frozenset(names)


def looks_like_a_path(code: str) -> bool:
    folders = {path.name for path in (*ROOT.iterdir(), *(ROOT / "rlvla3").iterdir()) if path.is_dir()}
    return re.fullmatch(r"[\w.*-]+(/[\w.*-]+)*/?", code) is not None and (
        re.search(r"\w\.(py|ya?ml|md|toml|jsonl?|txt|css|sh)$", code) is not None or code.endswith("/") or ("/" in code and code.split("/")[0] in folders)
    )


@in_each_document
def test_every_file_that_is_named_exists(document: Path) -> None:
    for _, code in CODE.findall(text_of(document)):
        if looks_like_a_path(code) and code not in FOREIGN and not PLACEHOLDERS.search(code):
            known = code in repository() or f"{code}/" in repository()
            assert known, f"`{code}` is no file or folder of the repository. Where it is somebody else's, add it to FOREIGN in {Path(__file__).name}"
