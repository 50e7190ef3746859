"""How far a run is, and the files it writes.

progress = Progress(config, folder, ranks)
progress.finish_epoch(trainer, row, last=False)
progress.end(trainer)
"""

import time
from pathlib import Path
from typing import Any, Dict, List

from models.checkpoint import TrainingState, save_checkpoint
from utils.evaluation import charts
from utils.files import atomic_path, increment_dir
from utils.outputs import check_all_replaceable
from utils.pose.detections import MAX_PX
from utils.training import run_log
from utils.training.config import TrainConfig
from utils.training.distributed import Ranks
from utils.training.loss import PARTS
from utils.training.trainer import Trainer, to_device
from utils.training.validation import PLAIN_LIMIT

SAVE_SHARE = 0.03  # of the time at most goes into writing last.pt
DRAWN_BATCHES = 3
NAMES = ("weights/best.pt", "weights/last.pt", "results.csv", "results.png", "opt.yaml",
         "hyp.yaml", "labels.png")  # fmt: skip


class Progress:
    """The epochs that are done and the best one so far; only the first process writes."""

    def __init__(self, config: TrainConfig, folder: Path, ranks: Ranks):
        self.config, self.folder = config, folder
        self.epoch = 0  # done
        self.best, self.best_box, self.best_epoch = -1.0, -1.0, 0
        self._log = run_log.TrainLog(folder) if ranks.first else None
        self._saved_at, self._save_s = 0.0, 0.0

    def take_up(self, state: TrainingState) -> None:
        """Go on where the state was saved."""
        self.epoch = int(state.plain["epoch"])
        self.best = float(state.plain["best"])
        self.best_box = float(state.plain.get("best_box", -1.0))
        self.best_epoch = int(state.plain["best_epoch"])
        if self._log is not None:
            self._log.rows = run_log.read_rows(self.folder / "results.csv", self.epoch)

    @property
    def best_plain(self) -> float:
        """plain_score of the best epoch."""
        rows = self._log.rows if self._log is not None else []
        return max((r.get("plain_score", 0.0) for r in rows if r["epoch"] == self.best_epoch),
                   default=0.0)  # fmt: skip

    @property
    def broken(self) -> List[int]:
        """Epochs, from 1, whose predictions were no poses."""
        rows = self._log.rows if self._log is not None else []
        return [int(row["epoch"]) for row in rows if is_broken(row)]

    @property
    def best_path(self) -> Path:
        """The checkpoint of the best epoch."""
        return self.folder / "weights" / "best.pt"

    @property
    def last_path(self) -> Path:
        """The checkpoint of the last epoch; with it a run goes on."""
        return self.folder / "weights" / "last.pt"

    def finish_epoch(self, trainer: Trainer, row: Dict[str, float], *, last: bool) -> None:
        """Write the row, best.pt if it is one, last.pt.

        Weights whose predictions are no poses are the best ones only if there are no others.
        """
        self._add(row)
        kept = last or not self.config.nosave  # an epoch that no file holds is not the best one
        if kept and ((self._is_best(row) and not is_broken(row)) or (last and not self.best_epoch)):
            self.best, self.best_box = row.get("kpt_ap", -1.0), row.get("box_ap", -1.0)
            self.best_epoch = self.epoch
            self._save(self.best_path, trainer, row)
        if last or self.config.nosave:
            return
        pause = time.perf_counter() - self._saved_at
        if not self._saved_at or pause * SAVE_SHARE >= self._save_s:
            started = time.perf_counter()
            self._save(self.last_path, trainer, row, resumable=True)
            self._saved_at = time.perf_counter()
            self._save_s = self._saved_at - started

    def rescue(self, trainer: Trainer, row: Dict[str, float]) -> None:
        """Write the row and last.pt, however lately it was written: the run ends with an error."""
        self._add(row)
        self._save(self.last_path, trainer, row, resumable=True)

    def _add(self, row: Dict[str, float]) -> None:
        self.epoch = int(row["epoch"])
        assert self._log is not None
        self._log.add(row)

    def _is_best(self, row: Dict[str, float]) -> bool:
        """By keypoint AP; while that is 0, or nothing tells it, by box AP, then the later epoch."""
        if "kpt_ap" not in row:
            return False
        if row["kpt_ap"] > 0 or self.best > 0:
            return row["kpt_ap"] > max(self.best, 0.0)
        return max(row.get("box_ap", -1.0), 0.0) >= max(self.best_box, 0.0)

    def verdict(self) -> str:
        """How good the best epoch is."""
        figure = "best keypoint AP %.4f" % max(self.best, 0.0)
        if self.best <= 0:
            figure += " (0 or undefined: chosen by box AP, %.4f)" % max(self.best_box, 0.0)
        return "%s in epoch %d: %s" % (figure, self.best_epoch, self.best_path)

    def end(self, trainer: Trainer) -> None:
        """The last weights as a plain checkpoint; the curves."""
        assert self._log is not None
        row = self._log.rows[-1] if self._log.rows else {}
        if not self.best_epoch:  # the only validation ended with an error, and the run went on
            self.best_epoch = self.epoch
            self._save(self.best_path, trainer, row)
        self._save(self.last_path, trainer, row)
        self._log.close()

    def _save(
        self, path: Path, trainer: Trainer, row: Dict[str, float], *, resumable: bool = False
    ) -> None:
        meta: Dict[str, Any] = {
            "epoch": self.epoch,
            "epochs": self.config.epochs,
            "imgsz": list(trainer.batches.spec.size),
            "metrics": {k: float(v) for k, v in row.items()},
        }
        if not resumable:
            save_checkpoint(path, trainer.ema.model, meta, half=True)
            return
        state = trainer.state()
        state.plain.update(
            epoch=self.epoch,
            best=self.best,
            best_box=self.best_box,
            best_epoch=self.best_epoch,
            args={k: v for k, v in self.config.plain().items() if k != "resume"},
            hyp=dict(trainer.hyp._asdict()),
        )
        save_checkpoint(path, trainer.ema.model, meta, training=state)


def run_folder(config: TrainConfig) -> Path:
    """`project`/`name`, made where it is new; for a run that goes on its own."""
    if isinstance(config.resume, str):
        return Path(config.resume).resolve().parents[1]
    folder = increment_dir(config.project, config.name, config.exist_ok)
    check_all_replaceable(folder / name for name in NAMES)  # not after the first epoch
    return folder


def describe(folder: Path, config: TrainConfig, trainer: Trainer) -> None:
    """Write opt.yaml, hyp.yaml, an overview of the labels and the first batches."""
    import yaml

    for name, content in (("opt.yaml", config.plain()), ("hyp.yaml", trainer.hyp._asdict())):
        with atomic_path(folder / name) as tmp:
            tmp.write_text(yaml.safe_dump(dict(content), sort_keys=False), encoding="utf-8")
    model = trainer.ema.model
    charts.labels_chart(folder / "labels.png", trainer.batches.train_set.labels, model.skeleton)
    for i in range(min(DRAWN_BATCHES, trainer.batches.steps)):
        batch = trainer.batches.one(0, i)
        images, _ = to_device(batch, trainer.options.device)
        path = folder / ("train_batch%d.jpg" % i)
        run_log.write_images(path, images, batch.persons, names=model.names, skel=model.skeleton)


def is_broken(row: Dict[str, float]) -> bool:
    """Whether an epoch was validated, and predicted no poses."""
    return "kpt_ap" in row and "plain_score" not in row


def epoch_line(row: Dict[str, float], epochs: int) -> str:
    """An epoch for people; the parts in brackets add up to the loss."""
    speed = row["images_per_s"]
    shown = [part for part in PARTS if part != "cls" or row[part] > charts.NO_LOSS]
    parts = ["%s %.4f" % (part, row[part]) for part in shown]
    text = "epoch %d/%d  loss %.4f (%s)  %.*f images/s" % (
        row["epoch"], epochs, row["loss"], " ".join(parts),
        0 if speed >= 10 else 1, speed)  # fmt: skip
    if row["memory_gb"]:
        text += "  %.1f GB (%.1f reserved)" % (row["memory_gb"], row["reserved_gb"])
    if "kpt_ap" in row:
        text += "  kpt AP %.4f AP50 %.4f  box AP %.4f AP50 %.4f" % (
            row["kpt_ap"], row["kpt_ap50"], row["box_ap"], row["box_ap50"])  # fmt: skip
    if is_broken(row):
        text += "  no poses: coordinates beyond %g px" % MAX_PX
    if row.get("plain_score", 0.0) > PLAIN_LIMIT:
        text += "  false detections in plain grey (score %.2f)" % row["plain_score"]
    return text


def broken_line(epoch: int, progress: Progress) -> str:
    """What it means that the predictions of an epoch are no poses, and what helps."""
    best = "no best.pt yet"
    if progress.best_path.is_file():
        best = "best.pt of epoch %d stays" % progress.best_epoch
    return (
        "epoch %d: with the running statistics of batch normalisation, which validation uses, the "
        "model predicts coordinates beyond %g px: it counts as AP 0, %s, and training goes on. "
        "What helps: a lower lr0, close_norm: 1.0 or blank: 0.01 in `hyp`; "
        '"Test what you trained" in docs/training.md' % (epoch, MAX_PX, best)
    )
