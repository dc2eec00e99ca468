"""Conditional scores against pysaliency's scanpath models and a reader whose entropy is known."""

import math

import numpy as np
import pytest
import torch
from pysaliency import FixationTrains, Model, ScanpathModel, Stimuli
from pysaliency.saliency_map_models import ScanpathSaliencyMapModel
from scipy.stats import entropy
from torchmetrics import MetricCollection

from gazelit.errors import InputError
from gazelit.metrics.scanpath import (
    ConditionalMetric,
    conditional_auc,
    conditional_ig,
    conditional_nss,
    conditional_scores,
)

HEIGHT, WIDTH = 12, 16


def log_softmax(values):
    return values - np.log(np.exp(values).sum(axis=(-2, -1), keepdims=True))


def log_density_after(x_before, y_before):
    """A density that depends on the whole history, coarse enough to have ties."""
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    last = [value[~np.isnan(value)] for value in (np.asarray(x_before), np.asarray(y_before))]
    near = np.hypot(x - last[0][-1], y - last[1][-1]) if len(last[0]) else np.hypot(x, y)
    return log_softmax(-np.round(near + 0.3 * len(last[0])) / 3)


class FromHistory(ScanpathModel):
    def conditional_log_density(self, stimulus, x_hist, y_hist, t_hist, attributes=None, out=None):
        return log_density_after(x_hist, y_hist)


class MapsFromHistory(ScanpathSaliencyMapModel):
    def conditional_saliency_map(self, stimulus, x_hist, y_hist, t_hist, attributes=None, out=None):
        return np.exp(log_density_after(x_hist, y_hist))


class Centre(Model):
    def _log_density(self, stimulus):
        y, x = np.mgrid[:HEIGHT, :WIDTH]
        return log_softmax(-((x - 8) ** 2 + (y - 6) ** 2) / 40)


@pytest.fixture(scope="module")
def paths():
    generator = np.random.default_rng(0)
    return [
        np.column_stack([generator.uniform(0, (WIDTH, HEIGHT), (length, 2)), np.full(length, 0.2)])
        for length in (5, 3, 8)
    ]


@pytest.fixture(scope="module")
def log_densities(paths):
    return [
        torch.from_numpy(np.stack([log_density_after(path[:i, 0], path[:i, 1]) for i in range(len(path))]))
        for path in paths
    ]


def test_scores_are_those_of_pysaliency(paths, log_densities):
    stimuli = Stimuli([np.random.default_rng(1).integers(0, 255, (HEIGHT, WIDTH, 3), np.uint8)])
    fixations = FixationTrains.from_fixation_trains(
        *[[path[:, axis] for path in paths] for axis in (0, 1)],
        [np.arange(len(path)) for path in paths],
        [0] * 3,
        [0] * 3,
    )
    baseline = torch.from_numpy(Centre().log_density(stimuli[0]))
    scores = conditional_scores(torch.cat(log_densities), np.concatenate(paths), baseline)
    assert scores.ig.values == pytest.approx(FromHistory().information_gains(stimuli, fixations, Centre()), abs=1e-9)
    maps = MapsFromHistory()
    assert scores.nss.values == pytest.approx(maps.NSSs(stimuli, fixations), abs=1e-9)
    assert scores.auc.values == pytest.approx(maps.AUCs(stimuli, fixations), abs=1e-9)
    later = fixations[fixations.lengths > 0]
    gain = FromHistory().information_gain(stimuli, later, Centre())
    metric = ConditionalMetric()
    metric.update(log_densities[:2], paths[:2], baseline)
    metric.update(log_densities[2:], paths[2:], baseline)
    assert metric.compute().item() == pytest.approx(gain, abs=1e-9)


def test_the_mean_of_a_path_leaves_the_given_fixations_out(paths, log_densities):
    baseline = torch.full((HEIGHT, WIDTH), -math.log(HEIGHT * WIDTH))
    single = conditional_scores(log_densities[0], paths[0], baseline)
    gain = conditional_ig(log_densities, paths, baseline)
    assert gain[0] == pytest.approx(single.ig.values[1:].mean())
    assert conditional_ig(log_densities[0], paths[0], baseline) == gain[0]
    assert conditional_nss(log_densities[0], paths[0], given=2) == pytest.approx(single.nss.values[2:].mean())
    assert conditional_auc(log_densities, paths, given=0)[0] == pytest.approx(single.auc.values.mean())
    assert math.isnan(conditional_ig(log_densities[0][:1], paths[0][:1], baseline))
    for score, values in ((conditional_nss, single.nss.values), (conditional_auc, single.auc.values)):
        # A map of a given fixation need not be a density.
        for ignored in (math.nan, 0.0):
            maps = log_densities[0].clone()
            maps[0] = ignored
            assert score(maps, paths[0]) == pytest.approx(values[1:].mean())
        assert math.isnan(score(log_densities[0][:0], paths[0][:0]))
    assert "given 1" in str(gain.settings)


def test_the_information_of_a_synthetic_reader_is_its_entropy_difference():
    # The reader draws each fixation from a density that depends on the half of the film with the last fixation.
    generator = np.random.default_rng(2)
    halves = log_softmax(generator.normal(0, 1.5, (2, HEIGHT, WIDTH)))
    cumulative = np.exp(halves).reshape(2, -1).cumsum(axis=1)
    path = np.zeros((20_000, 2))
    for step, draw in enumerate(generator.uniform(size=len(path) - 1), start=1):
        place = int(np.searchsorted(cumulative[int(path[step - 1, 0] >= WIDTH // 2)], draw))
        path[step] = place % WIDTH, min(place // WIDTH, HEIGHT - 1)
    before = (path[:-1, 0] >= WIDTH // 2).astype(int)
    uniform = torch.full((HEIGHT, WIDTH), -math.log(HEIGHT * WIDTH), dtype=torch.float64)
    gain = conditional_scores(torch.from_numpy(halves)[before], path[1:], uniform).ig.values
    entropies = np.array([entropy(np.exp(half).ravel(), base=2) for half in halves])
    expected = math.log2(HEIGHT * WIDTH) - entropies[before]
    assert gain.mean() == pytest.approx(expected.mean(), abs=4 * gain.std() / math.sqrt(len(gain)))


def test_a_collection_keeps_conditional_scores_apart(paths, log_densities):
    uniform = torch.full((HEIGHT, WIDTH), -math.log(HEIGHT * WIDTH), dtype=torch.float64)
    together = MetricCollection({"ig": ConditionalMetric(), "nss": ConditionalMetric("nss")})
    alone = {name: metric.clone() for name, metric in together.items()}
    # Of a first batch of uniform densities both are 0.
    for densities in ([uniform.expand(len(path), -1, -1) for path in paths], log_densities):
        together.update(densities, paths, uniform)
        for metric in alone.values():
            metric.update(densities, paths, uniform)
    assert together.compute() == {name: metric.compute() for name, metric in alone.items()}


def test_a_constant_density_is_chance():
    uniform = torch.full((2, HEIGHT, WIDTH), -math.log(HEIGHT * WIDTH))
    scores = conditional_scores(uniform, [[1, 2], [15.9, 11.9]], uniform[0])
    assert scores.ig.values.tolist() == [0, 0]
    assert scores.nss.values.tolist() == [0, 0]
    assert scores.auc.values.tolist() == [0.5, 0.5]
    differentiable = torch.tensor([[1.0, 2.0], [15.9, 11.9]], requires_grad=True)
    again = conditional_scores(uniform.clone().requires_grad_(), differentiable, uniform[0].numpy())
    assert again.ig.values.tolist() == [0, 0]


def test_bad_input_is_one_clear_line(paths, log_densities):
    density, path = log_densities[0], paths[0]
    with pytest.raises(InputError, match="log_density: is no logarithm of a density"):
        conditional_scores(density + 1, path, density[0])
    with pytest.raises(InputError, match=r"log_density: must be \(N, H, W\)"):
        conditional_scores(density[0], path, density[0])
    with pytest.raises(InputError, match="fixations: must be"):
        conditional_scores(density, path[:2], density[0])
    with pytest.raises(InputError, match="fixations: number 1 lies off the image"):
        conditional_scores(density, path + 20, density[0])
    with pytest.raises(InputError, match=r"fixations: number 2 lies off the image .*, or is not finite"):
        conditional_scores(density, np.where(np.arange(5)[:, None] == 1, np.nan, path), density[0])
    for wrong in (density[0, :5], density[:2], density[None]):
        with pytest.raises(InputError, match="baseline: must be"):
            conditional_scores(density, path, wrong)
    with pytest.raises(InputError, match="one map for each fixation"):
        conditional_ig(density[:3], path, density[0])
    with pytest.raises(InputError, match="has maps of 2 paths, but path has 3"):
        conditional_nss(log_densities[:2], paths)
    with pytest.raises(InputError, match="baseline: has 2 maps for 3 paths"):
        conditional_ig(log_densities, paths, [density[0]] * 2)
    with pytest.raises(InputError, match="given: must not be below 0"):
        conditional_auc(density, path, given=-1)
    with pytest.raises(InputError, match="information is gained over something"):
        ConditionalMetric().update(log_densities, paths)
    with pytest.raises(InputError, match="name: must be ig, nss or auc"):
        ConditionalMetric("kld")
