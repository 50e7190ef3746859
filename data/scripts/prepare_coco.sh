#!/usr/bin/env bash
# COCO 2017 keypoints: download (about 20 GB), label files, lists, a check. Run from the
# repository root. Downloads that were interrupted go on where they stopped.
set -euo pipefail

ROOT=${ROOT:-data/coco_kpts}
URL=${URL:-http://images.cocodataset.org}
PYTHON=${PYTHON:-python}

mkdir -p "$ROOT/images"
for zip in zips/train2017 zips/val2017 annotations/annotations_trainval2017; do
    curl -fL -C - -o "$ROOT/$(basename "$zip").zip" "$URL/$zip.zip"
done
unzip -nq "$ROOT/train2017.zip" -d "$ROOT/images"
unzip -nq "$ROOT/val2017.zip" -d "$ROOT/images"
unzip -nq "$ROOT/annotations_trainval2017.zip" -d "$ROOT"
for task in train2017 val2017; do
    $PYTHON escalator/json2yolo.py --json_dir "$ROOT/annotations/person_keypoints_$task.json" \
        --image_dir "$ROOT/images/$task" --label_dir "$ROOT/labels/$task"
    # images with somebody on them
    find "$ROOT/labels/$task" -name '*.txt' -size +0 -exec basename {} .txt \; | sort |
        sed "s|.*|./images/$task/&.jpg|" >"$ROOT/$task.txt"
done
$PYTHON escalator/check.py --data data/coco_kpts.yaml
