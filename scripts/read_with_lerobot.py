"""Read a whole LeRobotDataset with lerobot's own reader, and write what it returned to a file of numpy.

    python scripts/read_with_lerobot.py DATASET OUT.npz

Run it with the Python of an environment that has lerobot. That environment needs no rlvla3, and nothing is downloaded. OUT.npz has one array for each feature,
[frames, ...]: images as lerobot returns them (float32 in [0, 1], channels first), `task` (the sentences), and the statistics as stats/FEATURE/NAME.

tests/demonstrations/test_lerobot_reader.py compares this with what was written. It needs such a Python in RLVLA3_LEROBOT_PYTHON.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"  # before lerobot is imported

import numpy as np
from lerobot.datasets.lerobot_dataset import LeRobotDataset


def main() -> None:
    parser = argparse.ArgumentParser(description="Read a LeRobotDataset with lerobot.")
    parser.add_argument("dataset", type=Path)
    parser.add_argument("out", type=Path)
    arguments = parser.parse_args()

    dataset = LeRobotDataset("local/dataset", root=arguments.dataset)
    items = [dataset[number] for number in range(len(dataset))]
    found = {name: np.array([np.asarray(item[name]) for item in items]) for name in items[0]}
    for feature, statistics in dataset.meta.stats.items():
        found |= {f"stats/{feature}/{name}": np.asarray(value) for name, value in statistics.items()}
    np.savez(arguments.out, **found)
    print(f"{dataset.meta.total_episodes} episodes, {len(items)} frames, {dataset.fps} frames a second, arrays {', '.join(items[0])}")


if __name__ == "__main__":
    main()
