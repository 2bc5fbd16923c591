"""The limits of the device, as this machine reaches them. All other sections are compared with these, and not with figures of a data sheet.

product: a product of two large bfloat16 matrices, in operations per second. It counts 2 n^3 operations.
copy: a large copy within the device, in bytes per second. It counts the bytes that are read and those that are written.
transfers: from the host to the device and back, out of pinned and out of pageable memory.
launch: the time of the smallest operation in a row of many. A policy of many small operations cannot be faster than their number times this.
"""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from rlvla3.benchmarks.gpu.sheet import Sheet
from rlvla3.benchmarks.gpu.timing import seconds_in_a_row, seconds_of

PRODUCTS, ROUNDS, LAUNCHES = 20, 12, 1000
"""How many products, and how many of the smallest operations, are measured in a row. Products are measured in ROUNDS rows, and the fastest row counts."""


def measure(sheet: Sheet) -> None:
    """Measure all limits."""
    sizes = sheet.sizes
    sheet.write(product_tflops=product_rate(sizes.product, sizes.device) / 1e12)
    sheet.write(copy_gb_per_s=copy_rate(sizes.copied, sizes.device) / 1e9)
    sheet.write(launch_us=1e6 * launch_seconds(sizes.device))
    if not sizes.on_gpu:
        sheet.skip("transfers between host and device", "no GPU")
        return
    for kind in ("pinned", "pageable"):
        there, back = transfer_rates(sizes.carried, sizes.device, pinned=kind == "pinned")
        sheet.write("transfers", kind, to_device_gb_per_s=there / 1e9, to_host_gb_per_s=back / 1e9)


def product_rate(size: int, device: str) -> float:
    """Operations per second of a bfloat16 product of two matrices [size, size].

    It is the first work of the process, and a GPU that was idle raises its clock during the first rows. So the fastest row is the limit.
    """
    left, right = (torch.randn(size, size, dtype=torch.bfloat16, device=device) for _ in range(2))
    out = torch.empty_like(left)
    product = partial(torch.mm, left, right, out=out)
    return float(2 * size**3 / min(seconds_in_a_row(product, device, PRODUCTS) for _ in range(ROUNDS)))


def copy_rate(size: int, device: str) -> float:
    """Bytes per second, read and written, of a copy of `size` bytes."""
    source, target = (torch.ones(size, dtype=torch.uint8, device=device) for _ in range(2))
    return 2 * size / seconds_of(lambda: target.copy_(source), device)


def launch_seconds(device: str) -> float:
    """Seconds of an operation on one number, in a row of many."""
    number: Tensor = torch.zeros(1, device=device)
    return seconds_in_a_row(lambda: number.add_(1), device, LAUNCHES)


def transfer_rates(size: int, device: str, pinned: bool) -> tuple[float, float]:
    """Bytes per second from the host to the device, and back."""
    host, there = torch.ones(size, dtype=torch.uint8, pin_memory=pinned), torch.empty(size, dtype=torch.uint8, device=device)
    to_device = seconds_of(lambda: there.copy_(host, non_blocking=True), device)
    to_host = seconds_of(lambda: host.copy_(there, non_blocking=True), device)
    return size / to_device, size / to_host
