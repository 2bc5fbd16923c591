"""Real notebooks: the one in docs/, and the stop button."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nbformat
import psutil
import pytest
from jupyter_client.blocking.client import BlockingKernelClient
from jupyter_client.manager import KernelManager
from nbclient import NotebookClient

import rlvla3
from tests.support.repository import ROOT
from tests.support.runs import LIMIT_S
from tests.support.scripts import environment

RECIPE = """
import os, threading
import rlvla3
recipe = rlvla3.load_recipe({
    "simulator": {"name": "tests.support.troublesome:Countdown", "shards": 2, "max_steps": 6, "options": {"kwargs": {"step_s": 0.01}}},
    "policy": {"name": "actor_critic", "chunk": 2, "options": {"hidden": 8}},
    "training": {"updates": 100000, "batch": 4, "steps": 2, "epochs": 1, "checkpoint_every": 100000},
    "evaluation": {"episodes": 2, "before": False, "after": False},
})
"""


@pytest.fixture(autouse=True)
def jupyter_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is read from, or written to, the home of whoever runs the tests."""
    for variable in ("JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR", "IPYTHONDIR"):
        monkeypatch.setenv(variable, str(tmp_path / variable.lower()))
    monkeypatch.setenv("MPLCONFIGDIR", str(tmp_path / "matplotlib"))


class Kernel:
    """A notebook's kernel, with cells run one after another, as the browser asks for them."""

    def __init__(self, manager: KernelManager, client: BlockingKernelClient) -> None:
        self.manager, self.client = manager, client

    def start(self, code: str) -> str:
        """Begin a cell. Returns what names it."""
        return str(self.client.execute(code))

    def reply(self, cell: str) -> dict[str, Any]:
        """How the cell ended: Jupyter's execute_reply."""
        while (message := self.client.get_shell_msg(timeout=LIMIT_S))["parent_header"]["msg_id"] != cell:
            pass
        content: dict[str, Any] = message["content"]
        return content

    def run(self, code: str) -> None:
        """A whole cell. The error of the cell is the test's."""
        reply = self.reply(self.start(code))
        assert reply["status"] == "ok", "\n".join(reply["traceback"])


@pytest.fixture
def kernel(tmp_path: Path, nothing_left: None) -> Iterator[Kernel]:
    manager = KernelManager(kernel_name="python3")
    manager.start_kernel(cwd=str(tmp_path), env=environment())
    client = manager.blocking_client()
    try:
        client.start_channels()
        client.wait_for_ready(timeout=LIMIT_S)
        kernel = Kernel(manager, client)
        kernel.run("import os, pathlib; pathlib.Path('kernel.pid').write_text(str(os.getpid()))")
        yield kernel
    finally:
        children = psutil.Process(int((tmp_path / "kernel.pid").read_text())).children(recursive=True)
        client.stop_channels()
        manager.shutdown_kernel(now=True)
        _, alive = psutil.wait_procs(children, timeout=LIMIT_S)
        assert not alive


@pytest.mark.slow
def test_the_notebook_of_the_documents_runs(tmp_path: Path, nothing_left: None) -> None:
    notebook = nbformat.read(ROOT / "docs" / "python.ipynb", as_version=4)
    nbformat.validate(notebook)
    assert not any(cell.get("outputs") for cell in notebook.cells), "the notebook is kept without outputs"
    NotebookClient(notebook, timeout=2 * LIMIT_S, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}}).execute(env=environment())
    outputs = {number: cell.outputs for number, cell in enumerate(notebook.cells) if cell.cell_type == "code"}
    trained, metrics, picture, acted = (outputs[number] for number in sorted(outputs)[1:])
    shown = [output for output in trained if output.output_type == "display_data"]
    assert len(shown) == 1, "one table, which was replaced by newer ones"
    assert "CartPole-v1" in shown[0].data["text/html"]
    assert "of 8 episodes" in re.sub(r"\x1b\[[\d;]*m", "", shown[0].data["text/plain"])  # the last table, after the evaluation
    assert "6 updates" in "".join(output.text for output in trained if output.output_type == "stream")
    assert metrics[0].text.count("mean return") == 7
    assert "for a picture" in str(picture) or any("image/png" in output.get("data", {}) for output in picture)
    assert re.fullmatch(r"one episode: return \d+\n", acted[0].text)
    (run,) = map(rlvla3.Run, (tmp_path / "runs").iterdir())
    assert run.metrics["update"].tolist() == [1, 2, 3, 4, 5, 6]


@pytest.mark.slow
def test_the_stop_button_ends_a_run_as_ctrl_c_does_and_the_notebook_goes_on(tmp_path: Path, kernel: Kernel) -> None:
    kernel.run(RECIPE)
    cell = kernel.start("rlvla3.train(recipe, run_dir='stopped')")
    until_updates(tmp_path / "stopped", 2)
    kernel.manager.interrupt_kernel()
    assert kernel.reply(cell)["ename"] == "KeyboardInterrupt"
    run = rlvla3.Run(tmp_path / "stopped")
    version = run.version
    assert run.summary["ended"] == "interrupted"
    assert version == run.metrics["update"][-1] >= 2, "the present update was finished, and its checkpoint kept"
    kernel.run(f"run = rlvla3.train('stopped', {{'training.updates': {version + 2}}}, progress=False)")
    assert run.metrics["update"][-1] == version + 2
    kernel.run("result = rlvla3.evaluate(run, progress=False); assert result.episodes == 2")
    kernel.run("import gc; gc.collect(); assert 'memfd:rlvla3' not in open('/proc/self/maps').read()")
    kernel.run("import psutil; from tests.support.runs import is_guard")
    kernel.run("left = [child for child in psutil.Process().children() if not is_guard(child)]; assert not left, left")


def until_updates(folder: Path, count: int) -> None:
    deadline = time.monotonic() + LIMIT_S
    while not (folder / "metrics.jsonl").is_file() or len(rlvla3.Run(folder).metrics.get("update", ())) < count:
        assert time.monotonic() < deadline
        time.sleep(0.05)
