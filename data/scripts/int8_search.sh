#!/usr/bin/env bash
# INT8 calibration: which number of images, batch and method keep the accuracy. Builds an engine
# for each and tests it; the results lie in runs/int8/<method>-n<count>-b<batch>. Run from the
# repository root. Calibration caches are kept apart, so that each is made anew.
set -euo pipefail

ONNX=${ONNX:-weights/yolov5s6_pose.onnx}
DATA=${DATA:-data/custom_kpts.yaml}
IMAGES=${IMAGES:-data/custom_kpts/images}
IMG_SIZE=${IMG_SIZE:-640}          # px
DEVICE=${DEVICE:-0}
COUNTS=${COUNTS:-256 512 1024}     # images
BATCHES=${BATCHES:-32 64 128}
METHODS=${METHODS:-MinMax Entropy}
PYTHON=${PYTHON:-python}

for method in $METHODS; do
    for count in $COUNTS; do
        for batch in $BATCHES; do
            name="$method-n$count-b$batch"
            $PYTHON models/export_TRT.py --onnx "$ONNX" --batch-size 1 --device "$DEVICE" --int8 \
                --calib_path "$IMAGES" --calib_num "$count" --calib_batch "$batch" \
                --calib_imgsz "$IMG_SIZE" --calib_method "$method" --cache_dir "caches/$name"
            $PYTHON test_multi_backend.py --weights "${ONNX%.onnx}-INT8.trt" --data "$DATA" \
                --img-size "$IMG_SIZE" --conf-thres 0.001 --iou-thres 0.6 --task val \
                --device "$DEVICE" --kpt-label --project runs/int8 --name "$name"
        done
    done
done
