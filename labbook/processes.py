"""One run on several processes, `torchrun --nproc-per-node N -m ...`: who this one is, which part is its own,
sums over all.

    rank 0   [work] --.                          .--> prints, writes the run folder
    rank 1   [work] ---+-- add_up (float64) --> the same sums everywhere
    rank 2   [work] --'                          '--> silent

Without torchrun there is one process and every function here does nothing.
"""

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import torch
import torch.distributed as dist

from labbook.console import console

T = TypeVar("T")


@contextmanager
def together() -> Iterator[None]:
    """Work together with the other processes that torchrun started; all but rank 0 are silent on standard
    output.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield
        return
    dist.init_process_group("cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo")
    before, console.quiet = console.quiet, console.quiet or rank() > 0
    try:
        yield
    finally:
        dist.destroy_process_group()
        console.quiet = before


def rank() -> int:
    """Number of this process, 0 for the one that writes."""
    return dist.get_rank() if dist.is_initialized() else 0


def count() -> int:
    """Number of processes."""
    return dist.get_world_size() if dist.is_initialized() else 1


def local_rank() -> int:
    """Number of this process on its machine, which is the number of its GPU."""
    return int(os.environ.get("LOCAL_RANK", "0")) if dist.is_initialized() else 0


def agree(value: T) -> T:
    """The value that rank 0 has, on every process."""
    if not dist.is_initialized():
        return value
    box = [value]
    dist.broadcast_object_list(box)
    return box[0]


def share(total: int, size: int) -> tuple[int, int]:
    """The part [start, stop) of `total` items that belongs to this process, cut at multiples of `size`."""
    chunks = -(-total // size)
    edges = [min(total, size * -(-chunks * part // count())) for part in (rank(), rank() + 1)]
    return edges[0], edges[1]


def add_up(tensors: Iterable[torch.Tensor]) -> None:
    """Replace every tensor by its sum over all processes, in place."""
    if dist.is_initialized():
        for tensor in tensors:
            dist.all_reduce(tensor)
