"""Networks that predict the map at a coarser stride: the same interface for fewer operations."""

import pytest
import torch
import torch.nn.functional as F
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

from gazelit.configs import find_config, read_config
from gazelit.errors import InputError
from gazelit.models import DualEncoderUNet, EncoderSpec, build_encoder, rebuild
from gazelit.models.heads import enlarged

LEAN = {
    "encoder": EncoderSpec("densenet-small"),
    "saliency_encoder": EncoderSpec("res-se", options={"widths": [8, 16, 32], "stem_stride": 4}),
    "decoder_widths": [32, 16, 8],
    "map_stride": 4,
}


@pytest.mark.parametrize("factor", [1, 2, 4, 8])
def test_logits_are_enlarged_as_torch_interpolates_them(factor):
    logits = torch.randn(2, 1, 6, 5, generator=torch.Generator().manual_seed(0))
    expected = F.interpolate(logits, scale_factor=factor, mode="bilinear", align_corners=False)
    assert torch.allclose(enlarged(logits, factor), expected, atol=1e-6)


def test_the_map_has_the_images_resolution_and_the_decoder_ends_coarser():
    network = DualEncoderUNet(**LEAN, side_heads=1, classifier_pooling=["gaze"]).eval()
    with torch.no_grad():
        outputs = network(torch.rand(2, 1, 64, 96))
    assert outputs["saliency_logits"].shape == (2, 1, 64, 96)
    assert outputs["saliency_logits_8"].shape == (2, 1, 8, 12)
    assert outputs["logits"].shape == (2, 3)
    assert network.decoder.strides == [16, 8, 4]
    assert network.config["init_args"]["classifier_strides"] == [4]


def test_it_is_rebuilt_from_its_primitives():
    network = DualEncoderUNet(**LEAN).eval()
    again = rebuild(network.config).eval()
    again.load_state_dict(network.state_dict())
    image = torch.rand(1, 1, 64, 64)
    with torch.no_grad():
        assert torch.equal(again(image)["saliency_logits"], network(image)["saliency_logits"])


def test_a_gaussian_loses_little_when_it_is_interpolated_in_log_space():
    """With σ of 15 working pixels, a degree in the paper, the logarithm is a parabola, sampled every four pixels."""
    y, x = torch.meshgrid(torch.arange(128.0), torch.arange(160.0), indexing="ij")
    log_density = -((x - 70.3) ** 2 + (y - 55.8) ** 2) / (2 * 15.1**2)
    coarse = F.avg_pool2d(log_density[None, None], 4)
    found = enlarged(coarse, 4).flatten().softmax(0)
    truth = log_density.flatten().softmax(0)
    assert torch.corrcoef(torch.stack([found, truth]))[0, 1] > 0.9998


def test_a_stem_begins_the_pyramid_at_its_stride():
    encoder = build_encoder(EncoderSpec("res-se", options={"widths": [8, 16, 32], "stem_stride": 4})).eval()
    assert encoder.strides == [4, 8, 16]
    with torch.no_grad():
        assert [tuple(each.shape[-2:]) for each in encoder(torch.rand(1, 1, 64, 32))] == [(16, 8), (8, 4), (4, 2)]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"map_stride": 3}, "map_stride: must be 1, 2, 4 or 8"),
        ({"decoder_widths": [32, 16]}, "2 steps to stride 4 reach back from stride 16"),
        ({"classifier_strides": [1]}, "classifier_strides: must be one or several of 4, 8, 16"),
    ],
)
def test_options_that_do_not_fit_are_refused(options, message):
    with pytest.raises(InputError, match=message):
        DualEncoderUNet(**LEAN | options)


def test_a_stem_of_another_stride_is_refused():
    with pytest.raises(InputError, match="stem_stride: must be 1, 2 or 4"):
        build_encoder(EncoderSpec("res-se", options={"stem_stride": 3}))


def shipped(preset: str, *names: str) -> dict:
    """The network of shipped configurations, each merged over the configurations before, with random weights."""
    arguments: dict = {"encoder": {}}
    for name in names:
        network = read_config(find_config(name, preset))["model"]["init_args"]["network"]["init_args"]
        encoder = {**arguments["encoder"], **network.get("encoder", {}), "weights": None}
        arguments |= {**network, "encoder": encoder}
    return arguments


def operations(arguments: dict, size: tuple[int, int]) -> float:
    with FakeTensorMode():
        network = DualEncoderUNet(**arguments).eval()
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            outputs = network(torch.zeros(1, 1, *size))
    assert outputs["saliency_logits"].shape == (1, 1, *size)
    assert outputs["logits"].shape == (1, 3)
    return counter.get_total_flops()


def test_the_shipped_lean_networks_need_an_eighth_of_the_papers_operations_and_give_the_same():
    size = (640, 512)
    paper = operations(shipped("paper", "stage3.yaml"), size)
    assert operations(shipped("paper", "stage3.yaml", "networks/lean.yaml"), size) <= paper / 8
    small = shipped("paper", "stage3.yaml", "networks/small_encoder.yaml", "networks/lean.yaml")
    assert operations(small, size) <= paper / 40
    quick = operations(shipped("quick", "stage3.yaml"), (128, 96))
    assert operations(shipped("quick", "stage3.yaml", "networks/lean.yaml"), (128, 96)) <= quick * 0.65
