"""The example script for SLURM, with stand-ins for srun, scontrol and the batch system: jobs of limited time, until the run is finished."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from rlvla3.observability.run_directory import RunDirectory, version_of
from tests.support.repository import ROOT, python_path
from tests.support.runs import LIMIT_S, MARK, countdown

pytestmark = [pytest.mark.usefixtures("no_run_outlives_its_test"), pytest.mark.slow]

SCRIPT = ROOT / "recipes" / "slurm" / "train.sbatch"

SRUN = """#!/usr/bin/env bash
# As srun does, pass SIGTERM on to the task, to all its processes, and end with its status.
while [[ $1 == --* ]]; do shift; done
setsid {python} -m "$@" & task=$!
trap 'kill -TERM -- -$task' TERM
while kill -0 $task 2>/dev/null; do wait $task; done
wait $task
"""

SCONTROL = """#!/usr/bin/env bash
echo "$@" >> {requeued}
"""


class Cluster:
    """Stand-ins for the commands of SLURM. `submit` starts the script as the batch system does."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.requeued = folder, folder / "requeued"
        commands = folder / "bin"
        commands.mkdir()
        for name, text in (("srun", SRUN.format(python=sys.executable)), ("scontrol", SCONTROL.format(requeued=self.requeued))):
            (commands / name).write_text(text)
            (commands / name).chmod(0o755)
        self.environment = os.environ | {
            "PATH": f"{commands}:{os.environ['PATH']}",
            "PYTHONPATH": python_path(),
            "SLURM_JOB_ID": "77",
            MARK: str(os.getpid()),
        }
        self.run = RunDirectory(folder / "runs" / "slurm-77")

    def submit(self, *words: str) -> subprocess.Popen[bytes]:
        output = (self.folder / "slurm-77.out").open("ab")
        return subprocess.Popen(
            ["bash", str(SCRIPT), *words], cwd=self.folder, env=self.environment, stdout=output, stderr=output, stdin=subprocess.DEVNULL, start_new_session=True
        )

    def until(self, condition: Callable[[], object]) -> None:
        deadline = time.monotonic() + LIMIT_S
        while not condition():
            assert time.monotonic() < deadline, (self.folder / "slurm-77.out").read_text()
            time.sleep(0.02)

    def updates(self) -> int:
        return max((line.get("update", 0) for line in self.run.metric_lines()), default=0)


@pytest.fixture
def cluster(tmp_path: Path) -> Cluster:
    recipe = countdown(simulator={"options": {"kwargs": {"step_s": 0.02}}}, training={"updates": 1000, "checkpoint_every": 1000})
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    return Cluster(tmp_path)


def test_a_job_whose_time_is_nearly_over_goes_on_in_the_next_one(cluster: Cluster, nothing_left: None) -> None:
    job = cluster.submit("recipe.yaml", "seed=3")
    cluster.until(lambda: cluster.updates() >= 2)
    job.send_signal(signal.SIGUSR1)  # SLURM's --signal=B:USR1@300 tells the script alone
    assert job.wait(LIMIT_S) == 128 + signal.SIGTERM
    assert cluster.requeued.read_text() == "requeue 77\n"
    kept = cluster.run.latest_checkpoint()
    assert kept is not None and version_of(kept) == cluster.updates()

    again = cluster.submit("recipe.yaml", "seed=3")  # SLURM starts a requeued job with the same words
    cluster.until(lambda: cluster.updates() > version_of(kept))
    again.send_signal(signal.SIGTERM)  # scancel: the script does not requeue
    assert again.wait(LIMIT_S) == 128 + signal.SIGTERM
    assert cluster.requeued.read_text() == "requeue 77\n"
    assert cluster.run.ended() == "interrupted by SIGTERM"
    updates = [line["update"] for line in cluster.run.metric_lines() if line["event"] == "update"]
    assert updates == list(range(1, len(updates) + 1)) and cluster.run.recipe().seed == 3


def test_a_run_that_is_finished_or_refused_is_not_requeued(cluster: Cluster, nothing_left: None) -> None:
    assert cluster.submit("recipe.yaml", "training.updates=2").wait(LIMIT_S) == 0
    assert cluster.run.ended() == "finished"
    assert cluster.submit("recipe.yaml").wait(LIMIT_S) == 2
    assert not cluster.requeued.exists()
