"""A reader who sees the film: an individual order of search, items noticed or missed, a tracker with noise and bias.

The model is such that the density of the next fixation is known in closed form (:mod:`gazelit.synthetic.oracle`). Every
fixation has a target, which is a landmark or item of the film. :func:`target_probabilities` gives the chance of the
next target; it depends only on the earlier targets and the latent state of the reading. The eye lands about the target
with a Gaussian error, and the tracker adds the bias of the reading and Gaussian noise. Units are cm on the film from
its centre, x to the right and y down. Everything is vectorised over M readings.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from functools import cache

import numpy as np
from numpy.random import Generator, SeedSequence
from numpy.typing import NDArray

from gazelit.synthetic.reader import SEARCH

Floats = NDArray[np.float64]

#: Number of readers of the panel, who are the same in every cohort.
PANEL = 8
_PANEL_SEED = 20250101
NAMES = tuple(SEARCH)
_ZONE_WORDS = (("apical", "upper"), ("mid",), ("lower", "costophrenic"))
#: Zone of each landmark: upper, middle and lower lung, and the rest (hila, heart, aorta, trachea, bones). The zones'
#: shares of the search vary from reading to reading.
ZONES = tuple(
    next((zone for zone, words in enumerate(_ZONE_WORDS) if any(word in name for word in words)), 3) for name in NAMES
)
_R, _L = "right ", "left "
_APEX, _UPPER, _MID, _LOWER = "apical zone", "upper lung zone", "mid lung zone", "lower lung zone"
_HILUM, _ANGLE, _CLAVICLE = "hilar structures", "costophrenic angle", "clavicle"
_MIDDLE = ("trachea", "aortic knob", "cardiac silhouette", "left heart border")
_DOWN = (_APEX, _UPPER, _MID, _LOWER, _ANGLE)
#: Orders of search: both lungs from above, then the middle; the middle first; once round the edges.
_SCHOOLS = (
    (*(side + zone for zone in (_APEX, _UPPER, _MID, _HILUM, _LOWER, _ANGLE) for side in (_R, _L)), *_MIDDLE[::-1],
     _R + _CLAVICLE, _L + _CLAVICLE),
    (*_MIDDLE, _R + _HILUM, _L + _HILUM, *(_R + zone for zone in _DOWN), *(_L + zone for zone in _DOWN[::-1]),
     _R + _CLAVICLE, _L + _CLAVICLE),
    (_R + _CLAVICLE, *(_R + zone for zone in _DOWN), _MIDDLE[2], _MIDDLE[3], *(_L + zone for zone in _DOWN[::-1]),
     _L + _CLAVICLE, _MIDDLE[0], _MIDDLE[1], _R + _HILUM, _L + _HILUM),
)  # fmt: skip
#: Spreads of the logarithm of a zone's share, of the share of looks that noticed items draw, and of the bias (degrees).
ZONE_SPREAD, SHARE_SPREAD, BIAS_SPREAD = 0.25, 0.05, 0.15
#: cm of film per degree of visual angle, and noise of a fixation that averages 18 samples of 0.3 degrees.
CM_PER_DEGREE = 1.67
NOISE = 0.3 / np.sqrt(18) * CM_PER_DEGREE
#: Spread of landings about a landmark (cm), weight of a return to it, and recovery of that weight with each look.
LANDING, RETURN, RECOVERY = 0.75, 0.12, 0.012
#: Saccades favour near targets (scale in cm), and targets whose turn it is in the order (spread, weight off the turn).
SACCADE, TURN, OFF_TURN = 7.5, 0.16, 0.12
#: Share of an item's pull that is left after each look at it: a distractor is soon dismissed.
KEEP_FINDING, KEEP_DISTRACTOR = 0.90, 0.45
#: Greatest number of looks before an item is noticed.
LATEST = 8
#: Median duration of looks at landmarks and at items (s), and spread of the logarithm.
SEARCH_LOOK, ITEM_LOOK, LOOK_SPREAD = 0.27, 0.38, 0.42


@dataclass(frozen=True)
class Scene:
    """The landmarks and items of a film, in cm from its centre.

    Attributes:
        spots: (L + J, 2) landmarks in the order of ``NAMES``, then items.
        spread: (L + J,) standard deviation of the landings.
        pull: (J,) how strongly an item draws looks once it is noticed.
        keep: (J,) share of the pull that is left after a look.
        visibility: (J,) contrast over noise of each item on the film.
        finding: (J,) bool; false for distractors.
    """

    spots: Floats
    spread: Floats
    pull: Floats
    keep: Floats
    visibility: Floats
    finding: NDArray[np.bool_]


@dataclass(frozen=True)
class Reader:
    """A reader of the panel.

    Attributes:
        name: Written as ``reader_id``.
        taste: (L,) weight of each landmark.
        order: (L,) position of each landmark in a round of the search, in [0, 1).
        round: Looks per round of the search.
        share: Share of the looks that a noticed item of full pull draws.
        speed: Durations are divided by it, numbers of looks multiplied.
        threshold: Visibility of an item that is noticed half of the time.
        acuity: Width of the rise of the chance of noticing about the threshold.
        bias: (2,) constant error of this reader's tracker (degrees, x and y).
    """

    name: str
    taste: Floats
    order: Floats
    round: int
    share: float
    speed: float
    threshold: float
    acuity: float
    bias: Floats


def notice(visibility: Floats, threshold: Floats, acuity: Floats) -> Floats:
    """Chance that a reader notices an item, a logistic function of its visibility."""
    return 1 / (1 + np.exp(-np.clip((visibility - threshold) / acuity, -30, 30)))


@cache
def panel_reader(number: int) -> Reader:
    """A reader of the panel, 0 to ``PANEL`` − 1."""
    rng = np.random.default_rng(SeedSequence([_PANEL_SEED, number]))
    base = np.array(list(SEARCH.values()))
    school = _SCHOOLS[number % len(_SCHOOLS)]
    turns = np.array([school.index(name) for name in NAMES]) / len(NAMES)
    return Reader(
        name="abcdefgh"[number],
        taste=base * rng.gamma(5.0, 0.2, len(base)),
        order=(turns + rng.normal(0, 0.06, len(base))) % 1.0,
        round=int(rng.integers(16, 27)),
        share=float(rng.uniform(0.36, 0.52)),
        speed=float(np.exp(rng.normal(0, 0.15))),
        threshold=float(rng.normal(0.62, 0.18)),
        acuity=float(rng.uniform(0.4, 0.7)),
        bias=rng.normal(0, 0.15, 2),
    )


@dataclass(frozen=True)
class Panel:
    """The attributes of :class:`Reader` of the whole panel, the reader in the first dimension."""

    taste: Floats
    order: Floats
    round: NDArray[np.int64]
    share: Floats
    speed: Floats
    threshold: Floats
    acuity: Floats
    bias: Floats


@cache
def whole_panel() -> Panel:
    """All readers of the panel."""
    people = [panel_reader(number) for number in range(PANEL)]
    return Panel(*(np.array([getattr(person, part.name) for person in people]) for part in fields(Panel)))


def readers_of(seed: int, number: int, readings: int) -> list[int]:
    """The ``readings`` readers of the panel who read a case, drawn for it; the first is the same for any number."""
    order = np.random.default_rng(SeedSequence([seed, 11, number])).permutation(PANEL)
    return [int(reader) for reader in order[:readings]]


@dataclass
class State:
    """Latent state of M readings.

    Attributes:
        reader: (M,) number in the panel.
        zone: (M, 4) logarithm of how the zones' shares differ from the reader's taste.
        share: (M,) share of the looks that items of full pull draw.
        onset: (M, J) looks before an item is noticed; never for a miss.
        bias: (M, 2) mean of the tracker's error (cm).
        inhibited: (M, L) 1 for a landmark not yet seen.
        looks: (M, J) looks at each item so far.
        previous: (M,) last target, −1 before the first.
        number: Looks so far.
    """

    reader: NDArray[np.int64]
    zone: Floats
    share: Floats
    onset: Floats
    bias: Floats
    inhibited: Floats
    looks: Floats
    previous: NDArray[np.int64]
    number: int = 0

    def take(self, rows: NDArray[np.int64]) -> State:
        """The state of the given readings."""
        return State(
            reader=self.reader[rows],
            zone=self.zone[rows],
            share=self.share[rows],
            onset=self.onset[rows],
            bias=self.bias[rows],
            inhibited=self.inhibited[rows],
            looks=self.looks[rows],
            previous=self.previous[rows],
            number=self.number,
        )

    @property
    def noticed(self) -> NDArray[np.bool_]:
        """(M, J) whether each item is noticed at all."""
        return np.isfinite(self.onset)


def draw_state(scene: Scene, readers: NDArray[np.int64], rng: Generator) -> State:
    """Draws the latent state of M readings by the given readers (numbers in the panel), before the first look."""
    panel = whole_panel()
    count, items = len(readers), len(scene.pull)
    chance = notice(scene.visibility[None], panel.threshold[readers, None], panel.acuity[readers, None])
    noticed = rng.random((count, items)) < chance
    onset = rng.integers(1, LATEST + 1, (count, items))
    share = panel.share[readers]
    bias = panel.bias[readers] * CM_PER_DEGREE
    return State(
        reader=np.asarray(readers, np.int64),
        zone=rng.normal(0, ZONE_SPREAD, (count, 4)),
        share=np.clip(share + rng.normal(0, SHARE_SPREAD, count), 0.05, 0.9),
        onset=np.where(noticed, onset, np.inf),
        bias=bias,
        inhibited=np.ones((count, len(NAMES))),
        looks=np.zeros((count, items)),
        previous=np.full(count, -1),
    )


def target_probabilities(scene: Scene, state: State) -> Floats:
    """Chance of each target of the next look, (M, L + J)."""
    panel = whole_panel()
    marks = len(NAMES)
    # Of all spots and the film's centre, and of all readers, which are fewer than readings.
    gaze = np.vstack([scene.spots, np.zeros(2)])
    near = np.exp(-np.hypot(*np.moveaxis(scene.spots[None, :marks] - gaze[:, None], 2, 0)) / SACCADE)
    lag = np.abs(panel.order - (state.number / panel.round % 1.0)[:, None])
    turn = OFF_TURN + np.exp(-0.5 * (np.minimum(lag, 1 - lag) / TURN) ** 2)
    zone = np.exp(state.zone)[:, list(ZONES)]
    weights = panel.taste[state.reader] * zone * state.inhibited * near[state.previous] * turn[state.reader]
    weights /= weights.sum(axis=1, keepdims=True)
    pull = scene.pull * scene.keep**state.looks * (state.number >= state.onset)
    total = pull.sum(axis=1, keepdims=True)
    drawn = state.share[:, None] * (1 - np.exp(-total))
    return np.hstack([weights * (1 - drawn), drawn * pull / np.where(total > 0, total, 1.0)])


def look(state: State, target: NDArray[np.int64]) -> None:
    """Advances each of M readings by a look at its target, in place."""
    marks = len(NAMES)
    rows = np.arange(len(target))
    state.inhibited = np.minimum(1.0, state.inhibited + RECOVERY)
    at_mark = target < marks
    state.inhibited[rows[at_mark], target[at_mark]] *= RETURN
    state.looks[rows[~at_mark], target[~at_mark] - marks] += 1
    state.previous = target
    state.number += 1


def choose(chances: Floats, rng: Generator) -> NDArray[np.int64]:
    """Draws a column in each row with the given chances."""
    edges = np.cumsum(chances, axis=1)
    return (rng.random(len(chances))[:, None] * edges[:, -1:] >= edges[:, :-1]).sum(axis=1)


@dataclass(frozen=True)
class Readings:
    """M simulated readings of at most N looks.

    Attributes:
        target: (M, N) index into the scene's spots.
        eye: (M, N, 2) points that the eye looked at (cm).
        tracked: (M, N, 2) points that the tracker recorded (cm).
        duration: (M, N) s; 0 after the last look.
        state: Latent state at the end.
    """

    target: NDArray[np.int64]
    eye: Floats
    tracked: Floats
    duration: Floats
    state: State


def simulate(scene: Scene, readers: NDArray[np.int64], rng: Generator) -> Readings:
    """Simulates M readings by the given readers (numbers in the panel)."""
    speed = whole_panel().speed[readers]
    state = draw_state(scene, readers, rng)
    state.bias = state.bias + rng.normal(0, BIAS_SPREAD * CM_PER_DEGREE, state.bias.shape)
    # A fast reader makes more looks, each of a shorter duration.
    counts = np.clip(rng.normal(45, 7, len(readers)) * speed**0.5, 22, 75).astype(int)
    looks = int(counts.max())
    target = np.zeros((len(readers), looks), np.int64)
    for number in range(looks):
        target[:, number] = choose(target_probabilities(scene, state), rng)
        look(state, target[:, number])
    eye = scene.spots[target] + scene.spread[target][..., None] * rng.standard_normal((*target.shape, 2))
    tracked = eye + state.bias[:, None] + rng.normal(0, NOISE, eye.shape)
    median = np.where(target < len(NAMES), SEARCH_LOOK, ITEM_LOOK) / speed[:, None]
    duration = median * np.exp(rng.normal(0, LOOK_SPREAD, target.shape))
    duration[np.arange(looks) >= counts[:, None]] = 0
    return Readings(target, eye, tracked, duration, state)
