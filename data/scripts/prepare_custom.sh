#!/usr/bin/env bash
# Annotations of one's own -> label files, lists, COCO JSONs, images to look at, a check.
# Run from the repository root. Before: data/custom_kpts/{images,annotations}, one JSON an image.
# Classes and keypoints are found in the annotations; if they are not COCO's person, or with ROOT=,
# $ROOT/data.yaml declares them for train.py and test_multi_backend.py. One that is there is kept:
# delete it to have it written anew.
set -euo pipefail

ROOT=${ROOT:-data/custom_kpts}
ROOT=${ROOT%/}
SPLIT=${SPLIT:-0.7 0.2 0.1}        # train val test
PYTHON=${PYTHON:-python}
DATA=data/custom_kpts.yaml
IDS=                               # --ids: numbers beside keypoints that are not COCO's

$PYTHON escalator/json2yolo.py --json_dir "$ROOT/annotations" --label_dir "$ROOT/labels"
# shellcheck disable=SC2086  # three words
$PYTHON escalator/split.py --image_dir "$ROOT/images" --prefix_path ./images/ --out_path "$ROOT" --split $SPLIT
for task in train val; do
    $PYTHON escalator/json2coco.py --json_dir "$ROOT/$task.txt" \
        --save_file "$ROOT/annotations-trainval/person_keypoints_$task.json"
done
if [ -f "$ROOT/labels/keypoints.yaml" ]; then
    IDS=--ids
fi
if [ "$IDS" ] || [ "$ROOT" != data/custom_kpts ]; then
    DATA=$ROOT/data.yaml
    if [ -f "$DATA" ]; then
        echo "$DATA is kept as it is"
    else
        {
            printf 'path: .\ntrain: train.txt\nval: val.txt\ntest: test.txt\n'
            printf '%s-annotations: annotations-trainval/person_keypoints_%s.json\n' train train val val
            if [ "$IDS" ]; then
                grep -v '^#' "$ROOT/labels/keypoints.yaml"
            else
                printf 'nc: 1\nnames: [person]\nnkpt: 17\n'
            fi
        } > "$DATA"
    fi
fi
$PYTHON escalator/visual.py --data_root "$ROOT" --data_file train.txt --visual_num 5 --save_dir runs/visual ${IDS:+"$IDS"}
$PYTHON escalator/check.py --data "$DATA"
