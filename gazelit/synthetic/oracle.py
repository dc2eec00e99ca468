"""The oracle: the best prediction of a reading of a hard cohort's film, given the known law of the reader.

The synthetic reader (:mod:`gazelit.synthetic.search`) has a known law, so the density of the next fixation given the
film and the earlier fixations is a mixture of Gaussians. Its weights follow from the latent state of the reading: the
reader, the shares of the zones in this reading, the share of looks that items draw, which items are noticed and when,
and the tracker's bias. A particle filter integrates over that state (Doucet, de Freitas and Gordon 2001; the bias
exactly, by a Kalman filter in each particle). So the oracle knows the film's truth, the law and the past fixations.

Units: fixations come in pixels of the original image (centres at integers), as in a prepared store; densities are per
cm² of film; information is in bits per fixation. Densities are conditional on the fixation lying on the film, because
a store leaves out fixations off the film.

For each test image of a store that was prepared from a hard cohort, a report calls ``for_case(image_id, (height,
width))``. The id holds the cohort's seed, the case's number and the difficulty; the store's table of cases holds the
size. With the same baseline (centre bias) and the same fixations for model and oracle, the share of the explainable
information is :func:`explainable_share`. The law is exact for the ``manifest`` format. In ``egd-cxr`` the tracker's
detection splits fixations at blinks and adds glances off the film. In ``reflacx`` coordinates are rounded to pixels.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.random import Generator, SeedSequence
from numpy.typing import ArrayLike, NDArray
from scipy.special import ndtr

from gazelit.data.images.geometry import Letterbox
from gazelit.errors import InputError
from gazelit.synthetic import search
from gazelit.synthetic.case import ANALYTIC, film_size
from gazelit.synthetic.hard_case import Film, render
from gazelit.synthetic.mixture import GazeMixture, cell_masses
from gazelit.synthetic.search import BIAS_SPREAD, CM_PER_DEGREE, NAMES, NOISE, PANEL, Scene, State
from gazelit.synthetic.tables import plan_of

Floats = NDArray[np.float64]
PARTICLES = 1000
#: Number of simulated readings behind an expected map.
READINGS = 1000
_SEED = 20250102
#: Standard deviations from the film's border with which no look is off the film, in double precision.
_INSIDE = 9.0
#: Particles are resampled when their effective number falls below this share.
_RESAMPLE = 0.5


@dataclass(frozen=True)
class Bounds:
    """Best expected scores of any map of a film, against the duration-weighted map of a single new reading.

    Attributes:
        kld: Least expected KL divergence of a map from a reading's (nats), reached by the expected map.
        kld_error: Its standard error over the simulated readings.
        cc: Greatest expected correlation of a map with a reading's.
        cc_error: Its standard error.
    """

    kld: float
    kld_error: float
    cc: float
    cc_error: float


def for_case(image_id: str, size: tuple[int, int], reader: str | None = None) -> Oracle:
    """Rebuilds film, truth and law of reading from the id and size that a store records.

    Args:
        image_id: Id of the image.
        size: (H, W) of the original image in pixels (``height`` and ``width`` in the table of cases).
        reader: ``reader_id`` if the oracle may know it; any reader of the panel unless given.

    Raises:
        InputError: The image is not of a hard cohort or is projected from a CT, or the reader is not in the panel.
    """
    plan = plan_of(image_id, (size[1], size[0]))
    if plan.difficulty != "hard":
        raise InputError(f"{image_id}: is of an easy cohort; the oracle knows the hard cohort's readers alone")
    if plan.body != ANALYTIC:
        raise InputError(
            f"{image_id}: is projected from a CT; the oracle rebuilds films of the hard cohort's own bodies"
        )
    return Oracle.of(render(plan), reader)


def case_mixture(image_id: str, size: tuple[int, int], reader: str | None, readings: int) -> GazeMixture:
    """The expected density of a case's fixations, for a pool of processes; see :func:`for_case`."""
    return for_case(image_id, size, reader).mixture(readings)


def explainable_share(model: ArrayLike, oracle: ArrayLike) -> float:
    """Share of the explainable information that a model has: 0 for the centre bias, 1 for the oracle.

    Args:
        model: (N,) information gain of the model's map over the centre bias for each image (bits per fixation).
        oracle: (N,) information gain of the oracle's expected map, with the same baseline and fixations.

    Returns:
        The ratio of the mean gains over the images where both are known.

    Raises:
        ValueError: The oracle has no gain.
    """
    gain, greatest = np.asarray(model, float), np.asarray(oracle, float)
    known = np.isfinite(gain) & np.isfinite(greatest)
    if not known.any() or greatest[known].mean() <= 0:
        raise ValueError("explainable_share: the oracle gains nothing over the baseline on these images")
    return float(gain[known].mean() / greatest[known].mean())


@dataclass(frozen=True)
class Oracle:
    """The best predictor of a film's fixations.

    Attributes:
        scene: Landmarks and items of the film.
        size: (H, W) of the image in pixels.
        readers: (R,) numbers, in the panel, of the possible readers; each is equally likely.
        film: The film and its truth, if it was rendered.
    """

    scene: Scene
    size: tuple[int, int]
    readers: NDArray[np.int64]
    film: Film | None = None

    @classmethod
    def of(cls, film: Film, reader: str | None = None) -> Oracle:
        """The oracle of a rendered film; see :func:`for_case`."""
        names = {search.panel_reader(number).name: number for number in range(PANEL)}
        if reader is not None and reader not in names:
            raise InputError(f"reader: {reader} is none of {', '.join(names)}")
        readers = np.arange(PANEL) if reader is None else np.array([names[reader]])
        return cls(film.scene, (film.plan.size[1], film.plan.size[0]), readers, film)

    @property
    def extent(self) -> tuple[float, float]:
        """(width, height) of the film in cm."""
        height, width = film_size((self.size[1], self.size[0]))
        return width, height

    def log_density(
        self,
        x: ArrayLike,
        y: ArrayLike,
        duration: ArrayLike | None = None,
        particles: int = PARTICLES,
        seed: int = 0,
    ) -> Floats:
        """Log-density of each fixation given the earlier fixations.

        Args:
            x: (N,) pixels of the original image, centres at integers, in the order of time; NaN for a fixation that
                lay off the film, which counts as a look at an unknown point.
            y: (N,) likewise.
            duration: (N,) s. The duration of a look is evidence of whether an item drew it. Not used unless given.
            particles: Number of particles of the filter.
            seed: Seed of the filter.

        Returns:
            (N,) natural logarithm of the density per cm² of film; NaN where the fixation is NaN. Its expectation is
            below the exact value by about half of the variance of the filter's error, which falls as 1 / particles.
        """
        points = self._cm(np.asarray(x, float), np.asarray(y, float))
        looks = None if duration is None else np.asarray(duration, float)
        rng = np.random.default_rng(SeedSequence([_SEED, seed]))
        filter_ = ParticleFilter(self, particles, rng)
        return np.array([filter_.step(point, None if looks is None else looks[n]) for n, point in enumerate(points)])

    def information(self, x: ArrayLike, y: ArrayLike, duration: ArrayLike | None = None, **options: int) -> Floats:
        """Information of each fixation over a uniform density (bits), (N,); arguments as in :meth:`log_density`."""
        width, height = self.extent
        return (self.log_density(x, y, duration, **options) + np.log(width * height)) / np.log(2)

    def expected_map(
        self,
        shape: tuple[int, int],
        sigma: float = 0.0,
        weighted: bool = True,
        readings: int = READINGS,
        seed: int = 0,
    ) -> Floats:
        """Expected fixation density on the film: the mean over readers, latent states and searches.

        How often each target is looked at is simulated; about each target the density is exact.

        Args:
            shape: (H, W) of the grid that covers the film (not the padding of a letterbox).
            sigma: Gaussian blur added, as the target maps have (cm of film; 1° is ``CM_PER_DEGREE``).
            weighted: Whether fixations are weighted by duration, as in the target maps; if not, each counts the same,
                as in the information gain.
            readings: Number of readings to simulate.
            seed: Seed of the readings.

        Returns:
            (H, W) float64, sums to 1.
        """
        return self.mixture(readings, seed).density(shape, sigma, weighted)

    def store_map(self, letterbox: Letterbox, sigma: float = 0.0, weighted: bool = True) -> Floats:
        """The expected map at a store's working resolution; see :meth:`GazeMixture.on_canvas`."""
        return self.mixture().on_canvas(letterbox, sigma, weighted)

    def mixture(self, readings: int = READINGS, seed: int = 0) -> GazeMixture:
        """The mixture of the expected map, whose shares of the targets are means over simulated readings.

        Every reader of the panel has the same number of readings, and the map of every reading is normalised by
        itself. A finite number of readings loses part of the mean information of the map of fixations, which is about
        3 bits per fixation over a uniform film. Measured on twelve films, the loss in bits per fixation is 0.0002 with
        1,000 readings, 0.0005 with 400, 0.001 (at most 0.002) with 200, and 0.002 with 100.

        Args:
            readings: Number of readings to simulate, at least two for each reader.
            seed: Seed of the readings.
        """
        each = max(2, -(-readings // len(self.readers)))
        rng = np.random.default_rng(SeedSequence([_SEED, seed, 2]))
        simulated = search.simulate(self.scene, np.repeat(self.readers, each), rng)
        shape = len(self.readers), len(self.scene.spots)
        group = np.repeat(np.arange(shape[0]), each)[:, None] * shape[1] + simulated.target

        def shares(weight: Floats) -> Floats:
            weight = weight / weight.sum(axis=1, keepdims=True)
            return np.bincount(group.ravel(), weight.ravel(), shape[0] * shape[1]).reshape(shape) / each

        counted = (simulated.duration > 0).astype(float)
        spots, spread = self.scene.spots, self.scene.spread
        return GazeMixture(spots, spread, self.extent, self.readers, shares(counted), shares(simulated.duration))

    def simulate(self, readings: int, seed: int = 0) -> search.Readings:
        """Simulates M = ``readings`` new readings of the film by the possible readers."""
        rng = np.random.default_rng(SeedSequence([_SEED, seed, 1]))
        return search.simulate(self.scene, rng.choice(self.readers, readings), rng)

    def pixels(self, points: Floats) -> Floats:
        """Converts cm from the film's centre, (…, 2), to pixels of the image, centres at integers."""
        return (points / self.extent + 0.5) * (self.size[1], self.size[0]) - 0.5

    def bounds(self, shape: tuple[int, int], sigma: float, readings: int = 200, seed: int = 0) -> Bounds:
        """Floor of the KL divergence and ceiling of the correlation with the map of a new reading.

        The divergence from a reading's map g is least for p = E g. The correlation is greatest for p = E ĝ, where ĝ is
        the centred map of unit norm, and is then ‖E ĝ‖. Both are estimated from pairs of readings with little or no
        bias.

        Args:
            shape: (H, W) of the grid that covers the film.
            sigma: Gaussian of the target maps (cm of film).
            readings: Number of readings to simulate.
            seed: Seed of the readings.
        """
        if readings < 8:
            raise InputError(f"readings: must be at least 8, not {readings}")
        maps = self._reading_maps(shape, sigma, readings, seed)
        expected = self.expected_map(shape, sigma, seed=seed + 1).ravel()
        terms = np.where(maps > 0, maps * (np.log(np.maximum(maps, 1e-300)) - np.log(np.maximum(expected, 1e-300))), 0)
        kld = terms.sum(axis=1)
        centred = maps - maps.mean(axis=1, keepdims=True)
        unit = centred / np.linalg.norm(centred, axis=1, keepdims=True)
        # Mean correlation of each reading with the others; its mean is ‖E ĝ‖² without bias.
        agreement = (unit @ unit.sum(axis=0) - 1) / (readings - 1)
        cc = float(np.sqrt(max(agreement.mean(), 0)))
        # A pair's average has two independent readings: the error of U-statistics of order 2 (Hoeffding 1948).
        cc_error = float(agreement.std(ddof=1) / np.sqrt(readings) / max(cc, 1e-6))
        return Bounds(float(kld.mean()), float(kld.std(ddof=1) / np.sqrt(readings)), cc, cc_error)

    def information_gain_ceiling(self, baseline: Floats, shape: tuple[int, int] | None = None) -> float:
        """Greatest expected information gain of a static map over a baseline (bits per fixation).

        Args:
            baseline: (H, W) density on the film, such as the centre bias; positive.
            shape: (H, W) of the grid; that of the baseline unless given.
        """
        density = self.expected_map(shape or (baseline.shape[0], baseline.shape[1]), weighted=False)
        base = cv2.resize(baseline, density.shape[::-1], interpolation=cv2.INTER_AREA)
        base = base / base.sum()
        return float((density * (np.log2(np.maximum(density, 1e-300)) - np.log2(base))).sum())

    def _cm(self, x: Floats, y: Floats) -> Floats:
        width, height = self.extent
        return np.stack([((x + 0.5) / self.size[1] - 0.5) * width, ((y + 0.5) / self.size[0] - 0.5) * height], axis=-1)

    def _reading_maps(self, shape: tuple[int, int], sigma: float, readings: int, seed: int) -> Floats:
        """(M, H·W) duration-weighted maps of simulated readings, each of sum 1."""
        simulated = self.simulate(readings, seed)
        width, height = self.extent
        maps = np.zeros((readings, shape[0] * shape[1]))
        for number, (points, weight) in enumerate(zip(simulated.tracked, simulated.duration, strict=True)):
            inside = (np.abs(points) < np.array([width, height]) / 2).all(axis=1) & (weight > 0)
            spread = np.full(int(inside.sum()), sigma)
            columns = cell_masses(points[inside, 0], spread, width, shape[1])
            rows = cell_masses(points[inside, 1], spread, height, shape[0])
            maps[number] = ((rows * weight[inside, None]).T @ columns).ravel()
        return maps / maps.sum(axis=1, keepdims=True)


class ParticleFilter:
    """A particle filter over a reading's latent state, the tracker's bias integrated exactly.

    Args:
        oracle: The oracle of the film.
        particles: Number P of particles.
        rng: Draws the particles.

    Attributes:
        log_weight: (P,) logarithm of the particles' weights, which sum to 1.
    """

    def __init__(self, oracle: Oracle, particles: int, rng: Generator) -> None:
        self.scene, self.rng = oracle.scene, rng
        self.half = np.array(oracle.extent) / 2
        readers = np.resize(oracle.readers, particles)
        self.state: State = search.draw_state(self.scene, readers, rng)
        self.bias_variance = np.full(particles, (BIAS_SPREAD * CM_PER_DEGREE) ** 2)
        self.log_weight = np.full(particles, -np.log(particles))
        self.medians = np.array([search.SEARCH_LOOK] * len(NAMES) + [search.ITEM_LOOK] * len(self.scene.pull))

    def predictive(self) -> tuple[Floats, Floats, Floats]:
        """Each particle's density of the next fixation, on or off the film: a mixture of Gaussians about T targets.

        Returns:
            Chance (P, T), centre (P, T, 2) and standard deviation (P, T), in cm.
        """
        chance = search.target_probabilities(self.scene, self.state)
        spread = np.sqrt(self.scene.spread**2 + NOISE**2 + self.bias_variance[:, None])
        return chance, self.scene.spots + self.state.bias[:, None], spread

    def step(self, point: Floats, duration: float | None) -> float:
        """Takes in a fixation, (2,) cm, and returns its log-density given those before."""
        state = self.state
        chance, centre, spread = self.predictive()
        offset = point - centre
        known = bool(np.isfinite(point).all())
        mass = self._on_film(centre, spread)
        with np.errstate(divide="ignore"):
            log_chance = np.log(chance)
            log_mass, _ = _summed(self.log_weight + np.log((chance * mass).sum(axis=1)))
            # A look off the film is evidence only that it was off the film.
            if known:
                squared = offset[..., 0] ** 2 + offset[..., 1] ** 2
                joint = log_chance - 0.5 * squared / spread**2 - np.log(2 * np.pi * spread**2)
            else:
                joint = log_chance + np.log(np.maximum(1 - mass, 1e-300))
        density = np.nan
        if known:
            density = float(_summed(self.log_weight + _summed(joint)[0])[0] - log_mass)
        if duration is not None and np.isfinite(duration):
            # Each particle has a reader, whose speed is known.
            speed = search.whole_panel().speed[state.reader]
            lag = np.log(duration) - np.log(self.medians) + np.log(speed)[:, None]
            joint = joint - 0.5 * (lag / search.LOOK_SPREAD) ** 2
        evidence, share = _summed(joint)
        target = search.choose(share, self.rng)
        if known:
            rows = np.arange(len(target))
            gain = self.bias_variance / spread[rows, target] ** 2
            state.bias = state.bias + gain[:, None] * offset[rows, target]
            self.bias_variance = self.bias_variance * (1 - gain)
        search.look(state, target)
        self.log_weight = self.log_weight + evidence
        self.log_weight -= _summed(self.log_weight)[0]
        if 1 / np.exp(2 * self.log_weight).sum() < _RESAMPLE * len(target):
            self._resample()
        return density

    def _on_film(self, centre: Floats, spread: Floats) -> Floats:
        """(P, T) chance that a look about each target lies on the film."""
        mass = np.ones_like(spread)
        near_border = (self.half - np.abs(centre).max(axis=0)).min(axis=1) < _INSIDE * spread.max(axis=0)
        if near_border.any():
            centre, spread = centre[:, near_border], spread[:, near_border, None]
            upper, lower = ndtr((self.half - centre) / spread), ndtr((-self.half - centre) / spread)
            inside = upper - lower
            mass[:, near_border] = inside[..., 0] * inside[..., 1]
        return mass

    def _resample(self) -> None:
        """Systematic resampling (Kitagawa 1996)."""
        count = len(self.log_weight)
        edges = np.cumsum(np.exp(self.log_weight))
        points = (np.arange(count) + self.rng.random()) / count * edges[-1]
        rows = np.minimum(np.searchsorted(edges, points), count - 1)
        self.state = self.state.take(rows)
        self.bias_variance = self.bias_variance[rows]
        self.log_weight = np.full(count, -np.log(count))


def _summed(log: Floats) -> tuple[Floats, Floats]:
    """Logarithms of the sums along the last axis, and shares of the sums; SciPy's general form takes twice as long."""
    greatest = log.max(axis=-1, keepdims=True)
    above = np.exp(log - greatest)
    whole = above.sum(axis=-1, keepdims=True)
    return (greatest + np.log(whole))[..., 0], above / whole
