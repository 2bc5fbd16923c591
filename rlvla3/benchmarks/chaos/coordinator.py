"""`rlvla3`, as the benchmark starts it: its coordinator obeys orders too.

python -m rlvla3.benchmarks.chaos.coordinator train ...
"""

from __future__ import annotations

import runpy

from rlvla3.benchmarks.chaos.orders import obey_all_the_time

if __name__ == "__main__":
    obey_all_the_time()
    runpy.run_module("rlvla3", run_name="__main__", alter_sys=True)
