"""What MkDocs does not do by itself for these documents.

- A link from a document to a file outside docs/ works on GitHub, but the site has no such page: the link then goes to the file in the repository. A link to a
  file that does not exist is a warning, which ends a strict build.
- GitHub lets a list begin right after a line of text; Python-Markdown wants an empty line between them. The site does as GitHub does.
- Docstrings of packages list their files in two columns. They stay columns.
- Diagrams (Mermaid) are drawn by a script that the theme would load from the internet. Here the script is part of the site.
"""

from __future__ import annotations

import hashlib
import logging
import os
import posixpath
import re
from importlib.metadata import distribution
from pathlib import Path
from urllib.parse import urlsplit
from xml.etree.ElementTree import Element

from markdown import Extension, Markdown
from markdown.preprocessors import Preprocessor
from markdown.treeprocessors import Treeprocessor
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files
from mkdocs.structure.nav import Navigation
from mkdocs.structure.pages import Page
from mkdocs.utils import get_relative_url

ROOT = Path(__file__).parents[2]
HOME = "index.md"
"""The page that pages.py makes from README.md."""

SUMMARY = "api/SUMMARY.md"
"""The list that pages.py writes for literate-nav."""

MERMAID = "assets/mermaid.min.js"
MERMAID_SHA256 = "74d7c46dabca328c2294733910a8aa1ed0c37451776e8d5295da38a2b758fb9b"
"""Of dist/mermaid.min.js in the npm package mermaid 11.16.0. A package on PyPI brings the same file: nobody needs npm for the site."""

LINK_IN_HTML = re.compile(r"""(<[^<>]*\b(?:href|src|srcset)=")([^"]+)""")
FENCE = re.compile(r"\s*(```|~~~)")
ITEM = re.compile(r"\s*([-*+]|\d+\.) ")
FILE = re.compile(r"\S+(\.py|/)  +\S")

log = logging.getLogger("mkdocs.hooks.rlvla3")


class Links(Treeprocessor):
    """Turns a page's links to files outside docs/ into links to the repository. Links in HTML that stands in the Markdown are found too."""

    def __init__(self, md: Markdown, extension: AsOnGitHub) -> None:
        super().__init__(md)
        self.extension = extension

    def run(self, root: Element) -> None:
        for element in root.iter():
            for attribute in ("href", "src"):
                link = element.get(attribute)
                if link is not None:
                    element.set(attribute, self.extension.rewritten(link))
        stash = self.md.htmlStash.rawHtmlBlocks
        for index, html in enumerate(stash):
            if isinstance(html, str):
                stash[index] = LINK_IN_HTML.sub(lambda found: found[1] + self.extension.in_html(found[2]), html)


class Blocks(Preprocessor):
    """Puts an empty line before a list that begins right after a line of text, and indents a list of files with what each is for, as code is indented."""

    def run(self, lines: list[str]) -> list[str]:
        result: list[str] = []
        fenced = False
        for line in lines:
            fenced ^= FENCE.match(line) is not None
            before = result[-1] if result else ""
            if not fenced and ITEM.match(line) and before.strip() and not before.startswith(" ") and not ITEM.match(before):
                result.append("")
            result.append(f"    {line}" if not fenced and FILE.match(line) else line)
        return result


class AsOnGitHub(Extension):
    """Links and lists as GitHub understands them, and files as docstrings list them, for Python-Markdown."""

    page: Page
    files: Files
    """The page that is being rendered now, and all files of the site."""

    def __init__(self, documents: Path, repository: str) -> None:
        super().__init__()
        self.documents, self.repository = documents, repository.rstrip("/")

    def extendMarkdown(self, md: Markdown) -> None:  # noqa: N802 (Python-Markdown's name)
        # MkDocs checks the links with priority 0, that is after this.
        md.treeprocessors.register(Links(md, self), "links_out_of_docs", 1)
        # Fences are taken out of the text with priority 25, that is after this.
        md.preprocessors.register(Blocks(md), "blocks_as_meant", 26)

    def rewritten(self, link: str) -> str:
        """The link that leads, on the site, to what `link` leads to on GitHub."""
        parts = urlsplit(link)
        if parts.scheme or parts.netloc or not parts.path or parts.path.startswith("/"):
            return link
        source = self.page.file.src_uri
        # README.md stands at the top of the repository, and its page at the top of the site.
        folder = ROOT if source == HOME else (self.documents / source).parent
        target = Path(os.path.normpath(folder / parts.path))
        if target == ROOT / "README.md":
            target = self.documents / HOME
        if target.is_relative_to(self.documents):
            # MkDocs says whether there is such a page: it also knows those that pages.py makes.
            shown = os.path.relpath(target, (self.documents / source).parent)
        elif not target.exists():
            log.warning("%s: the link %s leads to %s, which does not exist", source, link, target)
            return link
        else:
            kind = "tree" if target.is_dir() else "blob"
            shown = f"{self.repository}/{kind}/main/{target.relative_to(ROOT).as_posix()}"
        return shown + (f"#{parts.fragment}" if parts.fragment else "")

    def in_html(self, link: str) -> str:
        """As `rewritten`, for HTML: MkDocs does not touch it, so the link has to be the final one."""
        rewritten = urlsplit(self.rewritten(link))
        if rewritten.scheme or rewritten.netloc or not rewritten.path or rewritten.path.startswith("/"):
            return rewritten.geturl()
        source = self.page.file.src_uri
        file = self.files.get_file_from_path(posixpath.normpath(posixpath.join(posixpath.dirname(source), rewritten.path)))
        if file is None:
            log.warning("%s: the link %s in HTML leads to no file of the site", source, link)
            return link
        return rewritten._replace(path=get_relative_url(file.url, self.page.url)).geturl()


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Before anything is read: the extension is in use."""
    config.extra["as_on_github"] = AsOnGitHub(Path(config.docs_dir), config.extra["repository"])
    config.markdown_extensions.append(config.extra["as_on_github"])
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """The script that draws diagrams becomes a file of the site."""
    script = Path(str(distribution("artoo-mermaid").locate_file("artoo_mermaid/assets/mermaid.min.js"))).read_bytes()
    found = hashlib.sha256(script).hexdigest()
    if found != MERMAID_SHA256:
        raise PluginError(f"mermaid.min.js of the package artoo-mermaid has the SHA-256 {found}; scripts/site/hooks.py expects {MERMAID_SHA256}")
    files.append(File.generated(config, MERMAID, content=script))
    return files


def on_nav(nav: Navigation, config: MkDocsConfig, files: Files) -> None:
    """The list of the API's pages has served: it is no page itself."""
    summary = files.get_file_from_path(SUMMARY)
    if summary is not None:
        files.remove(summary)


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> None:
    """Before a page is rendered: its links start from its own place."""
    config.extra["as_on_github"].page, config.extra["as_on_github"].files = page, files


def on_post_page(output: str, page: Page, config: MkDocsConfig) -> str:
    """Pages with a diagram load the script. The theme then finds it there and loads no other."""
    if '<pre class="mermaid">' not in output:
        return output
    script = get_relative_url(MERMAID, page.url)
    return output.replace("</head>", f'<script src="{script}"></script></head>', 1)
