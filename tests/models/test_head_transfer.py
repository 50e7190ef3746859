import pytest

torch = pytest.importorskip("torch")

from models.head_transfer import match_classes, match_keypoints, same_meaning, transfer_head  # noqa: E402
from models.yolo import Model  # noqa: E402
from tests.conftest import randomized, tiny_cfg  # noqa: E402
from utils.pose.keypoints import COCO, plain_skeleton  # noqa: E402
from utils.pose.skeleton import read_skeleton  # noqa: E402


def model_of(names, skel, seed, **changes):
    torch.manual_seed(seed)
    model = randomized(Model(tiny_cfg(**changes), nc=len(names), nkpt=skel.count), seed)
    model.names, model.skeleton = list(names), skel
    return model


def raw_values(model, features):
    """(anchors, values, y, x) of each level."""
    head = model.head
    with torch.no_grad():
        levels = [head.level(i, x) for i, x in enumerate(features)]
    return [t.view(head.na, head.no, *t.shape[2:]) for t in levels]


HAND = read_skeleton({"kpt_names": ["wrist", "nose", "left_eye"]}).skeleton


@pytest.mark.parametrize("dw", [False, True])
@pytest.mark.parametrize(
    "names, skel",
    [(["dog", "person"], COCO), (["person"], HAND), (["person", "cat"], plain_skeleton(17))],
)
def test_values_keep_their_meaning(names, skel, dw):
    old = model_of(["person"], COCO, 0, dw_conv_kpt=dw)
    new = model_of(names, skel, 1, dw_conv_kpt=dw)
    for a, b in zip(old.head.m_kpt, new.head.m_kpt):  # all but the last layer fits as it is
        if dw:
            b[:-1].load_state_dict(a[:-1].state_dict())
    before = [p.detach().clone() for p in new.head.m.parameters()]
    taken = transfer_head(old, new)
    features = [torch.randn(1, m.in_channels, 2, 3) for m in old.head.m]
    pairs = [(i, i) for i in range(5)] + [(5 + names.index("person"), 5)]
    for k, source in enumerate(taken.keypoints):
        if source is not None:
            at = new.head.no_det + 3 * k, old.head.no_det + 3 * source
            pairs += [(at[0] + i, at[1] + i) for i in range(3)]
    here, there = (list(column) for column in zip(*pairs))
    moved = 0
    for was, now in zip(raw_values(old, features), raw_values(new, features)):
        alike = torch.isclose(now[:, here], was[:, there], atol=1e-4).flatten(2).all(2)
        moved += int((~alike).sum())
    assert moved == taken.fresh_rows and (dw or not moved)
    assert any(not torch.equal(a, b) for a, b in zip(before, new.head.m.parameters()))


def test_other_heads_are_left_alone():
    old, new = (model_of(["a"], HAND, i, dw_conv_kpt=bool(i)) for i in range(2))
    before = [p.detach().clone() for p in new.parameters()]
    assert transfer_head(old, new) is None
    assert all(torch.equal(a, b) for a, b in zip(before, new.parameters()))


def test_names_decide():
    assert match_classes(["person", "dog"], ["Dog", "cat"]) == [1, None]
    assert match_classes(["person"], ["hand"]) == [0]  # renamed
    assert match_classes(["person"], ["c0", "c1"]) == [None, None]
    assert match_keypoints(COCO, HAND) == [None, 0, 1]
    assert match_keypoints(COCO, plain_skeleton(17)) == list(range(17))
    assert match_keypoints(COCO, plain_skeleton(4)) == [None] * 4
    assert match_keypoints(plain_skeleton(2), plain_skeleton(3)) == [0, 1, None]


def test_the_same_points_in_another_order_are_not_the_same():
    turned = read_skeleton({"kpt_names": list(COCO.names)[::-1]}).skeleton
    a, b = model_of(["person"], COCO, 0), model_of(["person"], turned, 1)
    assert same_meaning(a, a) and not same_meaning(a, b)
