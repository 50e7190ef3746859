"""The training loop: one process's share of a run.

    trainer = Trainer(model, batches, hyp, options)
    losses = trainer.train_epoch(0)

What lasts longer than an epoch (weights, their average, the optimizer) can be taken out as a
TrainingState and put back: the run then goes on as if nothing had happened, since all randomness
depends on seed, epoch and step alone.
"""

import contextlib
import inspect
import time
from typing import Any, Dict, Iterator, List, NamedTuple, Tuple

import torch
from torch import nn

from models.checkpoint import TrainingState
from models.yolo import Model
from utils.errors import InputError, one_line
from utils.training import distributed
from utils.training.batches import TrainBatch, TrainBatches
from utils.training.distributed import Ranks
from utils.training.ema import Ema
from utils.training.freezing import freeze, keep_statistics
from utils.training.hyper_parameters import Hyp
from utils.training.loss import PARTS, PoseLoss
from utils.training.schedule import Schedule
from utils.training.targets import Targets
from utils.training.warp import WarpPlan, blend, warp

NOMINAL_BATCH = 64  # learning rate and weight decay are meant for it
MAX_GRADIENT = 10.0  # norm at which gradients are clipped
CHECK_STEPS = 50  # how often to look whether the loss is still finite


class TrainerOptions(NamedTuple):
    """How to train; what to learn is in Hyp."""

    epochs: int
    device: torch.device
    ranks: Ranks = Ranks()
    adam: bool = False
    linear_lr: bool = False
    label_smoothing: float = 0.0
    sync_bn: bool = False
    freeze: int = 0  # layers, from the first one
    amp: bool = True  # mixed precision, on a GPU
    compile: bool = False
    graphs: bool = True  # CUDA graphs of the network, where nothing forbids them
    progress: bool = True


class EpochStats(NamedTuple):
    """What an epoch told."""

    losses: Dict[str, float]  # weighted parts and `loss`, means over steps and processes
    images_per_s: float  # of all processes
    memory_gb: float  # of the GPU, highest so far: what tensors and graphs held
    reserved_gb: float  # of the GPU, highest so far: what PyTorch held for them
    lr: float


class Trainer:
    """A model in training.

    Args:
        model: float32; it is moved to the device.
    """

    def __init__(self, model: Model, batches: TrainBatches, hyp: Hyp, *, options: TrainerOptions):
        self.batches, self.hyp, self.options = batches, hyp, options
        device, ranks = options.device, options.ranks
        self.gpu = device.type == "cuda"
        self.model = model.to(device).train()
        self.frozen = freeze(model, options.freeze)
        self.statistics_until = round(options.epochs * (1 - hyp.close_norm))
        self.statistics_kept = False  # those of normalisation: running instead of the batch's
        self.ema = Ema(self.model)
        self.dtype = torch.float32
        if self.gpu and options.amp:
            good = torch.cuda.is_bf16_supported()
            self.dtype = torch.bfloat16 if good else torch.float16
        network: nn.Module = self.model
        synced = options.sync_bn and ranks.world > 1 and self.gpu
        if synced:
            network = nn.SyncBatchNorm.convert_sync_batchnorm(network)
            self.model = network  # type: ignore
        spec = batches.spec
        if self.gpu:
            network = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
            # averaged in one launch if alike
            self.ema.model.to(memory_format=torch.channels_last)
            torch.backends.cudnn.benchmark = not spec.multi_scale
            # One for the whole run: PyTorch keeps freed memory for the stream that used it, so a
            # new stream for each epoch (there are 32) would keep 32 times the memory of a batch.
            self._copies = torch.cuda.Stream(device)
        one_shape = not (spec.multi_scale or spec.rect)
        captured = self.gpu and options.graphs and one_shape and not (synced or options.compile)
        captured = captured and self.statistics_until > 0  # the first epoch would drop the graphs
        if captured:
            self._capture(network)
        if ranks.world > 1:
            where = [device.index] if self.gpu else None
            ddp = nn.parallel.DistributedDataParallel
            # running statistics are those of the first process, which validates and saves
            new = "forward_sync_buffers" in inspect.signature(ddp).parameters  # PyTorch 2.13
            statistics: Any = {"forward_sync_buffers" if new else "broadcast_buffers": False}
            network = ddp(network, device_ids=where, gradient_as_bucket_view=True, **statistics)
        self.network: Any = torch.compile(network) if options.compile else network
        total = batches.spec.batch * ranks.world
        self.accumulate = max(round(NOMINAL_BATCH / total), 1)
        decay = hyp.weight_decay * total * self.accumulate / NOMINAL_BATCH
        self.optimizer = make_optimizer(self.model, hyp, decay, adam=options.adam)
        self.keep_gradients = False
        if captured and self.accumulate > 1:
            self._hold_gradients()
        steps = options.epochs * batches.steps
        self.schedule = Schedule(
            hyp, steps, batches.steps, linear=options.linear_lr, bias_warmup=not options.adam
        )
        self.loss = PoseLoss(
            self.model.head.anchors,
            model.nc,
            model.skeleton.sigmas,
            hyp=hyp,
            label_smoothing=options.label_smoothing,
        )
        self.scaler = torch.amp.GradScaler("cuda", enabled=self.dtype == torch.float16)

    def _capture(self, network: nn.Module) -> None:
        """Replay forward and backward of the network as CUDA graphs, in place.

        A step launches some 2,500 kernels; as graphs they are two launches, so the GPU never waits
        for Python. Raises InputError if the memory of the GPU does not suffice.
        """
        spec = self.batches.spec
        for layer in self.frozen:
            layer.eval()
        images = torch.rand(spec.batch, 3, *spec.size, device=self.options.device)
        images = images.to(memory_format=torch.channels_last)
        # The capture makes the nodes that add up gradients on a stream of its own, for good;
        # PyTorch 2.11 warns of that in each process.
        quiet = getattr(torch.autograd.graph, "set_warn_on_accumulate_grad_stream_mismatch", None)
        if quiet is not None:
            quiet(False)
        # the runs before the capture are no training: their statistics are forgotten
        kept = {name: buffer.clone() for name, buffer in network.named_buffers()}
        try:
            with torch.autocast(
                "cuda", self.dtype, self.dtype != torch.float32, cache_enabled=False
            ):
                torch.cuda.make_graphed_callables(network, (images,))
        except torch.cuda.OutOfMemoryError as e:
            raise InputError(self._memory_advice()) from e
        for name, buffer in network.named_buffers():
            buffer.copy_(kept[name])
        torch.cuda.empty_cache()  # the runs before the capture filled memory that no graph can use

    @property
    def precision(self) -> str:
        return {torch.float32: "FP32", torch.bfloat16: "BF16", torch.float16: "FP16"}[self.dtype]

    # --- one epoch ----------------------------------------------------------------------------

    def train_epoch(self, epoch: int) -> EpochStats:
        """Train on all batches of an epoch.

        Raises InputError if the loss is not finite any more, or the memory of the GPU does not
        suffice.
        """
        batches, options = self.batches, self.options
        if epoch >= self.statistics_until and not self.statistics_kept:
            self.frozen += keep_statistics(self.model, options.ranks)
            self.statistics_kept = True
        self.network.train()
        for layer in self.frozen:
            layer.eval()  # statistics of layers that do not learn stay, too
        total = torch.zeros(len(PARTS) + 1, device=options.device)
        started = time.perf_counter()
        self._forget_gradients()
        source = batches.epoch(epoch)
        device_batches = self._device_batches(source)
        try:
            with self._bar(epoch) as bar:
                for i, (images, targets) in enumerate(device_batches):
                    step = epoch * batches.steps + i
                    last = i + 1 == batches.steps
                    total += self._step(images, targets, step=step, last=last)
                    bar.update()
                    if (i + 1) % CHECK_STEPS == 0 or last:
                        self._check_finite(total, epoch, i)
                        bar.set_postfix_str("loss %.4f" % (float(total[-1]) / (i + 1)))
        except torch.cuda.OutOfMemoryError as e:
            raise InputError(self._memory_advice()) from e
        finally:
            source.close()  # type: ignore  # a generator
        if self.gpu:
            torch.cuda.synchronize(options.device)
        elapsed = time.perf_counter() - started
        world = options.ranks.world
        means = (distributed.mean(total, options.ranks) / batches.steps).tolist()
        images = batches.steps * batches.spec.batch * world
        memory = reserved = 0.0
        if self.gpu:
            memory = torch.cuda.max_memory_allocated(options.device) / 1e9
            reserved = torch.cuda.max_memory_reserved(options.device) / 1e9
        losses = dict(zip((*PARTS, "loss"), means))
        lr = self.optimizer.param_groups[0]["lr"]
        return EpochStats(losses, images / elapsed, memory, reserved, lr)

    def _device_batches(self, source: Iterator[TrainBatch]) -> Iterator[Any]:
        """(images on the device, targets on the device); a batch is warped while the one before
        it is being learnt from."""
        device = self.options.device
        if not self.gpu:
            for batch in source:
                yield to_device(batch, device)
            return
        side, waiting = self._copies, None
        for batch in source:
            with torch.cuda.stream(side):
                images, targets = to_device(batch, device)
                images = images.to(memory_format=torch.channels_last)
                ready = torch.cuda.Event()
                ready.record(side)
            if waiting is not None:
                before = waiting[2]
                yield self._handed_over(*waiting)
                before.synchronize()  # its bytes have left the host: the loader may use them anew
            waiting = images, targets, ready
        if waiting is not None:
            yield self._handed_over(*waiting)

    def _handed_over(self, images: Any, targets: Any, ready: Any) -> Any:
        """Make the main stream wait, and keep the memory until it is done with it."""
        stream = torch.cuda.current_stream(self.options.device)
        stream.wait_event(ready)
        for tensor in (images, *targets[:4]):
            tensor.record_stream(stream)
        return images, targets

    def _step(self, images: Any, targets: Any, *, step: int, last: bool) -> torch.Tensor:
        """Forward, backward, and every `accumulate` steps an update. Returns the loss parts."""
        spec, ranks = self.batches.spec, self.options.ranks
        update = (step + 1) % self.accumulate == 0 or last
        rates = self.schedule(step)
        for group in self.optimizer.param_groups:
            group["lr"] = rates.bias_lr if group["is_bias"] else rates.lr
            if "momentum" in group:
                group["momentum"] = rates.momentum
        held = contextlib.nullcontext()
        if ranks.world > 1 and not update:
            held = self.network.no_sync()
        with held:
            with torch.autocast(
                self.options.device.type, self.dtype, enabled=self.dtype != torch.float32
            ):
                levels = self.network(images)
            mean, parts = self.loss(levels, targets)
            # the sum over the images of all processes; their gradients are averaged
            self.scaler.scale(mean * spec.batch * ranks.world).backward()
        if update:
            self.scaler.unscale_(self.optimizer)
            nn.utils.clip_grad_norm_(self.model.parameters(), MAX_GRADIENT, foreach=True)
            self.scaler.step(self.optimizer)
            self.scaler.update()
            self._forget_gradients()
            self.ema.update(self.model)
        return torch.cat([parts, mean.detach()[None]])

    def _hold_gradients(self) -> None:
        """Let gradients stay where they are.

        A graph writes them into memory of its own, which autograd takes for the gradient of a
        parameter that has none, and which the next replay overwrites: nothing could be added up.
        """
        self.keep_gradients = True
        for parameter in self._parameters():
            parameter.grad = torch.zeros_like(parameter)

    def _forget_gradients(self) -> None:
        self.optimizer.zero_grad(set_to_none=not self.keep_gradients)

    def _check_finite(self, total: torch.Tensor, epoch: int, i: int) -> None:
        value = distributed.mean(total[-1:].clone(), self.options.ranks)
        if not bool(torch.isfinite(value)):
            raise InputError(
                "the loss is not finite any more in epoch %d, step %d; the last good checkpoint is "
                "kept. Lower lr0 or raise warmup_epochs in `hyp`" % (epoch + 1, i + 1)
            )

    def _memory_advice(self) -> str:
        """Batch sizes that fit are guessed from the one that did not."""
        world = self.options.ranks.world
        batch = self.batches.spec.batch
        memory = distributed.memory_limit(self.options.device)
        return "`batch_size` %d: %s do not suffice at %dx%d; try `batch_size` %d" % (
            (batch * world, memory, *self.batches.spec.size, max(batch // 2, 1) * world)
        )

    def _bar(self, epoch: int) -> Any:
        from tqdm import tqdm

        shown = self.options.progress and self.options.ranks.first
        text = "epoch %d/%d" % (epoch + 1, self.options.epochs)
        return tqdm(
            total=self.batches.steps,
            desc=text,
            unit="step",
            leave=False,
            disable=None if shown else True,  # None: on a terminal
        )

    # --- the state ----------------------------------------------------------------------------

    def state(self) -> TrainingState:
        """All that changes while training."""
        tensors = {"model." + k: v for k, v in self.model.state_dict().items()}
        for i, parameter in enumerate(self._parameters()):
            for key, value in self.optimizer.state.get(parameter, {}).items():
                if isinstance(value, torch.Tensor):
                    tensors["optimizer.%d.%s" % (i, key)] = value
        plain: Dict[str, Any] = {"updates": self.ema.updates}
        if self.scaler.is_enabled():
            plain["scaler"] = self.scaler.state_dict()
        return TrainingState(plain, tensors)

    def restore(self, ema: Model, state: TrainingState) -> None:
        """Take up a run: `ema` holds the averaged weights.

        Raises InputError if the state is another network's.
        """
        names = self.model.state_dict()
        mine = {k: state.tensors.get("model." + k) for k in names}
        if any(v is None or v.shape != names[k].shape for k, v in mine.items()):
            raise InputError("`resume`: its tensors are another network's")
        self.ema.model.load_state_dict(ema.state_dict())  # before: `ema` may be the model itself
        self.model.load_state_dict(mine)
        self.ema.updates = int(state.plain["updates"])
        kept: Dict[int, Dict[str, torch.Tensor]] = {}
        for name, tensor in state.tensors.items():
            parts = name.split(".")
            if parts[0] == "optimizer":
                kept.setdefault(int(parts[1]), {})[parts[2]] = tensor
        for i, parameter in enumerate(self._parameters()):
            for key, value in kept.get(i, {}).items():
                if value.shape == parameter.shape:
                    value = torch.empty_like(parameter).copy_(value)
                elif value.numel() != 1:
                    raise InputError("`resume`: the state of its optimizer is another network's")
                self.optimizer.state[parameter][key] = value
        if "scaler" in state.plain:
            try:
                self.scaler.load_state_dict(state.plain["scaler"])
            except (KeyError, TypeError, RuntimeError, AttributeError) as e:
                raise InputError("`resume`: a damaged scaler (%s)" % one_line(e)) from e

    def _parameters(self) -> List[nn.Parameter]:
        return [p for group in self.optimizer.param_groups for p in group["params"]]


def to_device(batch: TrainBatch, device: torch.device) -> Tuple[torch.Tensor, Targets]:
    """(images (B, 3, H, W) float RGB 0..1, Targets) of a batch, on the device."""

    def move(part: Any) -> Any:
        return part.to(device, non_blocking=True) if isinstance(part, torch.Tensor) else part

    plan = WarpPlan(*map(move, batch.plan))
    images = warp(plan, move(batch.pixels), (batch.size[0], batch.size[1]))
    if batch.blended:
        images = blend(plan, images)
    return images, Targets(*map(move, batch.matches))


def make_optimizer(model: Model, hyp: Hyp, decay: float, *, adam: bool) -> torch.optim.Optimizer:
    """SGD with Nesterov momentum or AdamW. Only convolution weights decay."""
    weights, norms, biases = [], [], []
    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False):
            if not parameter.requires_grad:
                continue
            if name == "bias":
                biases.append(parameter)
            elif isinstance(module, nn.modules.batchnorm._BatchNorm):
                norms.append(parameter)
            else:
                weights.append(parameter)
    groups: List[Dict[str, Any]] = [
        {"params": weights, "weight_decay": decay, "is_bias": False},
        {"params": norms, "weight_decay": 0.0, "is_bias": False},
        {"params": biases, "weight_decay": 0.0, "is_bias": True},
    ]
    if adam:
        return torch.optim.AdamW(groups, lr=hyp.lr0, betas=(hyp.momentum, 0.999))
    return torch.optim.SGD(groups, lr=hyp.lr0, momentum=hyp.momentum, nesterov=hyp.momentum > 0)
