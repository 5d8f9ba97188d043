"""One run on several processes, `torchrun --nproc-per-node N -m ...`: who this one is, which part is its own,
sums over all.

    rank 0   [work] --.                          .--> prints, writes the run folder
    rank 1   [work] ---+-- add_up (float64) --> the same sums everywhere
    rank 2   [work] --'                          '--> silent

Without torchrun there is one process and every function here does nothing.
"""

import os
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

from labbook.console import console

if TYPE_CHECKING:
    import torch

T = TypeVar("T")


@contextmanager
def together() -> Iterator[None]:
    """Work together with the other processes that torchrun started; all but rank 0 are silent on standard
    output.
    """
    if asked_for() == 1:
        yield
        return
    import torch
    import torch.distributed as dist

    dist.init_process_group("cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo")
    before, console.quiet = console.quiet, console.quiet or rank() > 0
    try:
        yield
    finally:
        dist.destroy_process_group()
        console.quiet = before


def asked_for() -> int:
    """Number of processes that torchrun started, joined or not."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def _group() -> Any:
    """torch.distributed once processes are joined, else None: a process alone does not wait for torch, which
    takes seconds to import.
    """
    dist = sys.modules.get("torch.distributed")
    return dist if dist is not None and dist.is_initialized() else None


def rank() -> int:
    """Number of this process, 0 for the one that writes."""
    group = _group()
    return group.get_rank() if group else 0


def count() -> int:
    """Number of processes."""
    group = _group()
    return group.get_world_size() if group else 1


def local_rank() -> int:
    """Number of this process on its machine, which is the number of its GPU."""
    return int(os.environ.get("LOCAL_RANK", "0")) if _group() else 0


def agree(value: T) -> T:
    """The value that rank 0 has, on every process."""
    group = _group()
    if not group:
        return value
    box = [value]
    group.broadcast_object_list(box)
    return box[0]


def share(total: int, size: int) -> tuple[int, int]:
    """The part [start, stop) of `total` items that belongs to this process, cut at multiples of `size`."""
    chunks = -(-total // size)
    edges = [min(total, size * -(-chunks * part // count())) for part in (rank(), rank() + 1)]
    return edges[0], edges[1]


def add_up(tensors: "Iterable[torch.Tensor]") -> None:
    """Replace every tensor by its sum over all processes, in place."""
    group = _group()
    if group:
        for tensor in tensors:
            group.all_reduce(tensor)
