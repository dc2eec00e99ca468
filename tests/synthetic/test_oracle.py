"""The oracle against independent estimates: enumeration, simulation, the metrics, and models with less information."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import stats

from gazelit.errors import InputError
from gazelit.metrics.functional import cc, ig, kld
from gazelit.synthetic import search
from gazelit.synthetic.case import plan_cohort
from gazelit.synthetic.hard_case import render
from gazelit.synthetic.mixture import cell_masses
from gazelit.synthetic.oracle import Oracle, explainable_share, for_case
from gazelit.synthetic.search import BIAS_SPREAD, CM_PER_DEGREE, NOISE
from gazelit.synthetic.tables import identifiers

SIGMA = 1.67
SHAPE = (43, 36)


@pytest.fixture(scope="module")
def films():
    """Three films at 96 pixels, one of each class, with findings and distractors."""
    return [render(plan) for plan in plan_cohort(6, 5, 96, "hard")[3:]]


@pytest.fixture(scope="module")
def oracles(films):
    return [Oracle.of(film) for film in films]


def readings_of(oracle, count, seed):
    """x, y and duration of simulated readings, in pixels of the image."""
    simulated = oracle.simulate(count, seed)
    for places, duration in zip(simulated.tracked, simulated.duration, strict=True):
        kept = duration > 0
        yield (*oracle.pixels(places[kept]).T, duration[kept])


def enumerated(oracle, places, draws, rng):
    """Joint log-density of the first fixations: all sequences of targets, with latent states drawn from their prior.

    Given the targets, the positions are jointly Gaussian: their errors are independent but for the bias they share.
    """
    scene = oracle.scene
    count, targets = len(places), len(scene.spots)
    shared = (BIAS_SPREAD * CM_PER_DEGREE) ** 2
    values = []
    for reader in oracle.readers:
        states = search.draw_state(scene, np.full(draws, reader), rng)
        bias = search.panel_reader(int(reader)).bias * CM_PER_DEGREE
        density = np.zeros(draws)
        for sequence in itertools.product(range(targets), repeat=count):
            own = scene.spread[list(sequence)] ** 2 + NOISE**2
            covariance = np.diag(own) + shared
            offset = places - scene.spots[list(sequence)] - bias
            form = sum(offset[:, axis] @ np.linalg.solve(covariance, offset[:, axis]) for axis in (0, 1))
            likelihood = np.exp(-0.5 * form) / ((2 * np.pi) ** count * np.linalg.det(covariance))
            if likelihood < 1e-12:
                continue
            state = states.take(np.arange(draws))
            chance = np.ones(draws)
            for target in sequence:
                chance *= search.target_probabilities(scene, state)[:, target]
                search.look(state, np.full(draws, target))
            density += chance * likelihood
        values.append(density)
    density = np.concatenate(values)
    return density.mean(), density.std(ddof=1) / np.sqrt(len(density))


@pytest.mark.parametrize("film", [1, 2])
def test_the_filter_equals_enumeration_of_all_targets(films, film):
    oracle = Oracle.of(films[film], "b")
    # All items are noticed at the first looks, so that three looks can reach them.
    differences = []
    for seed in range(6):
        simulated = oracle.simulate(1, seed)
        places = simulated.tracked[0][:3]
        exact, error = enumerated(oracle, places, 300, np.random.default_rng(seed))
        x, y = oracle.pixels(places).T
        # The estimate of the likelihood is unbiased, that of its logarithm is not, so likelihoods are averaged.
        estimates = np.exp([oracle.log_density(x, y, particles=1000, seed=s).sum() for s in range(4)])
        mass = np.exp(np.mean([on_film(oracle, places, seed)]))
        spread = np.hypot(error / exact, estimates.std(ddof=1) / estimates.mean() / 2)
        differences.append((estimates.mean() * mass / exact - 1) / max(spread, 0.01))
    assert np.abs(differences).max() < 4
    assert abs(np.mean(differences)) < 1.7


def on_film(oracle, places, seed):
    """Logarithm of the chance that three looks lie on the film, which is nearly 1."""
    half = np.array(oracle.extent) / 2
    simulated = oracle.simulate(4000, seed).tracked[:, : len(places)]
    return np.log((np.abs(simulated) < half).all(axis=(1, 2)).mean())


def test_the_mean_information_equals_the_entropy_by_simulation(films):
    """The density of the first look has no past, so its entropy is an integral over the film."""
    oracle = Oracle.of(films[1])
    simulated = oracle.simulate(3000, 1)
    first = simulated.tracked[:, :1]
    found = np.array([oracle.information(*oracle.pixels(point).T, particles=64)[0] for point in first[:400]])
    width, height = oracle.extent
    cells = (86, 72)
    state = search.draw_state(oracle.scene, np.repeat(oracle.readers, 500), np.random.default_rng(3))
    chance = search.target_probabilities(oracle.scene, state).reshape(len(oracle.readers), 500, -1).mean(axis=1)
    density = replace(oracle.mixture(16), by_fixation=chance).density(cells, weighted=False)
    expected = (density * np.log2(np.maximum(density, 1e-300) * density.size)).sum()
    error = found.std(ddof=1) / np.sqrt(len(found))
    assert abs(found.mean() - expected) < 3.5 * error + 0.02
    assert width * height > 1000


def test_more_particles_change_little(oracles):
    x, y, duration = next(readings_of(oracles[1], 1, 3))
    few, many = (oracles[1].information(x, y, duration, particles=p).mean() for p in (300, 1500))
    assert many == pytest.approx(few, abs=0.12)


def test_the_expected_map_is_the_mean_of_many_readers(oracles):
    for oracle in oracles[1:]:
        expected = oracle.expected_map(SHAPE, SIGMA, readings=4000)
        maps = oracle._reading_maps(SHAPE, SIGMA, 800, 7)
        error = maps.std(axis=0, ddof=1) / np.sqrt(len(maps))
        standard = (maps.mean(axis=0) - expected.ravel())[error > 1e-6] / error[error > 1e-6]
        assert np.abs(standard).max() < 5.5
        assert np.sqrt((standard**2).mean()) < 1.6


@pytest.fixture(scope="module")
def scores(oracles):
    """Bits per fixation over a uniform density, of models on the same new readings, (models, readings)."""
    names = ("oracle", "expected", "two readers", "another film", "history-free")
    table = {name: [] for name in names}
    for number, oracle in enumerate(oracles):
        size = oracle.size
        expected = oracle.expected_map(size, weighted=False)
        seen = np.mean([_blurred(oracle, *reading[:2]) for reading in readings_of(oracle, 2, 50)], axis=0)
        foreign = oracles[(number + 1) % 3].expected_map(size, weighted=False)
        marks = np.zeros((1, len(oracle.scene.spots)))
        marks[0] = 1 / marks.size
        even = np.repeat(marks, len(oracle.readers), axis=0)
        plain = replace(oracle.mixture(16), by_fixation=even).density(size, weighted=False)
        for x, y, duration in readings_of(oracle, 9, 60):
            table["oracle"].append(oracle.information(x, y, duration, particles=200).mean())
            row, column = np.round(y).astype(int), np.round(x).astype(int)
            inside = (row >= 0) & (row < size[0]) & (column >= 0) & (column < size[1])
            for name, density in zip(names[1:], (expected, seen, foreign, plain), strict=True):
                density = density / density.sum() * density.size
                table[name].append(np.log2(np.maximum(density, 1e-6)[row[inside], column[inside]]).mean())
    return {name: np.array(values) for name, values in table.items()}


def _blurred(oracle, x, y):
    cells = np.indices(oracle.size)
    scale = oracle.size[0] / oracle.extent[1]
    distance = (cells[1][..., None] - x) ** 2 + (cells[0][..., None] - y) ** 2
    return np.exp(-0.5 * distance / (1.3 * scale) ** 2).sum(axis=-1) + 1e-3


def test_no_model_exceeds_the_oracle(scores):
    for name, values in scores.items():
        if name != "oracle":
            gain = scores["oracle"] - values
            assert gain.mean() > 3 * gain.std(ddof=1) / np.sqrt(len(gain)), name
    for name in ("two readers", "another film", "history-free"):
        gain = scores["expected"] - scores[name]
        assert gain.mean() > 2 * gain.std(ddof=1) / np.sqrt(len(gain)), name


def test_the_bounds_hold_for_the_metrics(oracles):
    """Floor and ceiling agree with gazelit's own KLD, CC and IG on new readings."""
    oracle = oracles[1]
    bounds = oracle.bounds(SHAPE, SIGMA)
    expected = torch.from_numpy(oracle.expected_map(SHAPE, SIGMA))
    fresh = torch.from_numpy(oracle._reading_maps(SHAPE, SIGMA, 200, 77)).view(-1, *SHAPE)
    best = kld(expected.expand_as(fresh), fresh)
    assert float(best.mean()) == pytest.approx(bounds.kld, abs=4 * float(best.std()) / 200**0.5)
    reached = cc(expected.expand_as(fresh), fresh)
    assert float(reached.mean()) == pytest.approx(bounds.cc, abs=0.02)
    error = float(reached.std()) / 200**0.5
    for model in (fresh[:2].mean(0), expected**1.5, expected.sqrt()):
        assert float(kld(model.expand_as(fresh[2:]), fresh[2:]).mean()) > bounds.kld - 3 * bounds.kld_error
        assert float(cc(model.expand_as(fresh[2:]), fresh[2:]).mean()) < bounds.cc + 3 * (bounds.cc_error + error)


def test_the_ceiling_of_the_information_gain_is_the_metrics_own(oracles):
    oracle = oracles[2]
    baseline = np.mean([each.expected_map(SHAPE, 2.0) for each in oracles], axis=0) + 1e-7
    ceiling = oracle.information_gain_ceiling(baseline)
    density = torch.from_numpy(oracle.expected_map(SHAPE, weighted=False))
    values = []
    for x, y, _ in readings_of(oracle, 150, 5):
        column, row = (
            ((x + 0.5) / oracle.size[1] * SHAPE[1]).astype(int),
            ((y + 0.5) / oracle.size[0] * SHAPE[0]).astype(int),
        )
        inside = (x > -0.5) & (y > -0.5) & (column < SHAPE[1]) & (row < SHAPE[0])
        counts = torch.zeros(SHAPE, dtype=torch.float64)
        counts.index_put_(
            (torch.from_numpy(row[inside]), torch.from_numpy(column[inside])), torch.ones(1).double(), True
        )
        values.append(float(ig(density[None], counts[None], torch.from_numpy(baseline))))
    assert np.mean(values) == pytest.approx(ceiling, abs=4 * np.std(values) / 150**0.5)


def test_share_of_the_explainable_information():
    assert explainable_share([0.5, 1.0], [1.0, 2.0]) == pytest.approx(0.5)
    assert explainable_share([np.nan, 1.0], [1.0, 2.0]) == pytest.approx(0.5)
    assert explainable_share([1.0, 2.0], [1.0, 2.0]) == 1
    with pytest.raises(ValueError, match="gains nothing"):
        explainable_share([1.0], [0.0])


def test_a_fixation_off_the_film_is_skipped(oracles):
    x, y, duration = next(readings_of(oracles[2], 1, 4))
    x[3] = np.nan
    bits = oracles[2].information(x, y, duration, particles=100)
    assert np.isnan(bits[3])
    assert np.isfinite(np.delete(bits, 3)).all()


def test_readers_outside_the_panel_are_refused(films):
    with pytest.raises(InputError, match="none of a, b"):
        Oracle.of(films[0], "zz")
    image = identifiers(films[0].plan)["dicom_id"]
    again = for_case(image, films[0].pixels.shape)
    assert np.array_equal(again.film.pixels, films[0].pixels)


def test_the_mass_of_a_cell_is_scipys_normal_in_both_tails():
    found = cell_masses(np.array([0.0, 3.0]), np.array([0.5, 2.0]), 24.0, 12)
    edges = np.linspace(-12, 12, 13)
    for row, (centre, spread) in enumerate(((0.0, 0.5), (3.0, 2.0))):
        below = stats.norm(centre, spread)
        assert found[row, :6] == pytest.approx(np.diff(below.cdf(edges))[:6], rel=1e-9)
    # A Gaussian in the middle has the same masses on both sides, to the last digits.
    assert found[0] == pytest.approx(found[0, ::-1], rel=1e-9)
    assert found[0, -1] > 0


def test_few_readings_lose_as_little_as_the_documents_say(oracles):
    lost = []
    for oracle in oracles:
        true = oracle.expected_map(SHAPE, weighted=False, readings=6000, seed=9)
        few = oracle.mixture(200).density(SHAPE, weighted=False)
        lost.append((true * np.log2(true / few)).sum())
    assert 0 < np.mean(lost) < 0.003
