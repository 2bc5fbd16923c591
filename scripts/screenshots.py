"""Take the pictures of docs/reading.md from a run, in headless Chromium.

    python scripts/screenshots.py runs/demo                # writes docs/pictures/page-*.png
    python scripts/screenshots.py runs/demo --out folder

It needs `pip install 'rlvla3[page,browser]'` and Chromium. Take a run with a timeline: `rlvla3 train recipes/quickstart.yaml engine.trace=true`.
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from playwright.sync_api import Page, sync_playwright

PICTURES = Path(__file__).parents[1] / "docs" / "pictures"
SIZE = {"width": 1280, "height": 800}
PANELS = {
    "summary": "#summary",
    "learning": "#learning",
    "time": "#time",
    "episodes": "#episodes",
    "losses": "#losses",
    "faults": "#faults",
    "settings": "#settings",
    "words": "#words",
}
PATIENCE_MS = 120_000
DRAWN_MS = 500
SETTLED_MS = 3000
"""Films show their first frame, and the timeline is drawn."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--out", type=Path, default=PICTURES)
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    with served(given.run) as address, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        for scheme in ("light", "dark"):
            page = browser.new_context(viewport=SIZE, color_scheme=scheme).new_page()  # type: ignore[arg-type]
            page.set_default_timeout(PATIENCE_MS)
            page.goto(address)
            page.wait_for_selector("body[data-drawn]")
            page.wait_for_selector("#explanation dt")
            page.locator("#timeline-none", has_text="being read").wait_for(state="detached")
            page.locator("#explanation", has_text="are being rehearsed").wait_for(state="detached")
            look_through(page)
            page.wait_for_timeout(SETTLED_MS)
            take(page, scheme, given.out)
        browser.close()


def look_through(page: Page) -> None:
    """Scroll to the end and back: a chart is drawn when it is near the window."""
    for place in (*PANELS.values(), "header"):
        page.locator(place).scroll_into_view_if_needed()
        page.wait_for_timeout(DRAWN_MS)
    page.evaluate("window.scrollTo(0, 0)")


def take(page: Page, scheme: str, out: Path) -> None:
    """The whole first view in both schemes, and each panel in the light one."""
    page.screenshot(path=out / f"page-{scheme}.png")
    if scheme == "light":
        page.evaluate("document.querySelector('header').style.position = 'static'")  # it would lie over the panels
        for name, place in PANELS.items():
            page.locator(place).screenshot(path=out / f"page-{name}.png")


@contextmanager
def served(run: Path) -> Iterator[str]:
    """`rlvla3 watch RUN`, and its address."""
    with subprocess.Popen([sys.executable, "-m", "rlvla3", "watch", str(run), "--port", "0"], stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            yield next(address[0] for line in process.stdout if (address := re.search(r"http://\S+", line)))
        finally:
            process.terminate()


if __name__ == "__main__":
    main()
