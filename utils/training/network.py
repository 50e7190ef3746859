"""The network at the beginning of a run: built, given weights, its anchors fitted to the data.

model, lines = build_model(config, read_data(config.data))
text = fit_anchors(model, train_set, hyp, size=(640, 640))
"""

from typing import Callable, List, Optional, Tuple

import numpy as np

from models.cfg import read_cfg
from models.checkpoint import Checkpoint, load_checkpoint
from models.head_transfer import Taken, same_meaning, transfer_head, value_names
from models.yolo import Model
from utils.dataset.data_yaml import DataYaml
from utils.errors import InputError, warn
from utils.pose.keypoints import Skeleton
from utils.pose.letterbox import HW
from utils.training import anchors
from utils.training.config import TrainConfig
from utils.training.hyper_parameters import Hyp
from utils.training.train_set import TrainSet

KEPT_SHARE = 0.5  # of the tensors; with fewer a run is one from scratch


def build_model(
    config: TrainConfig, data: DataYaml, *, warn_of: Callable[[str], None] = warn
) -> Tuple[Model, List[str]]:
    """(network with the weights that fit, lines that tell what was taken over).

    Args: warn_of: told if most of the weights do not fit.

    Raises InputError for a `cfg` that is none, and for weights of another network.
    """
    import torch

    checkpoint: Optional[Checkpoint] = load_checkpoint(config.weights) if config.weights else None
    nc = 1 if config.single_cls else data.nc
    torch.manual_seed(config.seed)
    try:
        cfg = read_cfg(config.cfg) if config.cfg else checkpoint.model.cfg  # type: ignore
    except (InputError, ValueError) as e:
        raise InputError("`cfg` %s" % e) from e
    if cfg.get("ch", 3) != 3:
        raise InputError("`cfg` %s: ch %s, expected 3 (RGB)" % (config.cfg, cfg["ch"]))
    try:
        model = Model(cfg, nc=nc, nkpt=data.nkpt)
    except ValueError as e:
        raise InputError("`cfg` %s: %s" % (config.cfg or config.weights, e)) from e
    model.names = ["object"] if config.single_cls and data.nc > 1 else list(data.names)
    model.skeleton = _skeleton(data, checkpoint)
    count = model.parameter_count() / 1e6
    lines = ["%s: %.1f M parameters" % (config.cfg or config.weights, count)]
    if checkpoint is not None:
        lines.append(transfer(checkpoint.model, model, config, warn_of=warn_of))
        if model.head.nc == 1:
            model.head.settle_class()
            lines.append(
                "the data have one class, so a class probability tells nothing: it is set to 1, "
                "and the score of a detection is its objectness; scores can be higher than with %s"
                % config.weights
            )
    else:
        lines.append("no `weights`: from scratch")
    return model, lines


def _skeleton(data: DataYaml, checkpoint: Optional[Checkpoint]) -> Skeleton:
    """What the keypoints are: as the data says; if it does not say it, as the weights do."""
    mine = data.skeleton
    if checkpoint is None or data.declared.names_told or checkpoint.model.nkpt != data.nkpt:
        return mine
    theirs = checkpoint.model.skeleton
    return theirs._replace(sigmas=mine.sigmas) if data.declared.sigmas_told else theirs


def transfer(
    source: Model, model: Model, config: TrainConfig, *, warn_of: Callable[[str], None] = warn
) -> str:
    """Copy the tensors of the same name and shape to `model`; says which are not.

    Where classes or keypoints are others, the last convolutions of the head are copied value by
    value. Anchors are those of `cfg` where the config names one. Raises InputError if nothing fits.
    """
    mine, theirs = model.state_dict(), source.state_dict()
    anchors_of_cfg = ("anchors", "anchor_grid") if config.cfg else ()
    fitting = {
        k: v
        for k, v in theirs.items()
        if k in mine and mine[k].shape == v.shape and k.rsplit(".", 1)[-1] not in anchors_of_cfg
    }
    others = not same_meaning(source, model)
    of_values = value_names(model) if others else []
    fitting = {k: v for k, v in fitting.items() if k not in of_values}
    learnt = {k for k, _ in model.named_parameters()}
    taken = [k for k in fitting if k in learnt]
    if not taken:
        raise InputError(
            "`cfg` %s: none of its tensors has the shape it has in `weights` %s; is it the cfg of "
            "these weights?" % (config.cfg, config.weights)
        )
    if len(taken) < KEPT_SHARE * len(learnt):
        warn_of(
            "only %d of the %d tensors of `cfg` %s are taken over from `weights` %s, the others "
            "have another name or shape and start fresh; is it the cfg of these weights?"
            % (len(taken), len(learnt), config.cfg, config.weights)
        )
    model.load_state_dict(fitting, strict=False)
    rearranged = transfer_head(source, model) if others else None
    left = [k for k in learnt if k not in fitting]
    text = "%s: %d of %d tensors taken over" % (config.weights, len(taken), len(learnt))
    if left:
        layers = sorted({".".join(k.split(".")[:2]) for k in left}, key=lambda k: (len(k), k))
        word = "fresh are" if rearranged is None else "value by value"
        text += "; %s %d in %s" % (word, len(left), ", ".join(layers))
    if rearranged is not None:
        text += "\n" + _told(rearranged, model)
    return text


def _told(taken: Taken, model: Model) -> str:
    """What the values of the head kept of the weights."""
    parts = ["the head keeps boxes and objectness"]
    for what, names, found in (
        ("class", model.names, taken.classes),
        ("keypoint", model.skeleton.names, taken.keypoints),
    ):
        kept = [name for name, i in zip(names, found) if i is not None]
        fresh = [name for name, i in zip(names, found) if i is None]
        text = "%s %s" % (what, ", ".join(kept)) if len(kept) < 5 else "%d %ss" % (len(kept), what)
        parts.append(text if kept else "no %s" % what)
        if fresh:
            parts[-1] += " (fresh: %s)" % (", ".join(fresh[:5]) + (", ..." if fresh[5:] else ""))
    if taken.fresh_rows:
        parts.append("but %d channels that moved to the other convolution" % taken.fresh_rows)
    return "; ".join(parts)


def check_freeze(model: Model, layers: int) -> None:
    """Raise InputError if all layers were to stay as they are."""
    if layers >= len(model.model):
        raise InputError(
            "`freeze` %d: the network has %d layers, and the last has to learn; expected at most %d"
            % (layers, len(model.model), len(model.model) - 1)
        )


def anchors_px(model: Model) -> np.ndarray:
    """(levels, anchors, 2) w h px of the head, float64."""
    stride = model.head.stride.cpu().view(-1, 1, 1)
    return (model.head.anchors.cpu() * stride).numpy().astype(np.float64)


def fit_anchors(
    model: Model, train_set: TrainSet, hyp: Hyp, *, size: HW, replace: bool = True
) -> str:
    """Replace the anchors where they do not fit the boxes; says what was found.

    Args:
        size: (height, width) px of the training images.
        replace: False where the head has learnt with these anchors: with others it predicts
            nonsense.
    """
    import torch

    head = model.head
    px = anchors_px(model)
    recall, found = anchors.check(train_set, px, size, anchor_t=hyp.anchor_t)
    text = "anchors: %.1f %% of the boxes have a similar one" % (100 * recall)
    if found is px:
        return text
    if not replace:
        return text + "; they are kept, for the head of `weights` knows no others"
    with torch.no_grad():
        exact = torch.from_numpy(found).float()
        head.anchors.copy_(exact / head.stride.view(-1, 1, 1))
        head.anchor_grid.copy_(exact.view_as(head.anchor_grid))
    model.cfg["anchors"] = [[round(v, 1) for v in level.ravel().tolist()] for level in found]
    share = anchors.best_recall(
        anchors.box_sizes(train_set, size), found.reshape(-1, 2), hyp.anchor_t
    )
    return text + "; new ones: %.1f %% (`noautoanchor` keeps the old)" % (100 * share)
