"""The processes of a training run: one for each GPU, on one host or several.

ranks = join_group(device)      # under torchrun, or started by `launch`
ranks.first                     # the process that prints and writes
"""

import datetime
import os
import socket
from typing import Any, Callable, NamedTuple

from utils import cli
from utils.errors import InputError

TIMEOUT = datetime.timedelta(hours=2)  # the others wait while the first one validates


class Ranks(NamedTuple):
    """Where this process stands."""

    rank: int = 0  # among all
    world: int = 1  # processes in all
    local: int = 0  # among those of this host

    @property
    def first(self) -> bool:
        return self.rank == 0


def from_environment() -> Ranks:
    """As torchrun says; alone without it."""
    names = ("RANK", "WORLD_SIZE", "LOCAL_RANK")
    if not all(name in os.environ for name in names):
        return Ranks()
    return Ranks(*(int(os.environ[name]) for name in names))


def join_group(ranks: Ranks, gpu: bool) -> None:
    """Meet the others: NCCL on GPUs, gloo on CPUs."""
    import torch.distributed as dist

    if ranks.world > 1 and not dist.is_initialized():
        dist.init_process_group("nccl" if gpu else "gloo", timeout=TIMEOUT)


def leave_group() -> None:
    """Counterpart of join_group."""
    import torch.distributed as dist

    if dist.is_available() and dist.is_initialized():
        dist.destroy_process_group()


def wait(ranks: Ranks) -> None:
    """Until all are here."""
    if ranks.world > 1:
        import torch.distributed as dist

        dist.barrier()


def mean(tensor: Any, ranks: Ranks) -> Any:
    """Mean of a tensor over all processes."""
    if ranks.world > 1:
        import torch.distributed as dist

        dist.all_reduce(tensor)
        tensor = tensor / ranks.world
    return tensor


def share(value: Any, ranks: Ranks) -> Any:
    """The plain value that the first process has, for all."""
    if ranks.world == 1:
        return value
    import torch.distributed as dist

    box = [value]
    dist.broadcast_object_list(box)
    return box[0]


def launch(worker: Callable[[Any], None], args: Any, processes: int) -> None:
    """Run worker(args) in `processes` processes of this host, which meet through the loopback.

    Raises InputError without words of its own if one failed: that one has said why.
    """
    import torch.multiprocessing as mp

    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), WORLD_SIZE=str(processes))
    try:
        mp.spawn(_start, (worker, args), processes, join=True)
    except mp.ProcessExitedException as e:
        raise InputError("a training process ended with code %s" % e.exit_code) from e


def _start(local: int, worker: Callable[[Any], None], args: Any) -> None:
    import signal
    import sys

    os.environ.update(RANK=str(local), LOCAL_RANK=str(local))
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends us
    try:
        worker(args)
    except InputError as e:
        print("error: %s" % cli.with_flags(str(e)), file=sys.stderr, flush=True)
        sys.exit(1)
