"""Attribution maps against closed forms."""

import pytest
import torch
from torch import nn
from torchvision.models import DenseNet

from gazelit.errors import InputError
from gazelit.models.attribution import attribute
from gazelit.models.classification_net import ClassificationNetwork
from gazelit.models.dual_unet import DualEncoderUNet
from gazelit.models.network import Network

ENCODER = {"name": "densenet-small", "weights": None}
SALIENCY_ENCODER = {"name": "res-se", "options": {"widths": [4, 4, 8, 8, 8], "reduction": 4}}


class Linear(Network):
    """Logits that are linear in the pixels."""

    def __init__(self, weight):
        super().__init__()
        self.arguments, self.specs = {"classes": len(weight)}, {}
        self.weight = nn.Parameter(weight)

    def forward(self, x):
        return {"logits": torch.einsum("bchw,khw->bk", x, self.weight)}


def images(count=2, side=64):
    return torch.rand(count, 1, side, side, generator=torch.Generator().manual_seed(1))


def test_gradcam_of_a_pooled_linear_classifier_is_its_class_activation_map():
    # Zhou et al. 2016: the map of a class is the sum of the feature maps, weighted by the class's row.
    torch.manual_seed(0)
    network = ClassificationNetwork(ENCODER, classes=3).eval()
    classes = torch.tensor([2, 0])
    maps = attribute(network, images(), classes, "gradcam")
    # torchvision's own DenseNet with the same weights, whose forward has a ReLU after its features.
    densenet = DenseNet(16, (2, 4, 4, 3), 16, num_classes=3).eval()
    densenet.features.load_state_dict(network.encoder.features.state_dict())
    densenet.classifier.load_state_dict(network.linear_classifier.state_dict())
    with torch.no_grad():
        three = images().repeat(1, 3, 1, 1)
        assert torch.allclose(network(images())["logits"], densenet(three), atol=1e-6)
        features = densenet.features(three).relu()
        expected = torch.einsum("bchw,bc->bhw", features, densenet.classifier.weight[classes]).relu()
        expected = expected / features[0, 0].numel()
    expected = nn.functional.interpolate(expected[:, None], (64, 64), mode="bilinear")[:, 0]
    assert maps.shape == (2, 64, 64)
    assert torch.allclose(maps, expected, atol=1e-6)
    assert "embedding_map" not in vars(network.encoder)


def test_integrated_gradients_of_a_linear_classifier_are_weight_times_pixel():
    weight = torch.randn(2, 16, 16, generator=torch.Generator().manual_seed(2))
    x = images(2, 16)
    maps = attribute(Linear(weight), x, torch.tensor([1, 0]), "integrated_gradients")
    assert torch.allclose(maps, (weight[[1, 0]] * x[:, 0]).abs(), atol=1e-5)
    blurred = attribute(Linear(weight), x, torch.tensor([1, 0]), "integrated_gradients", blur=2.0)
    assert blurred.std() < maps.std() / 2


def test_occlusion_finds_the_square_that_the_class_lives_on():
    weight = torch.zeros(2, 32, 32)
    weight[1, 8:12, 20:24] = 1.0
    x = torch.zeros(1, 1, 32, 32)
    x[..., 8:12, 20:24] = 1.0
    maps = attribute(Linear(weight), x, torch.tensor([1]), "occlusion")
    highest = maps[0] == maps.max()
    assert highest[8:12, 20:24].any()
    assert not highest[:6].any()
    assert not highest[14:].any()
    # Where no evidence for the class is covered, the logit does not fall.
    assert maps[0, 20:].sum() == 0
    assert attribute(Linear(weight), x, torch.tensor([0]), "occlusion").sum() == 0


@pytest.mark.parametrize("pooling", ["mean", "gaze"])
def test_gradcam_of_the_joint_network_is_its_formula(pooling):
    # Selvaraju et al. 2017: feature maps weighted by the mean gradient of the logit. The weights of both poolings
    # sum to 1 over the map, so the mean gradient is that by the pooled vector, divided by the map's size.
    torch.manual_seed(0)
    network = DualEncoderUNet(ENCODER, SALIENCY_ENCODER, [8, 8, 8, 4, 4], classifier_pooling=pooling).eval()
    pooled = []
    handle = network.classifier.register_forward_pre_hook(lambda _, inputs: pooled.extend(inputs[0]))
    with torch.no_grad():
        network(images())
        features = network.encoder.features(images().repeat(1, 3, 1, 1)).relu()
    handle.remove()
    vectors = [vector.detach().requires_grad_() for vector in pooled]
    logits = network.classifier(vectors)
    evidence = 0
    for number in range(3):
        (gradient,) = torch.autograd.grad(logits[:, number].sum(), vectors[0], retain_graph=True)
        expected = torch.einsum("bchw,bc->bhw", features, gradient).relu() / features[0, 0].numel()
        expected = nn.functional.interpolate(expected[:, None], (64, 64), mode="bilinear")[:, 0]
        maps = attribute(network, images(), torch.full((2,), number), "gradcam")
        assert torch.allclose(maps, expected, atol=1e-7)
        evidence += (maps > 1e-4).sum()
    assert evidence > 0


def test_networks_that_cannot_be_explained_are_refused():
    decoder_only = DualEncoderUNet(ENCODER, SALIENCY_ENCODER, [8, 8, 8, 4, 4], classifier_features="decoder")
    with pytest.raises(InputError, match="does not see"):
        attribute(decoder_only.eval(), images(), torch.zeros(2, dtype=torch.long), "gradcam")
    without = DualEncoderUNet(ENCODER, SALIENCY_ENCODER, [8, 8, 8, 4, 4], classes=None)
    with pytest.raises(InputError, match="no classifier"):
        attribute(without, images(), torch.zeros(2, dtype=torch.long), "gradcam")
    with pytest.raises(InputError, match="'cam' is none of gradcam"):
        attribute(decoder_only, images(), torch.zeros(2, dtype=torch.long), "cam")
