"""Whether a model and a dataset are about the same things: classes and keypoints."""

from typing import Sequence

from utils.dataset.eval_set import EvalSet
from utils.errors import InputError, warn
from utils.pose.keypoints import Skeleton, keypoint_name, skeleton
from utils.pose.letterbox import stride_multiple
from utils.runtime.backend import Backend
from utils.runtime.predictor import Predictor


def check_model(predictor: Predictor, eval_set: EvalSet, single_class: bool = False) -> None:
    """Raise InputError if keypoints or classes of model and data differ, or nothing is there."""
    backend = predictor.backend
    if not eval_set.count:
        raise InputError("no images to test on")
    if backend.nkpt != eval_set.nkpt:
        raise InputError(
            "the model has %d keypoints, the data %d; test it on data of its own kind "
            "(key kpt_shape or nkpt of the data yaml)" % (backend.nkpt, eval_set.nkpt)
        )
    common_skeleton(backend, eval_set)
    if backend.nc != len(eval_set.names) and not single_class:
        raise InputError(
            "the model has %d classes (%s), the data %d (%s); `single_cls` takes all as one"
            % (
                backend.nc,
                ", ".join(backend.names[:5]),
                len(eval_set.names),
                ", ".join(eval_set.names[:5]),
            )
        )


def check_sizes(backend: Backend, sizes: Sequence[int]) -> None:
    """Raise InputError for a model of fixed size that cannot run at each of these sizes, px."""
    fixed = backend.static_hw
    wanted = {stride_multiple((side, side), backend.stride) for side in sizes}
    if fixed is not None and wanted != {fixed}:
        raise InputError(
            "`task` study needs a .pt, or a file exported with `dynamic`; this one is fixed to "
            "%d %d" % fixed
        )


def common_skeleton(backend: Backend, eval_set: EvalSet) -> Skeleton:
    """What the keypoints are: as the data says; if it does not say it, as the model does.

    Warns where the model cannot know, as files of older versions do not. Raises InputError if
    model and data name other keypoints.
    """
    model, data = backend.skeleton, eval_set.skeleton
    if not eval_set.declared.names_told:
        return model._replace(sigmas=data.sigmas) if eval_set.declared.sigmas_told else model
    pairs = zip(map(keypoint_name, model.names), map(keypoint_name, data.names))
    different = [k for k, (ours, theirs) in enumerate(pairs) if ours != theirs]
    if model.numbered or data.numbered or not different:
        return data
    k = different[0]
    message = "keypoint %d is %s in the model and %s in the data" % (
        k + 1, model.names[k], data.names[k],
    )  # fmt: skip
    if model == skeleton(backend.nkpt):
        warn(message + "; the names of the data are used, as the model may not know its own")
        return data
    raise InputError(message + "; test it on data of its own kind (key kpt_names of the data yaml)")
