#!/usr/bin/env bash
# Train (from the weights that are given), or fine-tune with a frozen backbone. Run from the
# repository root. WEIGHTS='' trains from scratch; another size needs CFG and WEIGHTS of it.
set -euo pipefail

WEIGHTS=${WEIGHTS-weights/yolov5s6_pose.pt}
CFG=${CFG:-models/hub/yolov5s6_kpts.yaml}
DATA=${DATA:-data/custom_kpts.yaml}
IMG_SIZE=${IMG_SIZE:-640}          # px
DEVICE=${DEVICE:-0,1}              # GPU indices
PYTHON=${PYTHON:-python}

case ${1:-train} in
train)
    $PYTHON train.py --weights "$WEIGHTS" --cfg "$CFG" --data "$DATA" --hyp data/hyp.scratch.yaml \
        --epochs 300 --batch-size 16 --img-size "$IMG_SIZE" --device "$DEVICE" --workers 8 \
        --kpt-label --project runs/train
    ;;
finetune)
    $PYTHON train.py --weights "$WEIGHTS" --cfg "$CFG" --data "$DATA" --hyp data/hyp.finetune_evolve.yaml \
        --epochs 200 --batch-size 64 --img-size "$IMG_SIZE" --device "$DEVICE" --workers 8 \
        --kpt-label --freeze 12 --project runs/finetune
    ;;
*)
    echo "usage: $0 [train|finetune]" >&2
    exit 1
    ;;
esac
