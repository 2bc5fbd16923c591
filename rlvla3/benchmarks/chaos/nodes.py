"""Two Ray nodes on this machine, in a process of their own, of which one can be lost.

`python -m rlvla3.benchmarks.chaos.nodes` is that process: it prints the address of the cluster, and then obeys each line that it reads.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rlvla3.benchmarks.chaos.observed_run import MARK, Cluster, kill, marked_processes
from rlvla3.benchmarks.chaos.orders import FOLDER
from rlvla3.errors import RecipeError

LOSE, ADD = "lose a node", "add a node"

END_S = 60.0


@contextmanager
def two_nodes(folder: Path, mark: str) -> Iterator[Cluster]:
    """A cluster of two nodes while the block lasts. folder: for its orders. mark: of its processes. Raises RecipeError where Ray cannot be started."""
    orders = folder / "orders"
    orders.mkdir(parents=True)
    variables = {MARK: mark, FOLDER: str(orders), "RAY_AUTH_MODE": "disabled"}
    command = [sys.executable, "-m", "rlvla3.benchmarks.chaos.nodes"]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
    process = subprocess.Popen(command, text=True, start_new_session=True, env=os.environ | variables, **pipes)  # type: ignore[call-overload]

    def answer() -> str:
        line: str = process.stdout.readline().strip()
        if not line:
            raise RecipeError("no Ray cluster could be started here: see whether `ray start --head` works, and whether pip install 'rlvla3[ray]' was done")
        return line

    def tell(what: str) -> None:
        process.stdin.write(f"{what}\n")
        process.stdin.flush()
        answer()

    try:
        yield Cluster(mark, orders, answer(), tell)
    finally:
        process.stdin.close()
        try:
            process.wait(END_S)
        except subprocess.TimeoutExpired:
            process.kill()
        kill(marked_processes(mark))


def _main() -> None:
    from ray.cluster_utils import Cluster as RayCluster

    cluster = RayCluster(initialize_head=True, head_node_args={"num_cpus": 2, "include_dashboard": False})
    others = [cluster.add_node(num_cpus=2)]
    print(cluster.address, flush=True)
    for line in sys.stdin:
        if line.strip() == LOSE:
            cluster.remove_node(others.pop(), allow_graceful=False)
        elif line.strip() == ADD:
            others.append(cluster.add_node(num_cpus=2))
        print("done", flush=True)
    cluster.shutdown()


if __name__ == "__main__":
    _main()
