"""Data-parallel training by several single-threaded processes on one machine, which meet once per step.

On a machine that is shared with other work this loses far less than one process with several threads, whose every
matrix product waits for the slowest of them. Without a process group all of this is the identity.
"""

import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path

import torch
import torch.distributed as dist
from torch.multiprocessing.spawn import spawn


def run_workers(num_workers: int, work: Callable[[], None]) -> None:
    """Run `work` in `num_workers` processes of one torch thread each, or right here if it is only one."""
    if num_workers == 1:
        work()
        return
    with tempfile.TemporaryDirectory() as folder:
        spawn(_worker, args=(num_workers, Path(folder) / "store", work), nprocs=num_workers)  # type: ignore[no-untyped-call]


def rank() -> int:
    """This worker's number; 0 keeps the log and saves."""
    return dist.get_rank() if dist.is_initialized() else 0


def num_workers() -> int:
    """How many workers share a step."""
    return dist.get_world_size() if dist.is_initialized() else 1


def wait_for_all() -> None:
    """Return when every worker has come here."""
    if dist.is_initialized():
        dist.barrier()


def average_gradients(parameters: Iterable[torch.nn.Parameter]) -> None:
    """Replace every gradient by its mean over the workers."""
    if not dist.is_initialized():
        return
    gradients = [p.grad for p in parameters if p.grad is not None]
    flat = torch.cat([gradient.flatten() for gradient in gradients])
    dist.all_reduce(flat)
    flat /= num_workers()
    for gradient, mean in zip(gradients, torch.split(flat, [g.numel() for g in gradients]), strict=True):
        gradient.copy_(mean.view_as(gradient))


def _worker(number: int, count: int, store: Path, work: Callable[[], None]) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=number, world_size=count)
    try:
        work()
    finally:
        dist.destroy_process_group()
