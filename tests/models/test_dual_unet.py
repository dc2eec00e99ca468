"""The paper's network, part by part."""

import pytest
import torch

from gazelit.errors import InputError
from gazelit.models import ContrastiveNetwork, DualEncoderUNet, EncoderSpec, rebuild

SMALL = {
    "encoder": EncoderSpec("densenet-small"),
    "saliency_encoder": EncoderSpec("res-se", options={"widths": [4, 4, 8, 8, 8], "reduction": 4}),
    "decoder_widths": [8, 8, 8, 4, 4],
}


def parameters(module):
    return sum(parameter.numel() for parameter in module.parameters())


@pytest.fixture(scope="module")
def paper():
    with torch.device("meta"):
        return DualEncoderUNet(EncoderSpec("paper-densenet201"), EncoderSpec("res-se"))


def test_parameter_counts_are_the_published_ones(paper):
    # Computed from the reference implementation's definition, part by part.
    assert parameters(paper.encoder) == 18_092_928
    assert [parameters(level) for level in paper.saliency_encoder.levels] == [
        38_976,
        297_856,
        1_189_632,
        4_754_944,
        19_012_608,
    ]
    assert [parameters(step.up) for step in paper.decoder.steps] == [
        8_848_896,
        1_180_416,
        295_296,
        73_920,
        37_056,
    ]
    assert [parameters(step.convs) for step in paper.decoder.steps] == [
        9_440_256,
        2_360_832,
        590_592,
        147_840,
        110_976,
    ]
    assert parameters(paper.saliency_head) == 37_121
    assert parameters(paper.classifier) == 127_235
    assert parameters(paper) == 66_637_380


def test_outputs_have_the_promised_shapes(paper):
    outputs = paper(torch.empty(2, 1, 640, 512, device="meta"))
    assert outputs["logits"].shape == (2, 3)
    assert outputs["saliency_logits"].shape == (2, 1, 640, 512)


def test_stage_2_network_has_no_classifier():
    network = DualEncoderUNet(**SMALL, classes=None)
    assert list(network.specs) == ["encoder", "saliency_encoder", "decoder", "saliency_head"]
    assert set(network(torch.rand(1, 1, 64, 64))) == {"saliency_logits"}
    assert [name for name, _ in network.named_children()] == list(network.specs)


def test_every_parameter_of_the_joint_network_gets_a_gradient_or_is_not_on_the_path():
    network = DualEncoderUNet(**SMALL)
    outputs = network(torch.rand(2, 1, 64, 64))
    (outputs["logits"].sum() + outputs["saliency_logits"].sum()).backward()
    # DDP without a search for unused parameters needs this.
    assert [name for name, parameter in network.named_parameters() if parameter.grad is None] == []


@pytest.mark.parametrize("name", ["resnet18", "tu-convnext_atto", "efficientnet-b0", "mobilenet_v2", "densenet-small"])
def test_any_encoder_fits_in_the_diagnosis_place(name):
    network = DualEncoderUNet(
        {**SMALL, "encoder": EncoderSpec(name)}["encoder"], SMALL["saliency_encoder"], SMALL["decoder_widths"]
    )
    outputs = network.eval()(torch.rand(1, 1, 64, 64))
    assert outputs["saliency_logits"].shape == (1, 1, 64, 64)
    assert torch.isfinite(outputs["logits"]).all()


def test_a_library_encoder_fits_in_the_saliency_place():
    network = DualEncoderUNet(
        EncoderSpec("densenet-small"), EncoderSpec("resnet18", options={"depth": 4}), [8, 8, 8, 4, 4]
    )
    assert network(torch.rand(2, 1, 64, 64))["saliency_logits"].shape == (2, 1, 64, 64)


def test_rebuilding_from_primitives_gives_the_same_network():
    network = DualEncoderUNet(**SMALL).eval()
    other = rebuild(network.config).eval()
    other.load_state_dict(network.state_dict())
    image = torch.rand(2, 1, 64, 96)
    for key, value in network(image).items():
        assert torch.equal(value, other(image)[key])
    assert other.specs == network.specs


def test_sizes_that_do_not_fit_are_refused():
    with pytest.raises(InputError, match="multiples of 32"):
        DualEncoderUNet(**SMALL)(torch.rand(1, 1, 60, 64))


def test_a_decoder_of_another_depth_is_refused():
    with pytest.raises(InputError, match="decoder_widths: 3 steps"):
        DualEncoderUNet(SMALL["encoder"], SMALL["saliency_encoder"], [8, 8, 8])


def test_contrastive_network_embeds_with_and_without_a_projector():
    image = torch.rand(2, 1, 64, 64)
    plain = ContrastiveNetwork(EncoderSpec("densenet-small"))
    assert plain(image)["embedding"].shape == (2, plain.encoder.embedding_channels)
    projected = ContrastiveNetwork(EncoderSpec("densenet-small"), projection=16)
    assert projected(image)["embedding"].shape == (2, 16)
    assert list(projected.specs) == ["encoder", "projector"]
