"""A training run from the config to the last checkpoint.

train(TrainConfig(cfg="models/hub/yolov5n6_kpts.yaml", data="data/custom_kpts.yaml"))
"""

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Dict, List, NamedTuple, Optional

from models.checkpoint import TrainingState, load_checkpoint, load_training_state
from models.yolo import Model
from utils import outputs, stopping
from utils.dataset.data_yaml import DataYaml, assumptions, read_data
from utils.dataset.eval_set import EvalSet, check_images, read_eval_set
from utils.errors import InputError
from utils.pose.letterbox import HW, stride_multiple
from utils.training import distributed, facts
from utils.training.assembler import Spec
from utils.training.batches import TrainBatches
from utils.training.config import TrainConfig
from utils.training.distributed import Ranks
from utils.training.hyper_parameters import Hyp, check_hyp, read_hyp
from utils.training.network import anchors_px, build_model, check_freeze, fit_anchors
from utils.training.peers import Peers
from utils.training.progress import (
    Progress,
    broken_line,
    describe,
    epoch_line,
    is_broken,
    run_folder,
)
from utils.training.resume import check_state, last_row, resumed, resumed_alike
from utils.training.train_set import TrainSet, draws_by_need, fault_lines, read_train_set
from utils.training.trainer import Trainer, TrainerOptions
from utils.training.validation import PLAIN_LIMIT, validate
from utils.words import counted

if TYPE_CHECKING:
    import torch


def train(config: TrainConfig) -> None:
    """Train on the GPUs that the config names; under torchrun, the share of this process.

    Raises InputError for what the user can correct.
    """
    if distributed.from_environment().world > 1:
        run_process(config)
        return
    if config.resume:
        config = resumed(config)
    devices = distributed.parse_devices(config.device)
    if len(devices) > 1:
        config.share_of_batch(len(devices))
        read_data(config.data), read_hyp(config.hyp)  # say what is wrong once, not in each process
        distributed.launch(run_process, config, len(devices))
    else:
        run_process(config)


def run_process(config: TrainConfig) -> None:
    """One process of the run."""
    ranks = distributed.from_environment()
    if ranks.world > 1:
        stopping.end_with_parent()
    peers = Peers(ranks)
    run: Optional[PreparedRun] = None
    with peers.alert(lambda: way_on(ranks, run)):
        if config.resume and ranks.world > 1:
            config = resumed_alike(config, peers)
        if config.resume:  # the files of the run go on, wherever its folder was copied from
            outputs.adopt(outputs.writer()._replace(overwrite=True))
        device = distributed.own_device(config.device, ranks)
        config.share_of_batch(ranks.world)
        peers.check_alike("start", facts.of_start(config, device))
        distributed.join_group(ranks, gpu=device.type == "cuda", store=peers.store)
        try:
            run = prepare(config, peers, device)
            if run.unvalidated:
                conclude_epoch(config, run, run.unvalidated)
            for epoch in range(run.progress.epoch, config.epochs):
                run_epoch(config, run, epoch)
            if ranks.first:
                finish(run)
        finally:
            distributed.leave_group()


def way_on(ranks: Ranks, run: "Optional[PreparedRun]") -> str:
    """What to do after another process ended."""
    if not ranks.first:
        return "start all again; `resume` goes on from the last checkpoint of the first process"
    if run is None or not run.progress.last_path.is_file():
        return "no checkpoint was written yet: start all again"
    return "start all again with `resume` %s" % run.progress.last_path


class Beginning(NamedTuple):
    """What a run begins with."""

    model: Model  # of a run that goes on: the averaged weights
    hyp: Hyp
    state: Optional[TrainingState] = None  # of a run that goes on
    unvalidated: Dict[str, float] = {}  # row of its last epoch if that lacks a due validation


class PreparedRun(NamedTuple):
    """A run whose next epoch can begin."""

    trainer: Trainer
    eval_set: EvalSet
    progress: Progress
    unvalidated: Dict[str, float]  # see Beginning


def prepare(config: TrainConfig, peers: Peers, device: "torch.device") -> PreparedRun:
    """Read the data, build the network and make the folder of the run."""
    ranks = peers.ranks
    data = known_data(config)
    eval_set = read_eval_set(data, "val")
    data = data._replace(declared=eval_set.declared)  # a COCO JSON may know more of the keypoints
    model, hyp, state, unvalidated = begin(config, data, ranks=ranks, device=device)
    for line in assumptions(data, model.skeleton):
        ranks.say(line)
    if model.skeleton.flip_index is None:
        hyp = hyp._replace(fliplr=0.0, flipud=0.0)
    check_freeze(model, config.freeze)
    size = stride_multiple(config.size, model.max_stride)
    if size != config.size:
        ranks.say("`img_size` %d %d: rounded up to %d %d, multiples of %d"
                  % (*config.size, *size, model.max_stride))  # fmt: skip
    check_statistics(config, size, model.max_stride, world=ranks.world)
    with peers.one_of_host_first("labels"):
        if ranks.first:  # it validates; now, not after an epoch
            check_images(eval_set, "validation images")
        train_set = read_train_set(
            data, single_class=config.single_cls, workers=max(config.loaders, 1)
        )
    if ranks.world > 1:
        peers.check_alike("data", facts.of_data(train_set, model, hyp))
    for fault in fault_lines(train_set):
        ranks.warn(fault)
    images = counted(train_set.count, "training image")
    seen = counted(eval_set.count, "validation image")
    persons = counted(train_set.persons, "person")
    ranks.say("%s: %s, %s; %s" % (config.data, images, persons, seen))
    if not (config.noautoanchor or config.resume):
        ranks.say(fit_anchors(model, train_set, hyp, size=size, replace=not config.weights))
    spec = batch_spec(config, model, size=size, ranks=ranks, pin=device.type == "cuda")
    options = train_options(config, ranks=ranks, device=device)
    trainer = Trainer(model, make_batches(config, train_set, hyp, spec=spec), hyp, options=options)
    folder = run_folder(config) if ranks.first else Path()
    progress = Progress(config, folder, ranks)
    if ranks.local == 0 and not ranks.first:
        print("%s: the first process, on another host, prints and writes" % peers.place)
    if state is not None:
        trainer.restore(model, state)
        progress.take_up(state)
    ranks.say(
        "%s, batch %d, %s an epoch, %s on %s, results in %s"
        % (counted(ranks.world, "process"), config.batch_size,
           counted(trainer.batches.steps, "step"), trainer.precision,
           distributed.device_name(device), folder)
    )  # fmt: skip
    if ranks.first and state is None:
        try:
            describe(folder, config, trainer)
        except BaseException:  # nothing was trained: nothing stays
            if not config.exist_ok:
                shutil.rmtree(str(folder), ignore_errors=True)
            raise
    return PreparedRun(trainer, eval_set, progress, unvalidated)


def check_statistics(config: TrainConfig, size: HW, stride: int, *, world: int) -> None:
    """Raise InputError if a map of the network holds one value a channel: BatchNorm needs two."""
    smallest = 0.5 if config.multi_scale else 1.0
    cells = [max(round(side * smallest / stride), 1) for side in size]
    if config.share_of_batch(world) == 1 and cells == [1, 1]:
        raise InputError(
            "`batch_size` %d at `img_size` %d %d: each GPU has one image of one cell at stride %d, "
            "and batch statistics need two values; take `batch_size` %d or `img_size` %d"
            % (config.batch_size, *size, stride, 2 * world, round(2 * stride / smallest))
        )


def known_data(config: TrainConfig) -> DataYaml:
    """The data; where its yaml tells nothing of the keypoints, they are those of the weights."""
    data = read_data(config.data)
    if config.weights and not config.resume and not data.declared.told:
        skel = load_checkpoint(config.weights).model.skeleton
        return data._replace(declared=data.declared._replace(skeleton=skel))
    return data


def begin(
    config: TrainConfig, data: DataYaml, *, ranks: Ranks, device: "torch.device"
) -> Beginning:
    """The network and the hyper-parameters, those of the run that goes on if there is one."""
    if isinstance(config.resume, str):  # the latest one has been found
        with distributed.shared_file(config.resume, ranks, device) as path:
            checkpoint, state = load_training_state(path)
        check_state(state, str(config.resume))
        hyp = check_hyp(state.plain["hyp"], config.resume)
        ranks.say("%s: goes on after epoch %d of %d"
                  % (config.resume, state.plain["epoch"], config.epochs))  # fmt: skip
        row = last_row(checkpoint.meta, state.plain["epoch"])
        unvalidated = row if "kpt_ap" not in row and is_due(config, state.plain["epoch"]) else {}
        if unvalidated:
            ranks.say("epoch %d has not been validated: that comes first" % row["epoch"])
        return Beginning(checkpoint.model, hyp, state, unvalidated)
    hyp = read_hyp(config.hyp)
    ranks.say(hyp_line(config))
    if hyp.close_norm == 1 and not config.weights:
        ranks.warn(
            "close_norm 1 in `hyp` %s: from scratch there are no running statistics to normalise "
            "with; set it to 0, or start from `weights`" % config.hyp
        )
    model, lines = build_model(config, data, warn_of=ranks.warn)
    ranks.say("\n".join(lines))
    return Beginning(model, hyp)


def hyp_line(config: TrainConfig) -> str:
    """Which hyper-parameters count, and whether they suit the start."""
    text = "hyper-parameters: %s" % config.hyp
    if config.weights and config.hyp == TrainConfig.hyp:
        text += (
            ", a recipe for training from scratch, with which AP may fall; to fine-tune `weights` "
            "on your own data, `hyp` data/hyp.finetune_custom.yaml is meant"
        )
    return text


def batch_spec(config: TrainConfig, model: Model, *, size: HW, ranks: Ranks, pin: bool) -> Spec:
    """What a batch of this process looks like.

    Args:
        size: (height, width) px of the training images.
        pin: page-locked memory, for copies to a GPU.
    """
    return Spec(
        size=size,
        batch=config.share_of_batch(ranks.world),
        anchors=anchors_px(model),
        strides=[int(s) for s in model.head.stride],
        seed=config.seed,
        rank=ranks.rank,
        world=ranks.world,
        here=ranks.here,
        workers=config.loaders,
        cache=config.cache_images,
        rect=config.rect,
        multi_scale=config.multi_scale,
        pin=pin,
        flip_index=model.skeleton.flip_index,
    )


def make_batches(config: TrainConfig, train_set: TrainSet, hyp: Hyp, *, spec: Spec) -> TrainBatches:
    """All batches of the run."""
    plain_from = round(config.epochs * (1 - hyp.close_mosaic))
    return TrainBatches(train_set, hyp, spec, epochs=config.epochs, plain_from=plain_from)


def train_options(config: TrainConfig, *, ranks: Ranks, device: "torch.device") -> TrainerOptions:
    """How the trainer is to train."""
    return TrainerOptions(
        epochs=config.epochs,
        device=device,
        ranks=ranks,
        adam=config.adam,
        linear_lr=config.linear_lr,
        label_smoothing=config.label_smoothing,
        sync_bn=config.sync_bn,
        freeze=config.freeze,
        amp=not config.no_amp,
        compile=config.compile,
        graphs=not config.no_graphs,
    )


def run_epoch(config: TrainConfig, run: PreparedRun, epoch: int) -> None:
    """Train an epoch, counted from 0, and conclude it."""
    stats = run.trainer.train_epoch(epoch)
    row: Dict[str, float] = {"epoch": epoch + 1, **stats.losses, "lr": stats.lr,
                             "images_per_s": stats.images_per_s,
                             "memory_gb": stats.memory_gb,
                             "reserved_gb": stats.reserved_gb}  # fmt: skip
    conclude_epoch(config, run, row)


def is_due(config: TrainConfig, epoch: int) -> bool:
    """Whether an epoch, counted from 1, is to be validated."""
    return epoch == config.epochs or (not config.notest and epoch % config.val_period == 0)


def conclude_epoch(config: TrainConfig, run: PreparedRun, row: Dict[str, float]) -> None:
    """Validate the epoch of a row where it is due, write the files."""
    trainer, eval_set, progress, _ = run
    ranks = trainer.options.ranks
    epoch = int(row["epoch"])
    due = is_due(config, epoch)
    per_class: List[float] = []
    if due and ranks.first:
        try:
            accuracy = validate(trainer, eval_set, single_class=config.single_cls)
        except InputError as e:  # an image that cannot be decoded: the epoch is not lost
            progress.rescue(trainer, row)
            raise InputError(
                "%s; epoch %d is in %s, `resume` goes on from there"
                % (e, epoch, progress.last_path)
            ) from e
        row.update(accuracy.figures)
        per_class = accuracy.per_class
        if is_broken(row) and not progress.broken:  # the lines of further epochs tell
            ranks.warn(broken_line(epoch, progress))
    if config.image_weights and due:
        batches = trainer.batches
        ap = distributed.share(per_class, ranks)
        batches.redraw(draws_by_need(batches.train_set, ap, len(eval_set.names)))
    if ranks.first:
        progress.finish_epoch(trainer, row, last=epoch == config.epochs)
    ranks.say(epoch_line(row, config.epochs))
    distributed.wait(ranks)


def finish(run: PreparedRun) -> None:
    """Write the last checkpoint and the curves, and say how good the best one is."""
    trainer, _, progress, _ = run
    ranks = trainer.options.ranks
    progress.end(trainer)
    for path, reason in sorted(trainer.batches.broken.items()):
        ranks.warn("could not be decoded, trained without it: %s: %s" % (path, reason))
    ranks.say(progress.verdict())
    if trainer.options.epochs in progress.broken:
        better = progress.best_epoch < trainer.options.epochs
        ranks.warn("last.pt, of the last epoch, predicts no poses" + "; use best.pt" * better)
    if progress.best_plain > PLAIN_LIMIT:
        ranks.warn(
            "best.pt has false detections in plain grey images (score %.2f); what helps: "
            '"Test what you trained" in docs/training.md' % progress.best_plain
        )
