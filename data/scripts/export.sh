#!/usr/bin/env bash
# Checkpoint -> ONNX, with and without NMS inside -> TensorRT FP16. Run from the repository root.
# The ONNX files stay FP32: export_TRT.py rounds the weights, and --half would replace X.onnx.
set -euo pipefail

WEIGHTS=${WEIGHTS:-weights/yolov5s6_pose.pt}
IMG_SIZE=${IMG_SIZE:-640}          # px
DEVICE=${DEVICE:-0}
PYTHON=${PYTHON:-python}
STEM=${WEIGHTS%.pt}

$PYTHON models/export_onnx.py --weights "$WEIGHTS" --img-size "$IMG_SIZE" --device "$DEVICE" \
    --batch-size 1 --simplify
$PYTHON models/export_onnx.py --weights "$WEIGHTS" --img-size "$IMG_SIZE" --device "$DEVICE" \
    --batch-size 1 --simplify --end2end --topk-all 100 --iou-thres 0.45 --conf-thres 0.5
for onnx in "$STEM.onnx" "$STEM-NMS.onnx"; do
    $PYTHON models/export_TRT.py --onnx "$onnx" --batch-size 1 --device "$DEVICE" --fp16
done
