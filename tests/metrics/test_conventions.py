"""The MIT and reference conventions, EMD, and the traps of saliency metrics, each computed another way."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pysaliency.metrics import CC, NSS, SIM, MIT_KLDiv
from scipy.stats import wasserstein_distance_nd

from gazelit.metrics.functional import auc_borji, auc_judd, cc, emd, ig, kld, nss, sauc, sim

torch.manual_seed(0)
PREDICTION = torch.rand(4, 12, 16) ** 3
TARGET = torch.rand(4, 12, 16) ** 2
COUNTS = torch.poisson(torch.full((4, 12, 16), 0.1))
EPS = 2.0**-52


def stretched(map_):
    return (map_ - map_.min()) / (map_.max() - map_.min())


def test_mit_kld_equals_pysaliencys_port():
    for p, g, value in zip(PREDICTION, TARGET, kld(PREDICTION, TARGET, convention="mit"), strict=True):
        assert value.item() == pytest.approx(MIT_KLDiv(p.double().numpy(), g.double().numpy()), abs=1e-9)


def test_mit_sim_stretches_both_maps():
    for p, g, value in zip(
        PREDICTION.double(), TARGET.double(), sim(PREDICTION, TARGET, convention="mit"), strict=True
    ):
        p_stretched, g_stretched = stretched(p.numpy()), stretched(g.numpy())
        assert value.item() == pytest.approx(
            np.minimum(p_stretched / p_stretched.sum(), g_stretched / g_stretched.sum()).sum(), abs=1e-9
        )


def test_sim_with_mits_stretch_is_blind_to_a_pedestal_and_ours_is_not():
    raised = PREDICTION + 0.5
    assert torch.allclose(sim(raised, TARGET, convention="mit"), sim(PREDICTION, TARGET, convention="mit"), atol=1e-6)
    assert ((sim(raised, TARGET) - sim(PREDICTION, TARGET)).abs() > 0.01).all()


def test_mit_nss_counts_fixated_pixels_once_with_the_samples_deviation():
    for p, f, value in zip(PREDICTION.double(), COUNTS, nss(PREDICTION, COUNTS, convention="mit"), strict=True):
        standard = (p - p.mean()) / p.std(correction=1)
        assert value.item() == pytest.approx(standard[f > 0].mean().item(), abs=1e-9)


def test_reference_nss_takes_a_density_and_ours_refuses_one():
    for p, g, value in zip(PREDICTION.double(), TARGET, nss(PREDICTION, TARGET, convention="reference"), strict=True):
        standard = (p - p.mean()) / p.std(correction=1)
        assert value.item() == pytest.approx((standard * g).sum().item() / g.sum().item(), abs=1e-6)
    with pytest.raises(ValueError, match="whole numbers of fixations"):
        nss(PREDICTION, TARGET)


def test_mit_auc_judd_equals_its_loop_over_thresholds():
    for p, f, value in zip(PREDICTION.double(), COUNTS, auc_judd(PREDICTION, COUNTS, convention="mit"), strict=True):
        values, fixated = p.flatten().numpy(), f.flatten().numpy() > 0
        thresholds = np.sort(values[fixated])[::-1]
        true, false = [0.0], [0.0]
        for number, threshold in enumerate(thresholds, start=1):
            above = (values >= threshold).sum()
            true.append(number / len(thresholds))
            false.append((above - number) / (len(values) - len(thresholds)))
        expected = np.trapezoid([*true, 1.0], [*false, 1.0])
        assert value.item() == pytest.approx(expected, abs=1e-9)


def test_mit_information_gain_stretches_both_maps():
    base = TARGET.mean(0)
    for p, f, value in zip(PREDICTION, COUNTS, ig(PREDICTION, COUNTS, base, convention="mit"), strict=True):
        p_stretched, base_stretched = stretched(p.double()), stretched(base.double())
        expected = ((EPS + p_stretched).log2() - (EPS + base_stretched).log2())[f > 0].mean()
        assert value.item() == pytest.approx(expected.item(), abs=1e-9)


def test_emd_equals_scipys_optimal_transport():
    prediction, target = torch.rand(2, 6, 9, dtype=torch.float64), torch.rand(2, 6, 9, dtype=torch.float64)
    y, x = np.mgrid[:3, :3]
    places = np.stack([y.ravel() * 2 + 0.5, x.ravel() * 3 + 1], 1)
    for predicted, observed, value in zip(prediction, target, emd(prediction[:, :, :9], target, cell=3), strict=True):
        cells = [m.numpy().reshape(2, 3, 3, 3).sum((1, 3)).ravel() for m in (predicted, observed)]
        y, x = np.mgrid[:2, :3]
        places = np.stack([y.ravel() * 3 + 1, x.ravel() * 3 + 1], 1).astype(float)
        expected = wasserstein_distance_nd(places, places, cells[0], cells[1])
        assert value.item() == pytest.approx(expected, abs=1e-6)


def test_emd_of_a_shift_is_its_length_in_pixels_and_cells_at_the_border_may_be_smaller():
    spot, shifted = torch.zeros(1, 70, 40), torch.zeros(1, 70, 40)
    spot[0, 10, 10] = 1
    shifted[0, 50, 10] = 1
    assert emd(spot, shifted).item() == pytest.approx(32)
    shifted[0, 50, 10], shifted[0, 69, 10] = 0, 1
    # The last cell has six rows, so its middle is at 66.5; that of the first cell is at 15.5.
    assert emd(spot, shifted).item() == pytest.approx(51)
    assert emd(spot, spot).item() == pytest.approx(0, abs=1e-12)
    assert emd(spot, torch.zeros_like(spot)).isnan().all()


@pytest.mark.parametrize("size", [(12, 16), (400, 320)])
@pytest.mark.parametrize("kind", ["random", "ties", "flat", "zeros"])
def test_small_and_large_maps_equal_pysaliency_to_a_millionth(size, kind):
    torch.manual_seed(1)
    prediction, target = torch.rand(2, *size) ** 4, torch.rand(2, *size) ** 3
    counts = torch.poisson(torch.full((2, *size), 0.01))
    counts[:, 3, 4] += 1
    if kind == "ties":
        prediction = (prediction * 8).round() / 8 + 0.01
    elif kind == "flat":
        prediction = 1 + 1e-3 * prediction
    elif kind == "zeros":
        target = torch.where(target < 0.3, 0.0, target)
    for row in range(2):
        p, g = prediction[row].double().numpy(), target[row].double().numpy()
        seen = counts[row].int().numpy()
        fixations = np.repeat(np.argwhere(seen > 0), seen[seen > 0], axis=0)
        pair = (prediction[row : row + 1], target[row : row + 1])
        assert cc(*pair).item() == pytest.approx(CC(p, g), abs=1e-6)
        assert sim(*pair).item() == pytest.approx(SIM(p, g), abs=1e-6)
        inside = g > 0
        expected = (g[inside] / g.sum() * np.log(g[inside] / g.sum() / (p[inside] / p.sum()))).sum()
        assert kld(*pair).item() == pytest.approx(expected, abs=1e-6)
        value = nss(prediction[row : row + 1], counts[row : row + 1]).item()
        assert value == pytest.approx(NSS(p, fixations[:, 1], fixations[:, 0]).mean(), abs=2e-6)


def test_a_prediction_of_zero_where_there_is_gaze_is_infinitely_wrong_but_not_for_mit():
    prediction, target = torch.ones(1, 300, 300), torch.zeros(1, 300, 300)
    target[0, 5, 5] = 1
    prediction[0, 5, 5] = 0
    assert kld(prediction, target).item() == np.inf
    assert np.isfinite(kld(prediction, target, convention="mit").item())
    prediction[0, 7, 7] = 0
    prediction[0, 5, 5] = 1
    assert kld(prediction, target).item() == pytest.approx(np.log(90_000 - 1), rel=1e-6)


def test_constant_predictions_and_padding_have_defined_values_in_every_size():
    for size in (20, 300):
        flat, target, counts = torch.full((1, size, size), 0.3), torch.rand(1, size, size), torch.zeros(1, size, size)
        counts[0, 2, 3] = 1
        assert cc(flat, target).item() == 0
        assert nss(flat, counts).item() == 0
        assert auc_judd(flat, counts).item() == 0.5
        mask = torch.ones(1, size, size, dtype=torch.bool)
        mask[:, :, size // 2 :] = False
        prediction = torch.rand(1, size, size)
        for metric in (cc, kld, sim):
            inside = metric(prediction[:, :, : size // 2], target[:, :, : size // 2])
            assert metric(prediction, target, mask).item() == pytest.approx(inside.item(), abs=1e-6)
        inside = nss(prediction[:, :, : size // 2], counts[:, :, : size // 2])
        assert nss(prediction, counts, mask).item() == pytest.approx(inside.item(), abs=1e-6)


maps = st.integers(0, 2**31 - 1).map(
    lambda seed: torch.rand(2, 1, 9, 11, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
)


@settings(max_examples=40, deadline=None)
@given(maps, st.floats(0.1, 10), st.floats(0, 5))
def test_bounds_and_invariances(pair, scale, shift):
    p, g = pair[0] + 1e-3, pair[1]
    counts = (g > 0.9).double()
    counts[0, 0, 0] = 1
    changed = scale * p + shift
    assert kld(p, g).item() >= -1e-12
    assert 0 <= sim(p, g).item() <= 1 + 1e-12
    assert -1 <= cc(p, g).item() <= 1
    assert cc(changed, g).item() == pytest.approx(cc(p, g).item(), abs=1e-9)
    assert nss(changed, counts).item() == pytest.approx(nss(p, counts).item(), abs=1e-9)
    assert emd(p, g, cell=4).item() >= 0
    for metric in (auc_judd, auc_borji):
        assert 0 <= metric(p, counts).item() <= 1
        assert metric(p.exp() ** 3, counts).item() == pytest.approx(metric(p, counts).item(), abs=1e-12)
    elsewhere = (pair[0] > 0.7).double()
    elsewhere[0, 1, 1] = 1
    assert sauc(p**2, counts, elsewhere).item() == pytest.approx(sauc(p, counts, elsewhere).item(), abs=1e-12)
    assert ig(p, counts, p).item() == pytest.approx(0, abs=1e-12)
