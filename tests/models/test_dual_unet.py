"""The paper's network, part by part."""

import math

import pytest
import torch

from gazelit.errors import InputError
from gazelit.models import ContrastiveNetwork, DualEncoderUNet, EncoderSpec, rebuild
from gazelit.models.heads import CentrePrior
from gazelit.models.pooling import concentration, logsumexp_pooled, pooled

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
def test_any_encoder_can_be_the_diagnosis_encoder(name):
    network = DualEncoderUNet(
        {**SMALL, "encoder": EncoderSpec(name)}["encoder"], SMALL["saliency_encoder"], SMALL["decoder_widths"]
    )
    outputs = network.eval()(torch.rand(1, 1, 64, 64))
    assert outputs["saliency_logits"].shape == (1, 1, 64, 64)
    assert torch.isfinite(outputs["logits"]).all()


def test_a_library_encoder_can_be_the_saliency_encoder():
    network = DualEncoderUNet(
        EncoderSpec("densenet-small"), EncoderSpec("resnet18", options={"depth": 4}), [8, 8, 8, 4, 4]
    )
    assert network(torch.rand(2, 1, 64, 64))["saliency_logits"].shape == (2, 1, 64, 64)


def test_rebuilding_from_primitives_gives_the_same_network():
    network = DualEncoderUNet(**SMALL).eval()
    rebuilt = rebuild(network.config).eval()
    rebuilt.load_state_dict(network.state_dict())
    image = torch.rand(2, 1, 64, 96)
    for key, value in network(image).items():
        assert torch.equal(value, rebuilt(image)[key])
    assert rebuilt.specs == network.specs


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


def test_one_encoder_gives_its_own_maps_to_the_decoder():
    torch.manual_seed(0)
    network = DualEncoderUNet(EncoderSpec("resnet18"), None, [8, 8, 8, 4, 4]).eval()
    assert "saliency_encoder" not in network.specs
    assert network.specs["decoder"]["skip_channels"] == {"2": 64, "4": 64, "8": 128, "16": 256}
    image = torch.rand(1, 1, 64, 64)
    # The finest skip connection reaches the map.
    before = network(image)["saliency_logits"]
    forward = network.encoder.forward
    network.encoder.forward = lambda x: [
        torch.zeros_like(map_) if i == 0 else map_ for i, map_ in enumerate(forward(x))
    ]
    assert not torch.allclose(before, network(image)["saliency_logits"])


@pytest.mark.parametrize("features", ["fused", "encoder", "decoder"])
def test_what_the_classifier_sees(features):
    torch.manual_seed(0)
    network = DualEncoderUNet(**SMALL, classifier_features=features).eval()
    image = torch.rand(2, 1, 64, 64)
    maps = network.encoder(image)
    # torchvision's stack of layers, and the ReLU that its forward method applies after them.
    embedding = network.encoder.features(image.repeat(1, 3, 1, 1)).relu().mean((2, 3))
    skips = dict(zip(network.saliency_encoder.strides, network.saliency_encoder(image), strict=True))
    decoded = network.decoder(maps[-1], skips)[-1].mean((2, 3))
    seen = {
        "fused": [embedding, decoded],
        "encoder": [embedding],
        "decoder": [decoded],
    }
    expected = network.classifier.layers(torch.cat(seen[features], 1))
    assert torch.allclose(network(image)["logits"], expected, atol=1e-6)


def test_gaze_pooling_weighs_the_encoders_map_by_the_predicted_or_given_density():
    torch.manual_seed(0)
    network = DualEncoderUNet(**SMALL, classifier_features="encoder", classifier_pooling="gaze").eval()
    image = torch.rand(2, 1, 96, 64)
    outputs = network(image)
    density = outputs["saliency_logits"].flatten(1).softmax(1).reshape(2, 1, 96, 64)
    features = network.encoder.features(image.repeat(1, 3, 1, 1)).relu()

    def weighted(map_):
        weight = map_.reshape(2, 1, 3, 32, 2, 32).sum(dim=(3, 5))
        return (features * weight).sum((2, 3)) / weight.sum((2, 3))

    assert torch.allclose(outputs["logits"], network.classifier.layers(weighted(density)), atol=1e-5)
    reader = torch.zeros(2, 1, 96, 64)
    reader[0, 0, 70, 40] = 1
    given = network(image, reader)["logits"]
    assert torch.allclose(given[0], network.classifier.layers(features[:1, :, 2, 1])[0], atol=1e-5)
    # A film without gaze is pooled by the prediction.
    assert torch.allclose(given[1], outputs["logits"][1], atol=1e-5)


def test_several_poolings_of_several_maps_stand_side_by_side():
    """Encoder and decoder are pooled alike, so that the position of a finding reaches the diagnosis from both."""
    torch.manual_seed(0)
    network = DualEncoderUNet(**SMALL, classifier_pooling=["gaze", "top"], classifier_strides=[1, 4]).eval()
    seen = []
    network.classifier.register_forward_pre_hook(lambda module, inputs: seen.extend(inputs[0]))
    image = torch.rand(1, 1, 96, 64)
    reader = torch.zeros(1, 1, 96, 64)
    reader[0, 0, 70, 40] = 1
    decoded = []
    network.decoder.register_forward_hook(lambda module, inputs, outputs: decoded.extend(outputs))
    network(image, reader)
    assert [tuple(vector.shape) for vector in seen] == [(1, 102), (1, 102), (1, 4), (1, 4), (1, 8), (1, 8)]
    assert network.specs["classifier"]["in_channels"] == 228
    # All of the density lies in one cell, whose features are pooled; in the last map in at most a tenth of 6,144 cells.
    assert torch.allclose(seen[2], decoded[-1][:, :, 70, 40], atol=1e-6)
    assert torch.allclose(seen[4], decoded[-3][:, :, 17, 10], atol=1e-6)
    strongest = decoded[-1].flatten(2).sort(dim=2, descending=True).values[:, :, :614].mean(2)
    assert torch.allclose(seen[3], strongest, atol=1e-6)


def test_a_small_finding_moves_pools_that_keep_positions_and_not_the_mean():
    """One bright cell of 1,000 is a thousandth of the mean, all of the gaze pooling and nearly all of the maximum."""
    features = torch.zeros(1, 1, 25, 40)
    features[0, 0, 7, 11] = 10.0
    gaze = torch.zeros(1, 1, 25, 40)
    gaze[0, 0, 7, 11] = 1.0
    assert pooled(features, "mean", gaze).item() == pytest.approx(0.01)
    assert pooled(features, "gaze", gaze).item() == pytest.approx(10)
    assert pooled(features, "top", gaze).item() == pytest.approx(10 / 100)
    # The logarithm of the mean of 999 ones and one e to the 40th, over 4.
    assert pooled(features, "logsumexp", gaze).item() == pytest.approx((40 - math.log(1000)) / 4, rel=1e-6)
    assert logsumexp_pooled(features * 100).isfinite().all()
    assert torch.allclose(logsumexp_pooled(features, 1e-3), features.mean((2, 3)), atol=1e-3)


def test_the_centre_prior_adds_a_gaussians_logarithm_and_begins_almost_flat():
    prior = CentrePrior()
    logits = torch.zeros(1, 1, 6, 8)
    assert prior(logits).abs().max() < 0.02
    with torch.no_grad():
        prior.mean.copy_(torch.tensor([0.25, -0.5]))
        prior.raw_precision.copy_(torch.tensor([3.0, 2.0]).expm1().log())
    values = prior(logits)[0, 0]
    x, y = (torch.arange(8) + 0.5) / 4 - 1, (torch.arange(6) + 0.5) / 3 - 1
    normal = torch.distributions.Normal
    expected = normal(0.25, 3**-0.5).log_prob(x)[None, :] + normal(-0.5, 2**-0.5).log_prob(y)[:, None]
    assert torch.allclose(values - values[0, 0], expected - expected[0, 0], atol=1e-5)


def test_side_heads_give_coarser_maps():
    outputs = DualEncoderUNet(**SMALL, side_heads=2, centre_prior=True, classes=None)(torch.rand(1, 1, 64, 32))
    shapes = {key: tuple(value.shape) for key, value in outputs.items()}
    assert shapes == {
        "saliency_logits": (1, 1, 64, 32),
        "saliency_logits_2": (1, 1, 32, 16),
        "saliency_logits_4": (1, 1, 16, 8),
    }


def test_concentration_is_zero_of_an_even_density_and_in_closed_form_of_a_gaussian():
    even = torch.full((1, 1, 20, 30), 1 / 600)
    assert torch.allclose(concentration(even), torch.zeros(1, 3), atol=1e-5)
    point = torch.zeros(1, 1, 20, 30)
    point[..., 3, 4] = 1
    assert torch.allclose(concentration(point), torch.full((1, 3), math.log(600)), atol=1e-4)
    sigma, size = 4.0, 96
    grid = torch.arange(size, dtype=torch.float64) - 47.5
    gaussian = torch.exp(-(grid[:, None] ** 2 + grid[None] ** 2) / (2 * sigma**2))
    density = (gaussian / gaussian.sum())[None, None]
    area = 2 * math.pi * sigma**2
    # A Gaussian on the plane has the maximum 1/(2πσ²), Σp² = 1/(4πσ²) and the entropy ln(2πeσ²).
    expected = [math.log(size**2 / area), math.log(size**2 / (2 * area)), math.log(size**2 / area) - 1]
    found = concentration(density)[0].tolist()
    assert found[1:] == pytest.approx(expected[1:], abs=1e-3)
    assert found[0] == pytest.approx(expected[0], abs=0.02)
    assert torch.allclose(concentration(density), concentration(density.roll((9, -5), (2, 3))))


@pytest.mark.parametrize("pooling", ["mean", "gaze"])
def test_a_network_in_bfloat16_gives_the_outputs_of_float32(pooling):
    torch.manual_seed(0)
    network = DualEncoderUNet(**SMALL, classifier_pooling=pooling, classifier_concentration=True).eval()
    image = torch.rand(2, 1, 64, 64)
    with torch.no_grad():
        exact = network(image)["logits"]
        rounded = network.bfloat16()(image.bfloat16())["logits"]
    assert rounded.dtype == torch.bfloat16
    assert torch.allclose(rounded.float(), exact, atol=0.05)


def test_the_classifier_sees_the_concentration_of_the_predicted_map():
    torch.manual_seed(0)
    plain, network = DualEncoderUNet(**SMALL).eval(), DualEncoderUNet(**SMALL, classifier_concentration=True).eval()
    first = network.classifier.layers[0]
    assert first.in_features == plain.classifier.layers[0].in_features + 3
    image = torch.rand(2, 1, 64, 64)
    with torch.no_grad():
        first.weight[:, -3:] = 0
        before = network(image)["logits"]
        first.weight[0, -3] = 1.0
        first.bias[0] = 100.0
        moved = network(image)
        log_peak = concentration(moved["saliency_logits"].flatten(1).softmax(1).view(2, 1, 64, 64))[:, :1]
        first.weight[0, -3] = 0.0
        first.bias[0] = 100.0 + log_peak[0, 0]
        same = network(image)
    assert torch.allclose(moved["logits"][0], same["logits"][0], atol=1e-3)
    assert not torch.allclose(before, moved["logits"])
    assert "concentration" not in plain.specs["classifier"]
    assert rebuild(network.config).specs == network.specs


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"side_heads": 5}, "side_heads: must be 0 to 4"),
        ({"classifier_pooling": "median"}, "classifier_pooling: must be one or several of mean, gaze, top, logsumexp"),
        ({"classifier_pooling": ["gaze", "gaze"]}, "each once"),
        ({"classifier_pooling": []}, "classifier_pooling: must be"),
        ({"classifier_strides": [3]}, "classifier_strides: must be one or several of 1, 2, 4, 8, 16"),
        ({"classifier_strides": [2, 2]}, "each once"),
    ],
)
def test_impossible_options_are_refused(options, message):
    with pytest.raises(InputError, match=message):
        DualEncoderUNet(**SMALL, **options)


@pytest.mark.parametrize(
    "name", ["densenet-small", "resnet18", "tu-convnext_atto", "mit_b0", "tu-vit_tiny_patch16_224"]
)
def test_any_encoder_can_be_either_encoder(name):
    small = SMALL["saliency_encoder"]
    for pair in (
        (EncoderSpec(name), small),
        (EncoderSpec("densenet-small"), EncoderSpec(name)),
        (EncoderSpec(name), None),
    ):
        network = DualEncoderUNet(*pair, [8, 8, 8, 4, 4]).eval()
        outputs = network(torch.rand(1, 1, 64, 64))
        assert outputs["saliency_logits"].shape == (1, 1, 64, 64)
        assert outputs["logits"].shape == (1, 3)
        again = rebuild(network.config)
        again.load_state_dict(network.state_dict())
