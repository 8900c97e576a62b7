"""RAFT: names, sizes, and each of its steps by hand. There are no published weights here to compare flows with."""

import pytest
import torch
from torch.nn import functional as F

from pellucid.errors import ConfigError, InputError, WeightsError
from pellucid.nn.raft import RAFT, correlation_pyramid, look_up, torchvision_names, upsample

PARAMETERS = 5_257_536  # as published with torchvision's raft_large


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    return RAFT().eval()


def originals(state):
    """The same weights under the original code's names, as ``raft-things.pth`` holds them."""
    renamed = {}
    for key, value in state.items():
        name = key.replace("feature_encoder.", "fnet.").replace("context_encoder.", "cnet.")
        if name.startswith(("fnet.", "cnet.")):
            name = name.replace("convnormrelu.0.", "conv1.").replace("convnormrelu.1.", "norm1.")
            for place in "12":
                name = name.replace(f"convnormrelu{place}.0.", f"conv{place}.")
                name = name.replace(f"convnormrelu{place}.1.", f"norm{place}.")
            if ".layer" not in name:
                name = name.replace("net.conv.", "net.conv2.")
            if "downsample.1." in name:
                renamed["module." + name.replace("downsample.1.", "norm3.")] = value
        name = name.replace("motion_encoder.convcorr", "encoder.convc").replace(
            "motion_encoder.convflow", "encoder.convf"
        )
        name = name.replace("motion_encoder.conv.0.", "encoder.conv.")
        if ".encoder.conv" in name:
            name = name.replace("1.0.", "1.").replace("2.0.", "2.")
        for place in "12":
            for gate in "zrq":
                name = name.replace(f"recurrent_block.convgru{place}.conv{gate}.", f"gru.conv{gate}{place}.")
        name = name.replace("mask_predictor.convrelu.0.", "update_block.mask.0.")
        name = name.replace("mask_predictor.conv.", "update_block.mask.2.")
        renamed["module." + name] = value
    return renamed


def test_it_has_the_published_number_of_parameters_and_names(network):
    assert sum(each.numel() for each in network.parameters()) == PARAMETERS
    shapes = {key: tuple(value.shape) for key, value in network.state_dict().items()}
    for key, shape in {  # of both published layouts, from their code
        "feature_encoder.convnormrelu.0.weight": (64, 3, 7, 7),
        "feature_encoder.layer2.0.downsample.0.weight": (96, 64, 1, 1),
        "feature_encoder.conv.bias": (256,),
        "context_encoder.layer3.1.convnormrelu2.1.running_var": (128,),
        "update_block.motion_encoder.convcorr1.0.weight": (256, 324, 1, 1),
        "update_block.motion_encoder.conv.0.weight": (126, 256, 3, 3),
        "update_block.recurrent_block.convgru2.convq.weight": (128, 384, 5, 1),
        "update_block.flow_head.conv2.weight": (2, 256, 3, 3),
        "mask_predictor.conv.weight": (576, 256, 1, 1),
    }.items():
        assert shapes[key] == shape
    assert not any(key.startswith("feature_encoder") and "running" in key for key in shapes)


def test_the_original_codes_names_are_understood(network):
    state = originals(network.state_dict())
    assert "module.fnet.layer1.0.conv1.weight" in state
    assert "module.cnet.layer2.0.norm3.weight" in state
    assert "module.update_block.gru.convz1.weight" in state
    assert "module.update_block.encoder.convc1.weight" in state
    assert torchvision_names(state).keys() == network.state_dict().keys()
    loaded = RAFT.load(state).state_dict()
    assert all(torch.equal(loaded[key], value) for key, value in network.state_dict().items())


def test_what_does_not_fit_is_named(network):
    state = dict(network.state_dict())
    del state["mask_predictor.conv.bias"]
    state["extra"] = torch.zeros(1)
    state["update_block.flow_head.conv2.bias"] = torch.zeros(3)
    with pytest.raises(WeightsError) as caught:
        RAFT.load(state)
    for part in ("mask_predictor.conv.bias is missing", "extra is not expected", "expected (2,), found (3,)"):
        assert part in caught.value.message


def test_correlations_are_products_over_the_root_of_the_channels():
    first, second = torch.randn(2, 1, 4, 16, 24).unbind(0)
    pyramid = correlation_pyramid(first, second)
    assert [tuple(level.shape) for level in pyramid] == [
        (384, 1, 16, 24), (384, 1, 8, 12), (384, 1, 4, 6), (384, 1, 2, 3)
    ]  # fmt: skip
    y, x, v, u = 3, 5, 11, 20
    assert float(pyramid[0][y * 24 + x, 0, v, u]) == pytest.approx(
        float((first[0, :, y, x] * second[0, :, v, u]).sum() / 2)
    )
    assert torch.allclose(pyramid[1], F.avg_pool2d(pyramid[0], 2))


def test_a_look_up_takes_the_window_around_a_place_y_first():
    pyramid = correlation_pyramid(*torch.randn(2, 1, 4, 16, 24).unbind(0))
    place = torch.zeros(1, 2, 16, 24)
    place[0, :, 2, 3] = torch.tensor([10.0, 8.0])  # x, y
    found = look_up(pyramid, place)[0, :, 2, 3]
    assert found.shape == (324,)
    window = pyramid[0][2 * 24 + 3, 0, 4:13, 6:15]  # (y, x)
    assert torch.allclose(found[:81].reshape(9, 9), window.T, atol=1e-5)  # x in rows
    coarse = pyramid[1][2 * 24 + 3, 0, 0:9, 1:10]  # around (5, 4); rows beyond 8 are outside
    assert torch.allclose(found[81:162].reshape(9, 9)[:, :8], coarse[:8].T, atol=1e-5)
    assert float(found[81:162].reshape(9, 9)[:, 8].abs().max()) == 0.0


def test_upsampling_is_a_convex_sum_of_neighbours():
    flow = torch.zeros(1, 2, 4, 5)
    flow[0, 0], flow[0, 1, :, 2] = 1.0, 3.0
    even = upsample(flow, torch.zeros(1, 576, 4, 5))
    assert even.shape == (1, 2, 32, 40)
    assert torch.allclose(even[0, 0, 8:-8, 8:-8], torch.tensor(8.0))
    assert torch.allclose(even[0, 1, 8:-8, 8:16], torch.tensor(8.0))  # one of three columns is 3 coarse pixels
    mask = torch.full((1, 9, 64, 4, 5), -50.0)
    mask[:, 5] = 50.0  # the neighbour to the right
    assert torch.allclose(upsample(flow, mask.reshape(1, 576, 4, 5))[0, 1, :, 8:16], torch.tensor(24.0))


def test_a_flow_of_zero_weights_is_zero_and_iterations_differ(network):
    first, second = torch.rand(2, 1, 3, 128, 136).unbind(0)
    with torch.no_grad():
        one, two = network(first, second, 1), network(first, second, 2)
    assert one.shape == (1, 2, 128, 136)
    assert not torch.allclose(one, two)
    blank = RAFT.load({key: torch.zeros_like(value) for key, value in network.state_dict().items()})
    assert float(blank(first, second, 2).abs().max()) == 0.0


def test_pictures_that_do_not_fit_are_refused(network):
    with pytest.raises(InputError, match="130x128"):
        network(torch.rand(1, 3, 128, 130), torch.rand(1, 3, 128, 130))
    with pytest.raises(InputError, match="twice"):
        network(torch.rand(1, 3, 128, 128), torch.rand(1, 3, 128, 136))
    with pytest.raises(ConfigError, match="found 0"):
        network(torch.rand(1, 3, 128, 128), torch.rand(1, 3, 128, 128), 0)
