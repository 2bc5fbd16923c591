"""Writes docs/files.md: `make files`. Each file of the package with the first paragraph of its docstring."""

from __future__ import annotations

import ast
import re
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "rlvla3"
WIDTH = 120

INTRODUCTION = """\
# Every file in a line

<!-- `make files` makes this page from the docstrings of the files. To change it, change the docstrings. -->

Use this page to find the file where something is decided or done. The floors that packages stand on, and walks through
the code, are in [architecture.md](architecture.md).
"""


def page() -> str:
    return "\n".join([INTRODUCTION, *_sections()])


def _sections() -> Iterator[str]:
    folders = sorted({file.parent for file in PACKAGE.rglob("*.py")}, key=lambda folder: folder.relative_to(PACKAGE).parts)
    for folder in folders:
        yield f"## {folder.relative_to(ROOT)}/\n"
        if summary := _summary(folder / "__init__.py"):
            yield _wrapped(summary, "") + "\n"
        yield from (_entry(file) for file in sorted(folder.glob("*.py")) if file.name != "__init__.py")
        yield ""


def _entry(file: Path) -> str:
    link = f"- [`{file.name}`](../{file.relative_to(ROOT)})"
    return f"{link}\n{_wrapped(_summary(file), '  ')}"


def _summary(file: Path) -> str:
    """The first paragraph of a file's docstring, as one line of Markdown."""
    docstring = ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))) or ""
    text = " ".join(docstring.split("\n\n")[0].split())
    return re.sub(r"([*_<>])", r"\\\1", text) if "`" not in text else text


def _wrapped(text: str, indent: str) -> str:
    return textwrap.fill(text, WIDTH, initial_indent=indent, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)


if __name__ == "__main__":
    sys.stdout.write(page())
