"""Guards of a model: films unlike those it was trained on, and prediction sets of a stated coverage.

Both are fitted on films that the network was not trained on. They promise, for films of the same source, a rate of
false alarms and a coverage. They promise nothing for films of another source.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from gazelit.data.images.geometry import Letterbox
from gazelit.errors import InputError

#: Side of the square to which films are reduced, greatest number of components, and the share of variance to explain.
SIDE, MOST_COMPONENTS, EXPLAINED = 32, 64, 0.95
#: Films of the training for every component.
_FILMS_PER_COMPONENT = 5
#: Values that are compared with the range of the training films, with their names in warnings.
RANGES = {"height": "pixels high", "width": "pixels wide", "mean": "mean intensity", "sd": "SD of the intensity"}

#: Note on a score that was fitted on simulated films.
SIMULATED = "the training films were simulated, so that this says nothing about a real one"


@dataclass(frozen=True)
class FilmDensity:
    """How likely a film is among those of the training: probabilistic PCA (Tipping and Bishop 1999) of small films.

    Attributes:
        mean: (D,) mean of the small films.
        components: (D, q) directions of the largest variances, orthonormal.
        variances: (q,) variance along each.
        noise: Variance in each other direction.
        threshold: Scores above it raise an alarm.
        false_alarms: Largest rate of alarms among films like those of the calibration (split conformal: exact for
            films in exchangeable order).
        films: Number of films of the training, and of the calibration.
    """

    mean: NDArray[np.float32]
    components: NDArray[np.float32]
    variances: NDArray[np.float32]
    noise: float
    threshold: float
    false_alarms: float
    films: tuple[int, int]

    def score(self, film: NDArray[np.float32]) -> float:
        """Negative log-likelihood of a film (H, W) at working resolution, apart from a constant; higher is stranger."""
        return float(self.scores(small(film)[None])[0])

    def scores(self, films: NDArray[np.float32]) -> NDArray[np.float64]:
        """Of small films (N, D), their scores (N,)."""
        centred = films.astype(np.float64) - self.mean
        along = centred @ self.components
        across = (centred**2).sum(1) - (along**2).sum(1)
        found: NDArray[np.float64] = 0.5 * ((along**2 / self.variances).sum(1) + np.maximum(across, 0) / self.noise)
        return found


@dataclass(frozen=True)
class Conformal:
    """Prediction sets by split conformal prediction (Vovk et al. 2005; the score of Sadinle et al. 2019).

    Attributes:
        coverage: Share of films whose set holds the truth, on average over films like those of the calibration; of
            several labels, for each.
        thresholds: By class, the largest 1 − probability that stays in the set; of exclusive classes all the same.
        films: By class, number of films of the calibration.
        split: Which split that was.
    """

    coverage: float
    thresholds: dict[str, float]
    films: dict[str, int]
    split: str

    def prediction_set(self, probabilities: dict[str, float], exclusive: bool) -> list[str] | dict[str, str]:
        """Classes that cannot be excluded; for independent labels the state of each."""
        if exclusive:
            return [name for name, value in probabilities.items() if 1 - value <= self.thresholds[name]]
        return {name: self._state(value, self.thresholds[name]) for name, value in probabilities.items()}

    @staticmethod
    def _state(probability: float, threshold: float) -> str:
        present, absent = 1 - probability <= threshold, probability <= threshold
        if present != absent:
            return "present" if present else "absent"
        return "unclear"


@dataclass(frozen=True)
class Guards:
    """The guards of a checkpoint.

    Attributes:
        density: Finds films unlike those of the training.
        ranges: By name of ``RANGES``, smallest and largest of the training films.
        conformal: Prediction sets; None of a network without a classifier.
    """

    density: FilmDensity
    ranges: dict[str, tuple[float, float]]
    conformal: Conformal | None

    def warnings(self, film: NDArray[np.float32], box: Letterbox, simulated: bool = False) -> list[str]:
        """Reasons why a film is unlike those of the training.

        Args:
            film: (H, W) float32 in [0, 1] at working resolution.
            box: How it lies there.
            simulated: Whether the training films were simulated; then the score says nothing about a real film.
        """
        found = []
        score, density = self.density.score(film), self.density
        if score > density.threshold:
            meaning = SIMULATED if simulated else "it may show something else"
            found.append(
                f"unlike the training: its score is {score:.0f}, above {density.threshold:.0f}, which at most "
                f"{density.false_alarms:.1%} of films like the training's pass; {meaning}"
            )
        for name, value in film_facts(film, box).items():
            low, high = self.ranges[name]
            if not low <= value <= high:
                found.append(
                    f"outside the training: {value:.4g} {RANGES[name]}; the training films have {low:.4g} to {high:.4g}"
                )
        return found

    def prediction_set(self, probabilities: dict[str, float], exclusive: bool) -> list[str] | dict[str, str] | None:
        """See :class:`Conformal`; None of a network without a classifier."""
        if self.conformal is None or not probabilities:
            return None
        return self.conformal.prediction_set(probabilities, exclusive)

    def to_primitives(self) -> dict[str, Any]:
        """The form in a checkpoint: numbers and lists, so that ``torch.load(weights_only=True)`` reads it."""
        density = {
            name: value.tolist() if isinstance(value, np.ndarray) else value
            for name, value in asdict(self.density).items()
        }
        return {
            "density": {**density, "films": list(self.density.films)},
            "ranges": {name: list(limits) for name, limits in self.ranges.items()},
            "conformal": None if self.conformal is None else asdict(self.conformal),
        }

    @classmethod
    def from_primitives(cls, content: Any, name: str, classes: Sequence[str]) -> Guards:
        """Reads the result of :meth:`to_primitives`.

        Args:
            content: That.
            name: The file, for messages.
            classes: Of the model that it belongs to.

        Raises:
            InputError: It is something else, or about other classes.
        """
        try:
            held = content["density"]
            mean, components, variances = (
                np.asarray(held[key], np.float32) for key in ("mean", "components", "variances")
            )
            noise, threshold, false_alarms = (float(held[key]) for key in ("noise", "threshold", "false_alarms"))
            films = (int(held["films"][0]), int(held["films"][1]))
            density = FilmDensity(mean, components, variances, noise, threshold, false_alarms, films)
            if density.mean.shape != (SIDE * SIDE,) or density.components.shape != (
                SIDE * SIDE,
                len(density.variances),
            ):
                raise ValueError("shapes")
            numbers = (mean, components, variances, noise, threshold, false_alarms)
            if not all(np.isfinite(values).all() for values in numbers) or not min(noise, *variances) > 0:
                raise ValueError("numbers")
            ranges = {key: (float(content["ranges"][key][0]), float(content["ranges"][key][1])) for key in RANGES}
            conformal = None if content["conformal"] is None else _conformal(content["conformal"], classes)
        except (KeyError, TypeError, AttributeError, ValueError, OverflowError, IndexError) as error:
            raise InputError(f"{name}: its guards are malformed; fit them anew with `gazelit guard`") from error
        return cls(density, ranges, conformal)


def _conformal(content: Any, classes: Sequence[str]) -> Conformal:
    """Prediction sets of these classes from primitives; raises ValueError, or others of Python, if malformed."""
    found = Conformal(**content)
    if classes and not found.thresholds.keys() == found.films.keys() == set(classes):
        raise ValueError("classes")
    values = [found.coverage, *found.thresholds.values(), *found.films.values()]
    # NumPy would make numbers of text.
    if not all(isinstance(value, (int, float)) and math.isfinite(value) for value in values):
        raise ValueError("numbers")
    if not isinstance(found.split, str):
        raise ValueError("split")
    return found


def small(film: NDArray[np.float32]) -> NDArray[np.float32]:
    """A film (H, W) at working resolution as a vector (D,) of its area means."""
    reduced = cv2.resize(film, (SIDE, SIDE), interpolation=cv2.INTER_AREA)
    return reduced.astype(np.float32, copy=False).ravel()


def film_facts(film: NDArray[np.float32], box: Letterbox) -> dict[str, float]:
    """Size, and intensity within the film, by name of ``RANGES``."""
    inner = box.crop(film)
    return {
        "height": float(box.height),
        "width": float(box.width),
        "mean": float(inner.mean(dtype=np.float64)),
        "sd": float(inner.std(dtype=np.float64)),
    }


def fit_density(training: NDArray[np.float32], calibration: NDArray[np.float32], false_alarms: float) -> FilmDensity:
    """Fits the density on films of the training, and its threshold on others.

    Args:
        training: (N, D) small films.
        calibration: (M, D) small films that the density is not fitted on.
        false_alarms: Largest rate of alarms.

    Raises:
        InputError: There are too few films for the rate.
    """
    if len(training) < 2 * _FILMS_PER_COMPONENT:
        raise InputError(f"guard: {len(training)} training films are too few to find films unlike them")
    mean = training.mean(0, dtype=np.float64)
    _, spectrum, directions = np.linalg.svd(training - mean, full_matrices=False)
    variances = spectrum**2 / (len(training) - 1)
    explaining = int(np.searchsorted(np.cumsum(variances), EXPLAINED * variances.sum())) + 1
    count = max(1, min(explaining, MOST_COMPONENTS, len(training) // _FILMS_PER_COMPONENT))
    noise = variances[count:].sum() / (training.shape[1] - count)
    # Films that are all alike leave no variance; a step of 8 bits is the least that pixels differ by.
    floor = (1 / 255) ** 2 / 12
    unfinished = FilmDensity(
        mean.astype(np.float32),
        directions[:count].T.astype(np.float32),
        np.maximum(variances[:count], floor).astype(np.float32),
        float(max(noise, floor)),
        math.inf,
        false_alarms,
        (len(training), len(calibration)),
    )
    threshold = conformal_quantile(unfinished.scores(calibration), 1 - false_alarms)
    if not math.isfinite(threshold):
        needed = math.ceil(round(1 / false_alarms, 9)) - 1
        raise InputError(
            f"guard: a false alarm rate of {false_alarms:g} needs at least {needed} calibration films, not "
            f"{len(calibration)}; allow a higher rate with --false_alarms"
        )
    return FilmDensity(**{**vars(unfinished), "threshold": threshold})


def fit_conformal(
    probabilities: NDArray[np.float64], labels: NDArray[np.float64], names: list[str], coverage: float, split: str
) -> Conformal:
    """Fits prediction sets.

    Args:
        probabilities: (N, K) of films that the network was not trained on.
        labels: (N,) true classes, or (N, K) of 0, 1 and NaN (unknown).
        names: Of the classes.
        coverage: Share of films whose set must hold the truth.
        split: Which split the films are of.

    Raises:
        InputError: There are too few films for the coverage.
    """
    if labels.ndim == 1:
        scores = 1 - probabilities[np.arange(len(labels)), labels.astype(int)]
        by_class = [scores] * len(names)
    else:
        wrong = np.where(labels == 1, 1 - probabilities, probabilities)
        by_class = [column[~np.isnan(truth)] for column, truth in zip(wrong.T, labels.T, strict=True)]
    thresholds = {name: conformal_quantile(scores, coverage) for name, scores in zip(names, by_class, strict=True)}
    few = [name for name, threshold in thresholds.items() if not math.isfinite(threshold)]
    if few:
        needed = math.ceil(round(coverage / (1 - coverage), 9))
        raise InputError(
            f"guard: a coverage of {coverage:g} needs at least {needed} calibration films with a "
            f"known label of {', '.join(few)}; ask for less with --coverage"
        )
    films = {name: len(scores) for name, scores in zip(names, by_class, strict=True)}
    return Conformal(coverage, thresholds, films, split)


def conformal_quantile(scores: NDArray[np.float64], level: float) -> float:
    """The ⌈(n + 1) level⌉-th smallest of n scores, infinite beyond the last: a new one is at most it with ``level``."""
    # Rounded, because 100 times 0.9 is more than 90 in binary.
    rank = math.ceil(round((len(scores) + 1) * level, 9))
    return float(np.sort(scores)[rank - 1]) if 1 <= rank <= len(scores) else math.inf
