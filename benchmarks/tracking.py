"""Tracks of a drawn crowd: IDF1, HOTA, CPU time; jitter and lag of smooth keypoints.

    python benchmarks/tracking.py
    python benchmarks/tracking.py --persons 100 --films 1

Films of walkers with known identities (tests/tracking/crowd.py): crossings, two pillars, false
detections, persons who leave and return. Figures by TrackEval; a person who returns counts as
another one. And what --smooth does: jitter of standing persons beside that of the raw points, and
how far the trunk of a walker (0.8 body lengths a second, 30 frames/s) stays behind; noise 1 % of
the body length.
"""

import argparse
import statistics
import sys
import time
from pathlib import Path
from typing import Dict, List, Sequence, Tuple

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.machine import describe
from tests.tracking.crowd import Moment, crowd, film
from tests.tracking.mot_figures import mot_figures
from tests.tracking.walkers import WALK, drawn, jitter, lag_ms
from utils.tracking.smoothing import SmoothConfig
from utils.tracking.tracker import Tracked, Tracker, TrackerConfig

WALLS = ((500, 0, 540, 720), (900, 0, 930, 720))
CONFIGS = {
    "high and low scores": TrackerConfig(high_thres=0.5),
    "high scores only": TrackerConfig(high_thres=0.5, low_thres=0.5),
    "OKS 0.3": TrackerConfig(high_thres=0.5, oks_weight=0.3),
    "OKS 1": TrackerConfig(high_thres=0.5, oks_weight=1.0),
}


def track(moments: Sequence[Moment], config: TrackerConfig) -> Tuple[List[Tracked], List[float]]:
    """Results and milliseconds of CPU of each frame; other programs do not count."""
    tracker, results, times = Tracker(config), [], []
    for moment in moments:
        started = time.thread_time()
        results.append(tracker.update(moment.found))
        times.append(1000 * (time.thread_time() - started))
    return results, times


def smoothing() -> None:
    """Jitter of persons who stand, lag of persons who walk, for several settings."""
    for config in (SmoothConfig(beta=0.0), SmoothConfig(0.5), SmoothConfig(), SmoothConfig(2.0),
                   SmoothConfig(beta=5.0), SmoothConfig(beta=20.0)):  # fmt: skip
        still, _, raw = drawn(config)
        walking, true, _ = drawn(config, speed=WALK, swing=True)
        print(
            "cutoff %g Hz, beta %g: jitter %.0f %%, lag %.0f ms"
            % (config.min_cutoff_hz, config.beta, 100 * jitter(still) / jitter(raw),
               lag_ms(walking, true))
        )  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--persons", type=int, default=20, help="walkers in each film [20]")
    parser.add_argument("--films", type=int, default=8, help="films of 300 frames [8]")
    args = parser.parse_args()
    print(describe())
    smoothing()
    films = [
        film(crowd(args.persons, 300, seed), walls=WALLS, seed=seed, false_rate=0.1)
        for seed in range(args.films)
    ]
    for name, config in CONFIGS.items():
        rows: List[Dict[str, float]] = []
        times: List[float] = []
        for moments in films:
            results, spent = min(
                (track(moments, config) for _ in range(3)), key=lambda r: sum(r[1])
            )
            rows.append(mot_figures(moments, results))
            times += spent
        mean = {key: statistics.mean(row[key] for row in rows) for key in rows[0]}
        shown = ", ".join("%s %.3f" % item for item in mean.items() if item[0] != "IDSW")
        times.sort()
        print(
            "%-20s %s, ID switches a film %.1f; ms a frame: median %.2f, 99 %% below %.2f"
            % (name, shown, mean["IDSW"], times[len(times) // 2], times[int(len(times) * 0.99)])
        )


if __name__ == "__main__":
    main()
