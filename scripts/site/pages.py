"""Pages of the site that nobody writes by hand. mkdocs-gen-files runs this file while the site is built.

- The home page is README.md.
- Each package of rlvla3 has one page: the package's docstring, then each of its modules with everything public in it. The modules at the top, such as
  `rlvla3.loops`, share the page of `rlvla3` itself.
"""

from __future__ import annotations

from pathlib import Path

import mkdocs_gen_files

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "rlvla3"


def packages() -> list[Path]:
    """The folders with Python modules, each after the one that contains it."""
    return sorted({file.parent for file in PACKAGE.rglob("*.py")})


def name_of(path: Path) -> str:
    """A file's or folder's name for `import`, such as `rlvla3.links.doorbell`."""
    return ".".join(path.relative_to(ROOT).with_suffix("").parts)


def page_of(folder: Path) -> str:
    """The Markdown of one package's page."""
    modules = [file for file in sorted(folder.glob("*.py")) if not file.stem.startswith("_")]
    parts = [
        f"# {name_of(folder)}",
        f"::: {name_of(folder)}\n    options:\n      show_root_heading: false\n      show_root_toc_entry: false",
        *(f"::: {name_of(module)}" for module in modules),
    ]
    return "\n\n".join(parts) + "\n"


def write() -> None:
    with mkdocs_gen_files.open("index.md", "w") as home:
        home.write("---\nhide: [navigation]\n---\n\n" + (ROOT / "README.md").read_text(encoding="utf-8"))
    folders = packages()
    contents = []
    for folder in folders:
        inner = folder.relative_to(PACKAGE)
        # A page with others below it is its folder's index.
        file = (inner / "index.md" if any(folder in other.parents for other in folders) else inner.with_suffix(".md")).as_posix()
        with mkdocs_gen_files.open(f"api/{file}", "w") as page:
            page.write(page_of(folder))
        contents.append(f"{'    ' * (len(inner.parts) - 1)}* [{folder.name}]({file})\n")
    with mkdocs_gen_files.open("api/SUMMARY.md", "w") as summary:
        summary.writelines(contents)


write()
