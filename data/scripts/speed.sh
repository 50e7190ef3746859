#!/usr/bin/env bash
# Speed of checkpoint, ONNX and engines of one model, each that is there. Run from the repository
# root, with nothing else on the GPU.
set -euo pipefail

STEM=${STEM:-weights/yolov5s6_pose}
DATA=${DATA:-data/coco_kpts.yaml}
IMG_SIZE=${IMG_SIZE:-640}          # px
DEVICE=${DEVICE:-0}
PYTHON=${PYTHON:-python}

found=0
for weights in "$STEM.pt" "$STEM.onnx" "$STEM.trt" "$STEM-FP16.trt" "$STEM-INT8.trt"; do
    [ -e "$weights" ] || continue
    found=$((found + 1))
    $PYTHON test_multi_backend.py --weights "$weights" --data "$DATA" --img-size "$IMG_SIZE" \
        --batch-size 1 --task speed --device "$DEVICE" --kpt-label
done
[ "$found" -gt 0 ] || {
    echo "error: neither $STEM.pt nor an ONNX or engine of it; set STEM to the path without suffix" >&2
    exit 1
}
