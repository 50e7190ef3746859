#!/usr/bin/env bash
# Annotations of one's own -> label files, lists, COCO JSONs, images to look at, a check.
# Run from the repository root. Before: data/custom_kpts/{images,annotations}, one JSON an image.
set -euo pipefail

ROOT=${ROOT:-data/custom_kpts}
SPLIT=${SPLIT:-0.7 0.2 0.1}        # train val test
PYTHON=${PYTHON:-python}

$PYTHON escalator/json2yolo.py --json_dir "$ROOT/annotations" --label_dir "$ROOT/labels"
# shellcheck disable=SC2086  # three words
$PYTHON escalator/split.py --image_dir "$ROOT/images" --prefix_path ./images/ --out_path "$ROOT" --split $SPLIT
for task in train val; do
    $PYTHON escalator/json2coco.py --json_dir "$ROOT/$task.txt" \
        --save_file "$ROOT/annotations-trainval/person_keypoints_$task.json"
done
$PYTHON escalator/visual.py --data_root "$ROOT" --data_file train.txt --visual_num 5 --save_dir runs/visual
$PYTHON escalator/check.py --data data/custom_kpts.yaml
