import pytest

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402

from models.common import SPP, Conv, Focus, fuse_conv_bn, make_activation  # noqa: E402


def uneven(module):
    for m in module.modules():
        if isinstance(m, nn.BatchNorm2d):
            nn.init.uniform_(m.weight, 0.5, 1.5)
            nn.init.normal_(m.bias)
            nn.init.normal_(m.running_mean)
            nn.init.uniform_(m.running_var, 0.1, 3)
    return module.eval()


@pytest.mark.parametrize("groups", [1, 4])
def test_fused_conv_computes_the_same(groups):
    torch.manual_seed(0)
    conv = uneven(Conv(4, 8, 3, s=2, g=groups))
    x = torch.randn(2, 4, 16, 12)
    expected = conv(x)
    conv.fuse()
    assert isinstance(conv.bn, nn.Identity)
    torch.testing.assert_close(conv(x), expected, rtol=1e-5, atol=1e-6)


def test_fuse_keeps_the_bias_of_the_convolution():
    torch.manual_seed(0)
    conv, bn = nn.Conv2d(2, 3, 1), uneven(nn.BatchNorm2d(3))
    x = torch.randn(1, 2, 4, 4)
    torch.testing.assert_close(fuse_conv_bn(conv, bn)(x), bn(conv(x)), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("k", [1, 3, 5])
@pytest.mark.parametrize("hw", [(8, 8), (16, 24)])
def test_focus_as_one_convolution_computes_the_same(k, hw):
    torch.manual_seed(k)
    focus = uneven(Focus(3, 6, k))
    x = torch.randn(2, 3, *hw)
    expected = focus(x)
    focus.fuse()
    assert focus.conv.conv.in_channels == 3
    torch.testing.assert_close(focus(x), expected, rtol=1e-4, atol=1e-5)
    focus.fuse()  # a second call changes nothing
    torch.testing.assert_close(focus(x), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kernels", [[3, 5, 7], [5, 9, 13], [3, 9]])
def test_pool_cascade_equals_pools_of_full_size(kernels):
    torch.manual_seed(0)
    spp = uneven(SPP(8, 8, kernels))
    x = torch.randn(1, 8, 11, 9)
    y = spp.cv1(x)
    direct = torch.cat([y] + [nn.functional.max_pool2d(y, k, 1, k // 2) for k in kernels], 1)
    assert torch.equal(spp(x), spp.cv2(direct))


def test_spp_refuses_even_windows():
    with pytest.raises(ValueError, match="odd"):
        SPP(8, 8, [2, 4])


@pytest.mark.parametrize("name", ["ReLU", "nn.ReLU", "nn.ReLU()"])
def test_activation_names(name):
    assert isinstance(make_activation(name), nn.ReLU)


def test_unknown_activation_is_named():
    with pytest.raises(ValueError, match="os.system"):
        make_activation("os.system('true')")
