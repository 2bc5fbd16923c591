"""What a run says of busy and idle time agrees with what Linux says of its processes, within five points of a hundred."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from tests.support.runs import Run, countdown

pytestmark = [pytest.mark.usefixtures("no_run_outlives_its_test"), pytest.mark.slow]

POINTS = 0.05
FIRST, LAST = 3, 12
"""Updates: what is between them is compared. The first ones build caches, and later ones might be cut off by the end."""

SIMULATORS_SPIN: dict[str, Any] = {"simulator": {"name": "tests.support.spinning:SpinningCountdown", "shards": 1, "options": {"kwargs": {"spin_s": 0.015}}}}
TRAINER_SPINS: dict[str, Any] = {"simulator": {"shards": 1}, "policy": {"name": "tests.support.spinning:SpinsToLearn"}, "engine": {"mode": "sync"}}


def processor_seconds(pid: int) -> tuple[float, float]:
    """How long a process has run, and how long it has run or waited for a core that was free. Of such waiting it knows nothing: where other programs use the
    cores, some of it is in its busy time and some in its idle time."""
    threads = [thread.read_text().split() for thread in Path(f"/proc/{pid}/task").glob("*/schedstat")]
    ran, waited = (sum(int(thread[field]) for thread in threads) / 1e9 for field in (0, 1))
    return ran, ran + waited


@pytest.mark.skipif(not Path("/proc/self/schedstat").exists(), reason="this kernel does not tell how long a process waits for a core")
@pytest.mark.parametrize(("busy", "changes"), [("shard 0", SIMULATORS_SPIN), ("trainer", TRAINER_SPINS)], ids=["simulators are busy", "simulators are idle"])
def test_busy_and_idle_time_agree_with_processor_time(tmp_path: Path, busy: str, changes: dict[str, Any], nothing_left: None) -> None:
    run = Run(tmp_path, countdown(**changes, training={"updates": 1000, "checkpoint_every": 1000}))
    used: list[dict[str, tuple[float, float]]] = []
    for update in (FIRST, LAST):
        run.until(lambda: len(run.records("update")) >= update)  # noqa: B023  # called within this round
        used.append({name: processor_seconds(run.workers(name)[0].pid) for name in ("shard 0", "generator 0", "trainer")})
    run.process.terminate()
    run.wait()
    updates = run.records("update")[FIRST - 1 : LAST]
    seconds = updates[-1]["wall_seconds"] - updates[0]["wall_seconds"]
    for name, before in used[0].items():
        told = 0.0
        for earlier, later in pairwise(updates):
            (worker,) = (worker for worker in later["workers"] if worker["name"] == name)
            told += sum(worker["busy"].values()) * (later["wall_seconds"] - earlier["wall_seconds"]) / seconds
        least, most = ((now - then) / seconds for now, then in zip(used[1][name], before, strict=True))
        print(f"{name}: the run says {100 * told:.1f} % busy, Linux {100 * least:.1f} % (with waits for a core {100 * most:.1f} %)")
        assert least - POINTS <= told <= most + POINTS
        assert (told > 0.7) == (name == busy)
