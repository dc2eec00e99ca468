"""Losses against closed forms, plain loops and pytorch-metric-learning."""

import itertools
import math

import pytest
import torch
from pytorch_metric_learning.distances import LpDistance
from pytorch_metric_learning.losses import SupConLoss, TripletMarginLoss
from pytorch_metric_learning.miners import BatchHardMiner, TripletMarginMiner
from pytorch_metric_learning.reducers import MeanReducer
from torch.nn import functional as F

from gazelit.density import log_density
from gazelit.errors import InputError
from gazelit.losses import (
    BatchAllTripletLoss,
    BatchHardTripletLoss,
    BatchSemiHardTripletLoss,
    CorrelationLoss,
    DeepSupervisionLoss,
    DynamicWeightAverage,
    FixedWeighting,
    KLDivergenceLoss,
    NSSLoss,
    ReferenceWeighting,
    SimilarityLoss,
    SupervisedContrastiveLoss,
    UncertaintyWeighting,
    WeightedSaliencyLoss,
)
from gazelit.losses.saliency import check_side_heads
from gazelit.metrics.functional import cc, nss, sim


def compare(loss, logits, target, has_gaze):
    return loss({"saliency_logits": logits}, {"heatmap": target, "has_gaze": has_gaze})


def triple_loop(embedding, label, margin):
    losses = [
        F.triplet_margin_loss(embedding[a], embedding[p], embedding[n], margin=margin, eps=0)
        for a, p, n in itertools.product(range(len(label)), repeat=3)
        if a != p and label[a] == label[p] and label[a] != label[n]
    ]
    return torch.stack(losses)


@pytest.mark.parametrize("margin", [0.2, 1.0])
def test_triplet_loss_and_gradient_equal_the_triple_loop(margin):
    torch.manual_seed(0)
    embedding = torch.randn(10, 7, dtype=torch.float32, requires_grad=True)
    label = torch.tensor([0, 0, 1, 2, 1, 0, 2, 2, 1, 0])
    expected = triple_loop(embedding, label, margin)
    (gradient,) = torch.autograd.grad(expected.mean(), embedding)
    loss = BatchAllTripletLoss(margin)(embedding, label)
    (ours,) = torch.autograd.grad(loss, embedding)
    assert loss.item() == pytest.approx(expected.mean().item(), rel=1e-5)
    assert torch.allclose(ours, gradient, atol=1e-6)
    assert BatchAllTripletLoss(margin, "sum")(embedding, label).item() == pytest.approx(expected.sum().item(), rel=1e-5)


def test_triplet_loss_equals_pytorch_metric_learning():
    torch.manual_seed(1)
    embedding, label = torch.randn(16, 32), torch.randint(0, 3, (16,))
    oracle = TripletMarginLoss(margin=1.0, distance=LpDistance(normalize_embeddings=False, p=2), reducer=MeanReducer())
    assert BatchAllTripletLoss()(embedding, label).item() == pytest.approx(oracle(embedding, label).item(), rel=1e-5)


@pytest.mark.parametrize("label", [[0, 0, 0, 0], [0, 1, 2, 3]])
def test_a_batch_without_triplets_costs_nothing_and_can_be_differentiated(label):
    embedding = torch.randn(4, 3, requires_grad=True)
    loss = BatchAllTripletLoss()(embedding, torch.tensor(label))
    loss.backward()
    assert loss.item() == 0
    assert torch.equal(embedding.grad, torch.zeros(4, 3))


def test_coinciding_embeddings_have_a_finite_gradient():
    embedding = torch.ones(4, 3, requires_grad=True)
    BatchAllTripletLoss()(embedding, torch.tensor([0, 0, 1, 1])).backward()
    assert torch.isfinite(embedding.grad).all()


def test_triplet_loss_is_float32_under_autocast():
    torch.manual_seed(0)
    embedding, label = 100 + torch.randn(8, 16), torch.arange(8) % 2
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = BatchAllTripletLoss()(embedding, label)
    assert inside.dtype == torch.float32
    assert inside.item() == pytest.approx(BatchAllTripletLoss()(embedding, label).item(), rel=1e-6)


def test_unknown_reduction():
    with pytest.raises(InputError, match="reduction"):
        BatchAllTripletLoss(reduction="median")


def test_kl_is_torchs_and_averages_over_images_with_gaze():
    torch.manual_seed(0)
    logits = torch.randn(3, 1, 6, 5)
    target = torch.rand(3, 1, 6, 5)
    target[0, 0, :3] = 0
    target = target / target.sum((2, 3), keepdim=True)
    expected = F.kl_div(logits.flatten(1).log_softmax(1), target.flatten(1), reduction="none").sum(1)
    has_gaze = torch.tensor([True, False, True])
    assert compare(KLDivergenceLoss(), logits, target, has_gaze).item() == pytest.approx(
        expected[[0, 2]].mean().item(), rel=1e-6
    )


def test_kl_of_a_perfect_prediction_is_zero_and_uniform_is_known():
    target = torch.zeros(1, 1, 4, 4)
    target[0, 0, 1, 2] = 1
    everything = torch.tensor([True])
    assert compare(KLDivergenceLoss(), torch.zeros(1, 1, 4, 4), target, everything).item() == pytest.approx(
        math.log(16)
    )
    perfect = torch.full((1, 1, 4, 4), -1e4).masked_fill(target.bool(), 0)
    assert compare(KLDivergenceLoss(), perfect, target, everything).item() == pytest.approx(0, abs=1e-6)


def test_kl_without_any_gaze_is_zero_with_a_zero_gradient():
    logits = torch.randn(2, 1, 4, 4, requires_grad=True)
    loss = compare(KLDivergenceLoss(), logits, torch.zeros(2, 1, 4, 4), torch.tensor([False, False]))
    loss.backward()
    assert loss.item() == 0
    assert torch.equal(logits.grad, torch.zeros_like(logits))


def test_densities_are_float32_under_autocast():
    # bfloat16 holds three digits: over 640 × 512 pixels it cannot sum to one.
    with torch.autocast("cpu", dtype=torch.bfloat16):
        density = log_density(torch.randn(1, 1, 640, 512).bfloat16()).exp()
    assert density.dtype == torch.float32
    assert density.sum().item() == pytest.approx(1, abs=1e-4)


LOSSES = {"diagnosis": torch.tensor(0.7), "saliency": torch.tensor(1.9)}


@pytest.mark.parametrize("log_sigma", [0.0, -0.4, 0.8])
def test_reference_weighting_is_its_formula(log_sigma):
    weighting = ReferenceWeighting()
    torch.nn.init.constant_(weighting.log_sigma, log_sigma)
    sigma = math.exp(log_sigma)
    expected = 0.7 / sigma**2 + math.log(sigma + 1) + 1.9 / 2 + math.log(2)
    assert weighting(LOSSES).item() == pytest.approx(expected, rel=1e-6)


def test_uncertainty_weighting_is_kendalls_and_its_optimum_is_known():
    weighting = UncertaintyWeighting()
    with torch.no_grad():
        weighting.log_sigma["diagnosis"].fill_(0.3)
    expected = 0.7 / (2 * math.exp(0.6)) + 0.3 + 1.9 / 2
    assert weighting(LOSSES).item() == pytest.approx(expected, rel=1e-6)
    optimizer = torch.optim.SGD(weighting.parameters(), lr=0.2)
    for _ in range(300):
        optimizer.zero_grad()
        weighting(LOSSES).backward()
        optimizer.step()
    # The derivative vanishes where σ² equals the loss.
    assert math.exp(2 * weighting.log_sigma["saliency"].item()) == pytest.approx(1.9, rel=1e-3)


def test_fixed_weighting():
    assert FixedWeighting({"saliency": 0.5})(LOSSES).item() == pytest.approx(0.7 + 0.95)
    with pytest.raises(InputError, match="gaze"):
        FixedWeighting({"gaze": 1.0})(LOSSES)


@pytest.mark.parametrize("weighting", [ReferenceWeighting(), UncertaintyWeighting()])
def test_weightings_refuse_other_tasks(weighting):
    with pytest.raises(InputError, match="report"):
        weighting({"report": torch.tensor(1.0)})


def test_batch_hard_triplets_equal_pytorch_metric_learning():
    torch.manual_seed(2)
    embedding, label = torch.randn(20, 8), torch.randint(0, 3, (20,))
    distance = LpDistance(normalize_embeddings=False, p=2)
    hard = BatchHardMiner(distance=distance)(embedding, label)
    oracle = TripletMarginLoss(margin=1.0, distance=distance, reducer=MeanReducer())
    assert BatchHardTripletLoss()(embedding, label).item() == pytest.approx(
        oracle(embedding, label, hard).item(), rel=1e-5
    )


@pytest.mark.parametrize("temperature", [0.1, 0.7])
def test_supervised_contrastive_equals_pytorch_metric_learning(temperature):
    torch.manual_seed(3)
    embedding = torch.randn(18, 8, requires_grad=True)
    label = torch.randint(0, 4, (18,))
    ours = SupervisedContrastiveLoss(temperature)(embedding, label)
    oracle = SupConLoss(temperature=temperature)(embedding, label)
    assert ours.item() == pytest.approx(oracle.item(), rel=1e-5)
    gradient, expected = (torch.autograd.grad(loss, embedding)[0] for loss in (ours, oracle))
    assert torch.allclose(gradient, expected, atol=1e-6)


@pytest.mark.parametrize("loss", [BatchHardTripletLoss(), SupervisedContrastiveLoss()])
def test_batches_without_positives_cost_nothing_and_can_be_differentiated(loss):
    embedding = torch.randn(3, 4, requires_grad=True)
    value = loss(embedding, torch.arange(3))
    value.backward()
    assert value.item() == 0
    assert torch.equal(embedding.grad, torch.zeros(3, 4))


def maps(height=9, width=7):
    torch.manual_seed(4)
    target = torch.rand(4, 1, height, width) ** 3
    return (
        torch.randn(4, 1, height, width),
        target / target.sum((2, 3), keepdim=True),
        torch.tensor([True, True, False, True]),
    )


@pytest.mark.parametrize(("loss", "metric"), [(CorrelationLoss(), cc), (SimilarityLoss(), sim)])
@pytest.mark.parametrize("size", [(9, 7), (640, 512)])
def test_saliency_losses_are_one_minus_their_metric(loss, metric, size):
    logits, target, has_gaze = maps(*size)
    prediction = logits.flatten(1).softmax(1).view_as(logits)
    expected = 1 - metric(prediction[:, 0], target[:, 0])[has_gaze].mean()
    assert compare(loss, logits, target, has_gaze).item() == pytest.approx(expected.item(), abs=1e-4)


def test_saliency_losses_lead_to_the_target():
    _, target, has_gaze = maps()
    for loss in (CorrelationLoss(), SimilarityLoss(), KLDivergenceLoss()):
        logits = torch.zeros_like(target, requires_grad=True)
        optimizer = torch.optim.Adam([logits], lr=0.1)
        first = compare(loss, logits, target, has_gaze).item()
        for _ in range(150):
            optimizer.zero_grad()
            value = compare(loss, logits, target, has_gaze)
            value.backward()
            optimizer.step()
        assert value.item() < 0.2 * first


def test_weighted_sum_of_saliency_losses():
    logits, target, has_gaze = maps()
    whole = compare(WeightedSaliencyLoss([KLDivergenceLoss(), CorrelationLoss()], [1.0, 0.5]), logits, target, has_gaze)
    kl, cc_loss = (compare(loss, logits, target, has_gaze) for loss in (KLDivergenceLoss(), CorrelationLoss()))
    assert whole.item() == pytest.approx((kl + 0.5 * cc_loss).item(), rel=1e-6)
    with pytest.raises(InputError, match="2 losses need"):
        WeightedSaliencyLoss([KLDivergenceLoss(), CorrelationLoss()], [1.0])


@pytest.mark.parametrize("margin", [0.5, 2.0])
def test_semi_hard_triplets_equal_pytorch_metric_learning(margin):
    torch.manual_seed(3)
    embedding, label = torch.randn(18, 6, requires_grad=True), torch.randint(0, 3, (18,))
    distance = LpDistance(normalize_embeddings=False, p=2)
    chosen = TripletMarginMiner(margin=margin, type_of_triplets="semihard", distance=distance)(embedding, label)
    oracle = TripletMarginLoss(margin=margin, distance=distance, reducer=MeanReducer())(embedding, label, chosen)
    loss = BatchSemiHardTripletLoss(margin)(embedding, label)
    assert len(chosen[0]) > 20
    assert loss.item() == pytest.approx(oracle.item(), rel=1e-5)
    ours, expected = (torch.autograd.grad(value, embedding, retain_graph=True)[0] for value in (loss, oracle))
    assert torch.allclose(ours, expected, atol=1e-6)


def test_a_batch_without_semi_hard_triplets_costs_nothing():
    embedding = torch.randn(4, 3, requires_grad=True)
    loss = BatchSemiHardTripletLoss()(embedding, torch.zeros(4, dtype=torch.long))
    loss.backward()
    assert loss.item() == 0
    assert torch.equal(embedding.grad, torch.zeros(4, 3))


def test_the_nss_objective_is_the_metric_of_the_drawn_fixations():
    torch.manual_seed(0)
    logits, counts = torch.randn(3, 1, 20, 16), torch.zeros(3, 1, 20, 16)
    counts[:, 0, torch.randint(0, 20, (9,)), torch.randint(0, 16, (9,))] = 2.0
    target = counts / counts.sum((2, 3), keepdim=True)
    expected = nss(log_density(logits).exp()[:, 0], counts[:, 0])
    seen = torch.tensor([True, True, False])
    assert compare(NSSLoss(), logits, target, seen).item() == pytest.approx(-expected[:2].mean().item(), rel=1e-4)


def test_the_nss_objective_of_a_constant_map_is_zero_with_a_finite_gradient():
    logits = torch.zeros(1, 1, 640, 512, requires_grad=True)
    target = torch.zeros(1, 1, 640, 512)
    target[0, 0, 5, 5] = 1
    loss = compare(NSSLoss(), logits, target, torch.tensor([True]))
    loss.backward()
    assert abs(loss.item()) < 1e-2
    assert torch.isfinite(logits.grad).all()


def epoch(weighting, *pairs):
    total = [weighting({"diagnosis": torch.tensor(a), "saliency": torch.tensor(b)}).item() for a, b in pairs]
    weighting.begin_epoch()
    return total


def test_dynamic_weight_average_is_the_papers_equation():
    weighting = DynamicWeightAverage(temperature=2.0)
    assert epoch(weighting, (1.0, 4.0), (3.0, 4.0)) == [5.0, 7.0]
    assert epoch(weighting, (1.0, 4.0)) == [5.0]
    # Diagnosis fell from 2 to 1, saliency stayed at 4: it weighs more now.
    shares = [math.exp(0.5 / 2), math.exp(1.0 / 2)]
    expected = [2 * share / sum(shares) for share in shares]
    assert weighting.weights.tolist() == pytest.approx(expected)
    assert epoch(weighting, (2.0, 3.0)) == [pytest.approx(2 * expected[0] + 3 * expected[1])]


def test_dynamic_weights_survive_a_checkpoint_and_ignore_evaluation():
    weighting = DynamicWeightAverage()
    for losses in ((1.0, 4.0), (0.5, 4.0)):
        epoch(weighting, losses)
    again = DynamicWeightAverage()
    again.load_state_dict(weighting.state_dict())
    again.eval()({"diagnosis": torch.tensor(99.0), "saliency": torch.tensor(1.0)})
    for used in (weighting, again.train()):
        epoch(used, (0.4, 3.0))
    assert torch.equal(weighting.weights, again.weights)


def test_wrong_dynamic_weights():
    with pytest.raises(InputError, match="temperature"):
        DynamicWeightAverage(temperature=0)
    with pytest.raises(InputError, match="the losses are gaze"):
        DynamicWeightAverage()({"gaze": torch.tensor(1.0)})


def test_deep_supervision_adds_the_objective_of_coarser_maps():
    torch.manual_seed(0)
    logits, side, coarse = torch.randn(2, 1, 8, 8), torch.randn(2, 1, 4, 4), torch.randn(2, 1, 2, 2)
    target = torch.rand(2, 1, 8, 8)
    target = target / target.sum(dim=(1, 2, 3), keepdim=True)
    seen = torch.tensor([True, True])
    small = target.reshape(2, 1, 4, 2, 4, 2).sum(dim=(3, 5))
    smaller = target.reshape(2, 1, 2, 4, 2, 4).sum(dim=(3, 5))
    kl = KLDivergenceLoss()
    expected = compare(kl, logits, target, seen) + 0.5 * compare(kl, side, small, seen)
    expected = expected + 0.25 * compare(kl, coarse, smaller, seen)
    outputs = {"saliency_logits": logits, "saliency_logits_2": side, "saliency_logits_4": coarse}
    deep = DeepSupervisionLoss(weights=(0.5, 0.25))
    assert deep(outputs, {"heatmap": target, "has_gaze": seen}).item() == pytest.approx(expected.item(), rel=1e-5)
    check_side_heads(deep, 2)
    with pytest.raises(InputError, match="1 side heads are weighted, but the network has 2"):
        check_side_heads(DeepSupervisionLoss(), 2)
    with pytest.raises(InputError, match=r"trained by gazelit\.losses\.DeepSupervisionLoss"):
        check_side_heads(kl, 2)
