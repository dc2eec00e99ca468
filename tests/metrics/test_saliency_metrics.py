"""Saliency metrics against pysaliency, and by their properties."""

import numpy as np
import pytest
import torch
from pysaliency.metrics import CC, NSS, SIM, MIT_KLDiv
from scipy.stats import mannwhitneyu, pearsonr
from sklearn.metrics import roc_auc_score

from gazelit.metrics import SaliencyMetrics, saliency_values
from gazelit.metrics.functional import auc_borji, auc_judd, cc, ig, kld, nss, sauc, sim

torch.manual_seed(0)
PREDICTION = torch.rand(5, 13, 17) ** 3
TARGET = torch.rand(5, 13, 17) ** 2
COUNTS = torch.poisson(torch.full((5, 13, 17), 0.08))
# A map with ties, as an 8-bit map has.
TIED = (PREDICTION * 6).round() / 6


@pytest.mark.parametrize("prediction", [PREDICTION, TIED])
def test_map_metrics_equal_pysaliency(prediction):
    for map_, target, correlation, similarity in zip(
        prediction, TARGET, cc(prediction, TARGET), sim(prediction, TARGET), strict=True
    ):
        assert correlation.item() == pytest.approx(CC(map_.double().numpy(), target.double().numpy()), abs=1e-9)
        assert correlation.item() == pytest.approx(
            pearsonr(map_.double().flatten().numpy(), target.double().flatten().numpy())[0], abs=1e-9
        )
        assert similarity.item() == pytest.approx(SIM(map_.double().numpy(), target.double().numpy()), abs=1e-9)


def test_kld_is_its_formula():
    p = (PREDICTION / PREDICTION.sum((1, 2), keepdim=True)).double()
    g = (TARGET / TARGET.sum((1, 2), keepdim=True)).double()
    expected = (g * (g / p).log()).sum((1, 2))
    assert torch.allclose(kld(PREDICTION, TARGET), expected, atol=1e-5)
    # Values are away from zero, because MIT's definition has an epsilon inside the logarithm.
    raised = PREDICTION + 0.01
    for map_, target, value in zip(raised, TARGET, kld(raised, TARGET), strict=True):
        assert value.item() == pytest.approx(MIT_KLDiv(map_.double().numpy(), target.double().numpy()), abs=1e-6)


def test_nss_equals_pysaliency_with_repeated_fixations():
    for map_, counts, value in zip(PREDICTION, COUNTS, nss(PREDICTION, COUNTS), strict=True):
        ys, xs = counts.nonzero(as_tuple=True)
        repeat = counts[ys, xs].long()
        expected = np.mean(NSS(map_.double().numpy(), np.repeat(xs, repeat).numpy(), np.repeat(ys, repeat).numpy()))
        assert value.item() == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("prediction", [PREDICTION, TIED])
def test_auc_judd_equals_scikit_learn_and_mann_whitney(prediction):
    for map_, counts, value in zip(prediction, COUNTS, auc_judd(prediction, COUNTS), strict=True):
        weight = torch.where(counts > 0, counts, 1.0)
        expected = roc_auc_score(
            (counts > 0).flatten().numpy(), map_.flatten().numpy(), sample_weight=weight.flatten().numpy()
        )
        assert value.item() == pytest.approx(expected, abs=1e-9)
        positives = map_[counts > 0].repeat_interleave(counts[counts > 0].long()).double().numpy()
        negatives = map_[counts == 0].double().numpy()
        statistic = mannwhitneyu(positives, negatives).statistic
        assert value.item() == pytest.approx(statistic / (len(positives) * len(negatives)), abs=1e-9)


def test_perfect_and_uniform_predictions():
    assert torch.allclose(cc(TARGET, TARGET), torch.ones(5).double())
    assert torch.allclose(kld(TARGET, TARGET), torch.zeros(5).double(), atol=1e-12)
    assert torch.allclose(sim(TARGET, TARGET), torch.ones(5).double())
    uniform = torch.full_like(TARGET, 0.1)
    assert torch.equal(cc(uniform, TARGET), torch.zeros(5).double())
    assert torch.equal(nss(uniform, COUNTS), torch.zeros(5).double())
    assert torch.equal(auc_judd(uniform, COUNTS), torch.full((5,), 0.5).double())


def test_invariances():
    assert torch.allclose(cc(3 * PREDICTION + 2, TARGET), cc(PREDICTION, TARGET), atol=1e-6)
    assert torch.allclose(nss(3 * PREDICTION + 2, COUNTS), nss(PREDICTION, COUNTS), atol=1e-5)
    assert torch.allclose(auc_judd(PREDICTION.exp(), COUNTS), auc_judd(PREDICTION, COUNTS), atol=1e-9)
    assert torch.allclose(sim(7 * PREDICTION, TARGET), sim(PREDICTION, TARGET))


def test_masked_pixels_do_not_count():
    mask = torch.zeros(5, 13, 17, dtype=torch.bool)
    mask[:, 2:11, 3:14] = True
    spoiled = torch.where(mask, PREDICTION, 99.0)
    for metric, observed in ((cc, TARGET), (kld, TARGET), (sim, TARGET), (nss, COUNTS), (auc_judd, COUNTS)):
        inner = metric(PREDICTION[:, 2:11, 3:14], observed[:, 2:11, 3:14])
        assert torch.allclose(metric(spoiled, observed, mask), inner, atol=1e-9), metric.__name__


def test_without_gaze_values_are_nan_and_left_out_of_the_mean():
    target, counts = TARGET.clone(), COUNTS.clone()
    target[2], counts[2] = 0, 0
    values = saliency_values(PREDICTION, target, counts)
    assert all(torch.isnan(value[2]) and not torch.isnan(value[[0, 1, 3, 4]]).any() for value in values.values())
    metrics = SaliencyMetrics()
    metrics.update({name: value[:3] for name, value in values.items()})
    metrics.update({name: value[3:] for name, value in values.items()})
    result = metrics.compute()
    assert result["n_without_gaze"] == 1
    for name, value in values.items():
        assert result[name].item() == pytest.approx(value[[0, 1, 3, 4]].mean().item(), rel=1e-12)


def test_precision_is_not_lost_on_large_maps_that_sum_to_one():
    torch.manual_seed(2)
    predicted, observed = torch.rand(1, 640, 512), torch.rand(1, 640, 512)
    expected = pearsonr(predicted.double().flatten().numpy(), observed.double().flatten().numpy())[0]
    assert cc(predicted / predicted.sum(), observed / observed.sum()).item() == pytest.approx(expected, abs=1e-6)


def test_half_precision_maps_are_scored_in_full_precision():
    # 2.2e-16 is zero in float16, and bfloat16 keeps three digits, so sums must not be computed in either.
    for dtype in (torch.float16, torch.bfloat16):
        predicted, observed = (values / values.sum((1, 2), keepdim=True) for values in (PREDICTION + 0.1, TARGET + 0.1))
        predicted, observed = predicted.to(dtype), observed.to(dtype)
        values = saliency_values(predicted, observed, COUNTS)
        exact = saliency_values(predicted.double(), observed.double(), COUNTS.double())
        for name, value in exact.items():
            assert torch.allclose(values[name], value, atol=1e-9), name


def test_shapes_that_do_not_match_are_refused():
    with pytest.raises(ValueError, match="maps must both be"):
        cc(PREDICTION, TARGET[:, :5])


OTHERS = torch.poisson(torch.full((5, 13, 17), 0.3))


def repeated(values, counts):
    return values[counts > 0].repeat_interleave(counts[counts > 0].long()).double().numpy()


@pytest.mark.parametrize("prediction", [PREDICTION, TIED])
def test_borji_and_shuffled_auc_equal_mann_whitney(prediction):
    borji, shuffled = auc_borji(prediction, COUNTS), sauc(prediction, COUNTS, OTHERS)
    for map_, counts, elsewhere_counts, uniform, value in zip(prediction, COUNTS, OTHERS, borji, shuffled, strict=True):
        positives, everything, elsewhere = (
            repeated(map_, counts),
            map_.flatten().double().numpy(),
            repeated(map_, elsewhere_counts),
        )
        for negatives, ours in ((everything, uniform), (elsewhere, value)):
            expected = mannwhitneyu(positives, negatives).statistic / (len(positives) * len(negatives))
            assert ours.item() == pytest.approx(expected, abs=1e-9)


def test_shuffled_auc_of_the_mean_map_is_chance_in_expectation():
    generator = torch.Generator().manual_seed(3)
    bias = torch.rand(13, 17, generator=generator) ** 2
    counts = torch.poisson(bias.expand(400, 13, 17) * 0.3, generator=generator)
    elsewhere = counts.sum(0) - counts
    assert sauc(bias.expand_as(counts), counts, elsewhere).nanmean().item() == pytest.approx(0.5, abs=0.01)
    # Without the correction the same map looks good.
    assert auc_judd(bias.expand_as(counts), counts).nanmean().item() > 0.65


def test_information_gain_is_the_difference_of_log_likelihoods_in_bits():
    baseline = torch.rand(13, 17) + 0.1
    for map_, counts, value in zip(PREDICTION, COUNTS, ig(PREDICTION, COUNTS, baseline), strict=True):
        p, b = (map_ / map_.sum()).double(), (baseline / baseline.sum()).double()
        expected = np.mean(np.log2(repeated(p, counts)) - np.log2(repeated(b, counts)))
        assert value.item() == pytest.approx(expected, abs=1e-6)
    assert torch.allclose(ig(baseline.expand(5, 13, 17), COUNTS, baseline), torch.zeros(5).double(), atol=1e-6)
    assert torch.isnan(ig(PREDICTION, torch.zeros_like(COUNTS), baseline)).all()
