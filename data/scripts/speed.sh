#!/usr/bin/env bash
# Speed of checkpoint, ONNX and engines of one model, each that is there. Run from the repository
# root, with nothing else on the GPU.
set -euo pipefail

STEM=${STEM:-weights/yolov5l6_pose}
DATA=${DATA:-data/coco_kpts.yaml}
IMG_SIZE=${IMG_SIZE:-832}          # px
DEVICE=${DEVICE:-0}
PYTHON=${PYTHON:-python}

for weights in "$STEM.pt" "$STEM.onnx" "$STEM.trt" "$STEM-FP16.trt" "$STEM-INT8.trt"; do
    [ -e "$weights" ] || continue
    $PYTHON test_multi_backend.py --weights "$weights" --data "$DATA" --img-size "$IMG_SIZE" \
        --batch-size 1 --task speed --device "$DEVICE" --kpt-label
done
