from utils.pose import keypoints


def test_coco_layout():
    coco = keypoints.skeleton(17)
    assert len(coco.names) == len(set(coco.names)) == len(keypoints.SIGMAS) == 17
    assert len(coco.limbs) == 19
    assert {i for limb in coco.limbs for i in limb} == set(range(17))


def test_flip_index_swaps_left_and_right_names():
    coco = keypoints.COCO
    for i, j in enumerate(coco.flip_index):
        assert coco.flip_index[j] == i
        swapped = coco.names[i].replace("left", "x").replace("right", "left").replace("x", "right")
        assert coco.names[j] == swapped


def test_other_counts_have_no_pairs():
    other = keypoints.skeleton(5)
    assert len(other.names) == 5 and other.flip_index is None and other.limbs == ()
