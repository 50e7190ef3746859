"""The processes of a training run: one for each GPU, on one host or several.

ranks = from_environment()      # under torchrun, or started by `launch`
join_group(ranks, gpu=True)
ranks.first                     # the process that prints and writes
"""

import contextlib
import datetime
import os
import socket
import tempfile
from typing import TYPE_CHECKING, Callable, Iterator, List, NamedTuple, Optional, TypeVar

from utils import cli, outputs
from utils.device import check_gpu
from utils.errors import InputError, warn

if TYPE_CHECKING:
    import torch
    from torch.distributed import Store

Value = TypeVar("Value")
Config = TypeVar("Config")
TIMEOUT = datetime.timedelta(minutes=30)  # the others wait while the first one validates
CHUNK = 64 << 20  # bytes of a file that are sent at a time


class Ranks(NamedTuple):
    """Where this process stands."""

    rank: int = 0  # among all
    world: int = 1  # processes in all
    local: int = 0  # among those of this host
    here: int = 1  # processes of this host

    @property
    def first(self) -> bool:
        return self.rank == 0

    def say(self, text: str) -> None:
        """Print a line once, in the first process; parameters in backticks become flags."""
        if self.first:
            print(cli.with_flags(text))

    def warn(self, text: str) -> None:
        """Warn once, in the first process."""
        if self.first:
            warn(text)


def from_environment() -> Ranks:
    """As torchrun says; alone without it."""
    names = ("RANK", "WORLD_SIZE", "LOCAL_RANK")
    if not all(name in os.environ for name in names):
        return Ranks()
    rank, world, local = (int(os.environ[name]) for name in names)
    return Ranks(rank, world, local, int(os.environ.get("LOCAL_WORLD_SIZE", world)))


def parse_devices(text: str) -> List["torch.device"]:
    """`device` -> devices: cpu, a GPU index or several. Raises InputError if one is not there."""
    import torch

    text = text.strip()
    if text == "cpu" or (not text and not torch.cuda.is_available()):
        return [torch.device("cpu")]
    words = [w.strip() for w in (text or "0").split(",")]
    if not all(w.isdigit() for w in words) or len(set(words)) != len(words):
        raise InputError("`device` %s: expected cpu, a GPU index or several such as 0,1" % text)
    last = max(int(w) for w in words)
    check_gpu(last, torch.cuda.device_count(), "PyTorch " + torch.__version__)
    return [torch.device("cuda", int(w)) for w in words]


def own_device(text: str, ranks: Ranks) -> "torch.device":
    """The device of this process, which becomes the current one.

    Args: text: `device` of this host, see parse_devices; empty: with several processes each has
    a GPU of its own.

    Raises InputError if this host has more processes than GPUs, or `device` names more.
    """
    import torch

    if not text.strip() and ranks.world > 1 and torch.cuda.is_available():
        text = ",".join(map(str, range(min(ranks.here, torch.cuda.device_count()))))
    devices = parse_devices(text)
    if devices[0].type == "cpu":
        return devices[0]
    if ranks.world > 1 and ranks.here != len(devices):
        raise InputError(
            "`device` %s: %d GPUs, but %d processes on this host; each takes one GPU, "
            "torchrun --nproc-per-node says how many" % (text, len(devices), ranks.here)
        )
    torch.cuda.set_device(devices[ranks.local])
    return devices[ranks.local]


def device_name(device: "torch.device") -> str:
    """`CPU`, or the name of the GPU."""
    import torch

    return "CPU" if device.type == "cpu" else torch.cuda.get_device_name(device)


def memory_limit(device: "torch.device") -> str:
    """How much memory of its GPU this process may take, such as `80 GB of GPU memory`.

    Releases of PyTorch without get_per_process_memory_fraction do not tell of a limit.
    """
    import torch

    total = torch.cuda.get_device_properties(device).total_memory / 1e9
    share_of = getattr(torch.cuda, "get_per_process_memory_fraction", None)
    share = 1.0 if share_of is None else share_of(device)
    if share < 1:
        text = "the %.1f of %.0f GB of GPU memory that PyTorch is limited to"
        return text % (share * total, total)
    return "%.0f GB of GPU memory" % total


def join_group(ranks: Ranks, *, gpu: bool, store: Optional["Store"] = None) -> None:
    """Connect with the others: NCCL on GPUs, gloo on CPUs.

    Args: store: where they met, see Peers; without one they meet now.
    """
    import torch.distributed as dist

    if ranks.world > 1 and not dist.is_initialized():
        dist.init_process_group(
            "nccl" if gpu else "gloo",
            store=store,
            rank=ranks.rank,
            world_size=ranks.world,
            timeout=TIMEOUT,
        )


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


def mean(tensor: "torch.Tensor", ranks: Ranks) -> "torch.Tensor":
    """Mean of a tensor over all processes."""
    if ranks.world > 1:
        import torch.distributed as dist

        dist.all_reduce(tensor)
        tensor = tensor / ranks.world
    return tensor


def share(value: Value, ranks: Ranks) -> Value:
    """The plain value that the first process has, for all."""
    if ranks.world == 1:
        return value
    import torch.distributed as dist

    box = [value]
    dist.broadcast_object_list(box)
    return box[0]


@contextlib.contextmanager
def shared_file(path: str, ranks: Ranks, device: "torch.device") -> Iterator[str]:
    """A file that the first process has, as a path for each: the others get a copy for a while.

    Args: device: of this process; the bytes travel through it.
    """
    if ranks.world == 1:
        yield path
        return
    import torch
    import torch.distributed as dist

    size = share(os.path.getsize(path) if ranks.first else 0, ranks)
    with tempfile.TemporaryDirectory() as folder:
        copy = path if ranks.first else os.path.join(folder, "copy" + os.path.splitext(path)[1])
        with open(copy, "rb" if ranks.first else "wb") as file:
            for begin in range(0, size, CHUNK):
                length = min(CHUNK, size - begin)
                part = torch.empty(length, dtype=torch.uint8)
                if ranks.first:
                    file.readinto(memoryview(part.numpy()))  # type: ignore[attr-defined]
                part = part.to(device)
                dist.broadcast(part, 0)
                if not ranks.first:
                    file.write(memoryview(part.cpu().numpy()))
        yield copy


def launch(worker: Callable[[Config], None], config: Config, processes: int) -> None:
    """Run worker(config) in `processes` processes of this host, which meet through the loopback.

    Raises InputError without words of its own if one failed: that one has said why.
    """
    import torch.multiprocessing as mp

    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    os.environ.pop("TORCHELASTIC_USE_AGENT_STORE", None)  # of a torchrun with one process
    os.environ.update(
        MASTER_ADDR="127.0.0.1",
        MASTER_PORT=str(port),
        WORLD_SIZE=str(processes),
        LOCAL_WORLD_SIZE=str(processes),
    )
    try:
        job = _ChildProcess(worker, config, outputs.writer())
        mp.spawn(_start, (job,), processes, join=True)
    except mp.ProcessExitedException as e:
        raise InputError("a training process ended with code %s" % e.exit_code) from e


class _ChildProcess(NamedTuple):
    """What a process of `launch` does."""

    worker: Callable[..., None]
    config: object
    writer: outputs.Writer


def _start(local: int, job: _ChildProcess) -> None:
    """A process of `launch`: errors and warnings for people on one line, as cli.run shows them."""
    import signal
    import sys

    os.environ.update(RANK=str(local), LOCAL_RANK=str(local))
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends us
    cli.show_warnings()
    outputs.adopt(job.writer)
    try:
        job.worker(job.config)
    except InputError as e:
        print("error: %s" % cli.with_flags(str(e)), file=sys.stderr, flush=True)
        sys.exit(1)
