"""Attention consistency against captum's Grad-CAM and scipy's correlation."""

import numpy as np
import pytest
import torch
from captum.attr import LayerGradCam
from scipy.stats import entropy, pearsonr
from torch.nn import functional as F

from gazelit.errors import InputError
from gazelit.losses import AttentionConsistencyLoss, DiagnosisLoss
from gazelit.models.attribution import _tapped
from gazelit.models.classification_net import ClassificationNetwork
from gazelit.models.dual_unet import DualEncoderUNet
from gazelit.models.registry import EncoderSpec
from gazelit.stages import JointFinetuning, SupervisedFinetuning

SMALL = EncoderSpec("densenet-small", options={"growth_rate": 4, "blocks": [1, 1, 1, 1], "stem": 4})
GAZE = EncoderSpec("res-se", options={"widths": [2, 2, 2, 2, 2], "reduction": 2})


def dual(**options):
    return DualEncoderUNet(SMALL, GAZE, decoder_widths=[4, 4, 4, 4, 4], dropout=0.0, **options)


def make_batch(size=4, height=128, width=96, **changes):
    torch.manual_seed(1)
    heatmap = torch.rand(size, 1, height, width) ** 4
    batch = {
        "image": torch.rand(size, 1, height, width),
        "heatmap": heatmap / heatmap.sum((2, 3), keepdim=True),
        "label": torch.tensor([0, 1, 2, 1][:size]),
        "has_gaze": torch.ones(size, dtype=torch.bool),
    }
    return batch | changes


def by_captum(network, batch, targets):
    """Captum's evidence for each image's class, and gaze on its grid."""
    with _tapped(network) as layer:
        maps = LayerGradCam(lambda images: network(images)["logits"], layer).attribute(batch["image"], target=targets)
    evidence = maps.detach()[:, 0]
    gaze = F.adaptive_avg_pool2d(batch["heatmap"], evidence.shape[-2:])[:, 0]
    return evidence.flatten(1).numpy().astype(float), gaze.flatten(1).numpy().astype(float)


NETWORKS = {
    "joint": lambda: dual(),
    "joint, gaze-pooled": lambda: dual(classifier_pooling=["gaze", "top"], classifier_strides=[2]),
    "image alone": lambda: ClassificationNetwork(SMALL, 3),
}


@pytest.mark.parametrize("kind", NETWORKS)
@pytest.mark.parametrize("measure", ["cc", "kl"])
def test_the_loss_is_that_of_captums_map(kind, measure):
    torch.manual_seed(0)
    network = NETWORKS[kind]().eval()
    batch = make_batch()
    loss = AttentionConsistencyLoss(measure=measure)(network(batch["image"]), batch)
    evidence, gaze = by_captum(network, batch, batch["label"])
    if measure == "cc":
        expected = np.mean([1 - pearsonr(own, seen)[0] for own, seen in zip(evidence, gaze, strict=True)])
    else:
        softmax = np.exp(evidence) / np.exp(evidence).sum(1, keepdims=True)
        expected = np.mean([entropy(seen, own) for own, seen in zip(softmax, gaze, strict=True)])
    assert float(loss.detach()) == pytest.approx(expected, rel=1e-4)


def test_only_images_of_the_classes_and_with_gaze_count():
    torch.manual_seed(0)
    network = dual().eval()
    batch = make_batch(has_gaze=torch.tensor([True, True, False, True]))
    loss = AttentionConsistencyLoss(classes=[1, 2])
    evidence, gaze = by_captum(network, batch, batch["label"])
    expected = np.mean([1 - pearsonr(evidence[image], gaze[image])[0] for image in (1, 3)])
    assert float(loss(network(batch["image"]), batch).detach()) == pytest.approx(expected, rel=1e-4)
    assert loss.counted(batch) == 2
    assert AttentionConsistencyLoss().counted(batch) == 3


def test_with_several_labels_the_evidence_of_all_known_positives_counts():
    torch.manual_seed(0)
    network = dual().eval()
    label = torch.tensor([[1.0, 1.0, 0.0], [0.0, torch.nan, 1.0], [0.0, torch.nan, 0.0], [1.0, 0.0, 0.0]])
    batch = make_batch(label=label)
    loss = AttentionConsistencyLoss(classes=[1, 2])
    evidence, gaze = by_captum(network, batch, torch.tensor([1, 2, 0, 0]))
    expected = np.mean([1 - pearsonr(evidence[image], gaze[image])[0] for image in (0, 1)])
    assert float(loss(network(batch["image"]), batch).detach()) == pytest.approx(expected, rel=1e-4)
    assert loss.counted(batch) == 2
    both = AttentionConsistencyLoss()
    first, _ = by_captum(network, batch, torch.tensor([0, 2, 0, 0]))
    evidence = evidence[:1] + first[:1]
    alone = {key: value[:1] for key, value in batch.items()}
    value = float(both(network(alone["image"]), alone).detach())
    assert value == pytest.approx(1 - pearsonr(evidence[0], gaze[0])[0], rel=1e-4)


def test_without_an_image_that_counts_loss_and_gradient_are_zero():
    network = dual()
    batch = make_batch(has_gaze=torch.zeros(4, dtype=torch.bool), heatmap=torch.zeros(4, 1, 128, 96))
    loss = AttentionConsistencyLoss()(network(batch["image"]), batch)
    loss.backward()
    assert loss == 0
    assert all(parameter.grad is None or not parameter.grad.any() for parameter in network.parameters())


def test_its_gradient_moves_the_evidence_towards_gaze():
    torch.manual_seed(0)
    network = ClassificationNetwork(SMALL, 3)
    batch = make_batch()
    objective = AttentionConsistencyLoss()
    optimizer = torch.optim.Adam(network.parameters(), lr=3e-3)
    values = []
    for _ in range(40):
        loss = objective(network(batch["image"]), batch)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        values.append(float(loss.detach()))
    assert values[-1] < values[0] - 0.3


@pytest.mark.parametrize("stage", [JointFinetuning, SupervisedFinetuning])
def test_a_stage_adds_it_only_in_training(stage):
    torch.manual_seed(0)
    network = dual() if stage is JointFinetuning else ClassificationNetwork(SMALL, 3)
    batch = make_batch()
    module = stage(network, auxiliary=[AttentionConsistencyLoss(weight=0.5)])
    plain = stage(network)
    network.eval()
    module.training = True
    total, outputs, parts = module._step(batch)
    expected = plain._step(batch)[0] + 0.5 * AttentionConsistencyLoss()(outputs, batch)
    assert float(total.detach()) == pytest.approx(float(expected.detach()), rel=1e-5)
    assert set(parts) == {"diagnosis_loss", "attention_loss"} | ({"saliency_loss"} & set(parts))
    assert float(parts["diagnosis_loss"]) == pytest.approx(DiagnosisLoss()(outputs, batch).item(), rel=1e-5)
    module.training = False
    assert "attention_loss" not in module._step(batch)[2]


def test_impossible_options_are_refused():
    with pytest.raises(InputError, match="at least one class"):
        AttentionConsistencyLoss(classes=[])
    with pytest.raises(InputError, match="at least 0"):
        AttentionConsistencyLoss(weight=-1)
    with pytest.raises(InputError, match="cc or kl"):
        AttentionConsistencyLoss(measure="mse")
    batch = make_batch()
    with pytest.raises(InputError, match="no class 3"):
        AttentionConsistencyLoss(classes=[3])(dual()(batch["image"]), batch)
    with pytest.raises(InputError, match="sees no map of the encoder"):
        AttentionConsistencyLoss()(dual(classifier_features="decoder")(batch["image"]), batch)
    with pytest.raises(InputError, match="different names"):
        JointFinetuning(dual(), auxiliary=[AttentionConsistencyLoss(), AttentionConsistencyLoss()])
