#!/usr/bin/env bash
# As many COCO images as one's own, to fine-tune on both. Run from the repository root, after
# prepare_custom.sh and prepare_coco.sh; then name both lists under `train` of the data yaml.
set -euo pipefail

CUSTOM=${CUSTOM:-data/custom_kpts/train.txt}
COCO=${COCO:-data/coco_kpts/train2017.txt}
PYTHON=${PYTHON:-python}

$PYTHON escalator/extract_equivalent_coco.py --custom_data "$CUSTOM" --coco_data "$COCO"
