"""A synthetic case: a film, its reading, and the truth about it."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import Literal

import cv2
import numpy as np
from numpy.random import Generator, SeedSequence
from numpy.typing import NDArray

from gazelit.synthetic.anatomy import CLASSES, Chest, draw_chest, draw_position
from gazelit.synthetic.projection import GEOMETRY_ROWS, expose, film_grid, line_integral
from gazelit.synthetic.reader import Fixations, Samples, read_chest, track
from gazelit.synthetic.shapes import Position

Difficulty = Literal["easy", "hard"]
#: The body that is drawn, not projected from a CT.
ANALYTIC = "analytic"
#: Letters that name readers.
LETTERS = "abcdefgh"

#: Film sizes in pixels (W, H) with how often they occur, after EGD-CXR; some are odd numbers.
SIZES = (
    ((2544, 3056), 0.60),
    ((3056, 2544), 0.25),
    ((2022, 2021), 0.05),
    ((2539, 3050), 0.05),
    ((1871, 2301), 0.05),
)
FILM_HEIGHT = {True: 35.0, False: 43.0}
#: The canvas films were shown on (width, height); the tracker's screen is 1080 high.
CANVAS = (1920, 1024)
SCREEN = (1920, 1080)


@dataclass(frozen=True)
class Plan:
    """The plan of a case; the plans of all cases are drawn before any case is simulated.

    Attributes:
        number: Index of the case.
        label: Class of the case.
        patient: Index of the patient.
        image: Number of the film among the patient's films, from 0.
        size: (W, H) pixels.
        session: Number of the recording session.
        seed: Seed of the cohort; cohorts of different seeds have different patients.
        difficulty: ``easy`` or ``hard``.
        readings: Readings per film, where the format holds several.
        body: ``analytic``, or the folder of the CT whose projection the film is.
    """

    number: int
    label: str
    patient: int
    image: int
    size: tuple[int, int]
    session: int
    seed: int
    difficulty: Difficulty = "easy"
    readings: int = 1
    body: str = ANALYTIC


@dataclass(frozen=True)
class Pads:
    """Padding around a film on the canvas, in canvas pixels."""

    top: int
    bottom: int
    left: int
    right: int

    @classmethod
    def of(cls, width: int, height: int) -> Pads:
        """EGD-CXR's preparation: fit 1024 rows, centre (its image_preparation.py, resize_pad)."""
        ratio = CANVAS[1] / max(height, width)
        rows, columns = int(height * ratio), int(width * ratio)
        top, left = (CANVAS[1] - rows) // 2, (CANVAS[0] - columns) // 2
        return cls(top, CANVAS[1] - rows - top, left, CANVAS[0] - columns - left)


@dataclass(frozen=True)
class SyntheticCase:
    """A simulated case.

    Attributes:
        plan: The plan of the case.
        film: (H, W) float32 in [0, 1], bright = dense.
        lungs: (H, W) bool masks of the right and the left lung.
        mediastinum: (H, W) bool.
        knob: (H, W) bool, the aortic knob.
        fixations: The fixations of the eyes, in chest coordinates.
        samples: The samples of the eye tracker.
        pads: How the film lay on the canvas.
        landmarks: By name, x and y in pixels of the film.
        findings: (K, 3) parts of the finding: x, y in pixels of the film, and a weight; empty if there is none.
        spacing: Pixel spacing (mm).
        position: How the patient stood.
    """

    plan: Plan
    film: NDArray[np.float32]
    lungs: tuple[NDArray[np.bool_], NDArray[np.bool_]]
    mediastinum: NDArray[np.bool_]
    knob: NDArray[np.bool_]
    fixations: Fixations
    samples: Samples
    pads: Pads
    landmarks: dict[str, tuple[float, float]]
    findings: NDArray[np.float64]
    spacing: float
    position: Position

    def read(self, rng: Generator, reading: int = 0) -> tuple[Fixations, NDArray[np.float64], NDArray[np.float64]]:
        """Another reader's fixations, and their x and y in pixels of the film.

        Args:
            rng: Draws the reading.
            reading: Number of the reading among the film's readings.
        """
        raise NotImplementedError

    def reader_id(self, reading: int) -> str:
        """The id of the reader of a reading."""
        raise NotImplementedError

    def to_pixels(
        self, x: NDArray[np.float64], y: NDArray[np.float64]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Converts chest coordinates to pixels of the film."""
        return film_pixels(x, y, self.position, film_size(self.plan.size), self.plan.size)


@dataclass(frozen=True)
class EasyCase(SyntheticCase):
    """A case of the easy cohort, whose reader knows the finding.

    Attributes:
        chest: The patient.
    """

    chest: Chest

    def read(self, rng: Generator, reading: int = 0) -> tuple[Fixations, NDArray[np.float64], NDArray[np.float64]]:
        """See the base class; readers have no habits of their own."""
        fixations = read_chest(self.chest, rng)
        return fixations, *self.to_pixels(fixations.x, fixations.y)

    def reader_id(self, reading: int) -> str:
        """A letter for each reading of a film."""
        return LETTERS[reading]


def plan_cohort(
    cases: int, seed: int, max_side: int | None, difficulty: Difficulty = "easy", readings: int = 1
) -> list[Plan]:
    """Draws classes, patients, film sizes and sessions; classes are equally frequent."""
    rng = np.random.default_rng(SeedSequence([seed, 1]))
    labels = [CLASSES[number % len(CLASSES)] for number in range(cases)]
    again = set(rng.choice(np.arange(6, cases), size=round(0.04 * cases), replace=False)) if cases > 8 else set()
    patients: list[int] = []
    images: list[int] = []
    # By class and by films before it: the films that are their patients' last so far.
    last_films: dict[tuple[str, int], list[int]] = defaultdict(list)
    people = 0
    for number, label in enumerate(labels):
        # One case in 25 is a second film of an earlier patient of the same class; the last case of a large cohort is
        # a patient's third film.
        films_before = 1 if number == cases - 1 and cases >= 60 else 0 if number in again else None
        returning = last_films[label, films_before] if films_before is not None else []
        if returning:
            film = returning.pop()
            patients.append(patients[film])
            images.append(images[film] + 1)
        else:
            patients.append(people)
            images.append(0)
            people += 1
        last_films[label, images[-1]].append(number)
    sizes = rng.choice(len(SIZES), size=cases, p=[share for _, share in SIZES])
    order = rng.permutation(cases)
    session = {int(number): int(rank) // 30 for rank, number in enumerate(order)}
    return [
        Plan(
            number,
            labels[number],
            patients[number],
            images[number],
            scaled(SIZES[sizes[number]][0], max_side),
            session[number],
            seed,
            difficulty,
            readings,
        )
        for number in range(cases)
    ]


def simulate_case(plan: Plan, seed: int) -> EasyCase:
    """Simulates a case of the easy cohort; the same plan and seed give the same bytes."""
    body = np.random.default_rng(SeedSequence([seed, 2, plan.patient]))
    rng = np.random.default_rng(SeedSequence([seed, 3, plan.number]))
    width, height = plan.size
    landscape = width > height
    film = film_size(plan.size)
    chest = draw_chest(body, plan.label)
    position = draw_position(rng, landscape)
    scale = min(1.0, GEOMETRY_ROWS / height)
    shape = (round(height * scale), round(width * scale))
    grid = film_grid(shape, film, position)
    integral, right, left = line_integral(chest, grid, rng)
    shown = expose(integral, (height, width), rng, film[0])
    mark_side(shown, rng)

    def full(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
        return cv2.resize(mask.astype(np.uint8), (width, height), interpolation=cv2.INTER_NEAREST) > 0

    lungs = (full(right > 1.0), full(left > 1.0))
    knob = chest.mediastinum[0]
    in_knob = ((grid.x - knob.x) / knob.rx) ** 2 + ((grid.y - knob.y) / knob.ry) ** 2 < 1
    between = (np.abs(grid.x) < 0.8 * chest.heart.rx + 2.5) & (right <= 1.0) & (left <= 1.0)
    between &= (grid.y > -9) & (grid.y < chest.heart.y + chest.heart.ry)

    fixations = read_chest(chest, rng)
    pads = Pads.of(width, height)
    bias = session_bias(seed, plan.session)
    x, y = film_pixels(fixations.x, fixations.y, position, film, plan.size)
    screen_x, screen_y = to_screen(x, y, pads, plan.size)
    samples = track(screen_x, screen_y, fixations, bias, rng)
    names = list(chest.landmarks)
    marks = np.array([chest.landmarks[name] for name in names])
    mark_x, mark_y = film_pixels(marks[:, 0], marks[:, 1], position, film, plan.size)
    landmarks = {name: (float(u), float(v)) for name, u, v in zip(names, mark_x, mark_y, strict=True)}
    found = np.array(chest.findings).reshape(-1, 3)
    findings = np.column_stack([*film_pixels(found[:, 0], found[:, 1], position, film, plan.size), found[:, 2]])
    return EasyCase(
        plan,
        shown,
        lungs,
        full(between),
        full(in_knob),
        fixations,
        samples,
        pads,
        landmarks,
        findings,
        10 * film[0] / height,
        position,
        chest,
    )


def session_bias(seed: int, session: int) -> tuple[float, float]:
    """The constant error of the tracker in a session, as fractions of the screen's width and height."""
    rng = np.random.default_rng(SeedSequence([seed, 4, session]))
    return float(rng.normal(0, 0.15 * 39.87 / SCREEN[0])), float(rng.normal(0, 0.15 * 39.87 / SCREEN[1]))


def film_size(size: tuple[int, int]) -> tuple[float, float]:
    """(height, width) in cm of a film whose size is (W, H) pixels."""
    width, height = size
    tall = FILM_HEIGHT[width > height]
    return tall, tall * width / height


def to_screen(
    x: NDArray[np.float64], y: NDArray[np.float64], pads: Pads, size: tuple[int, int]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Converts film pixels to fractions of the tracker's screen: the inverse of EGD-CXR's published mapping."""
    width, height = size[0] + size[0] % 2, size[1] + size[1] % 2
    screen_x = pads.left + x * (SCREEN[0] - pads.left - pads.right) / width
    screen_y = pads.top + y * (SCREEN[1] - pads.top - pads.bottom) / height
    return screen_x / SCREEN[0], screen_y / SCREEN[1]


def film_pixels(
    x: NDArray[np.float64],
    y: NDArray[np.float64],
    position: Position,
    film: tuple[float, float],
    size: tuple[int, int],
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Converts chest coordinates to pixels of the film, from its left and upper edge."""
    u, v = position.to_film(x, y)
    return (u / film[1] + 0.5) * size[0], (v / film[0] + 0.5) * size[1]


def mark_side(film: NDArray[np.float32], rng: Generator) -> None:
    """Burns a lead marker into two films of three, in place."""
    if rng.random() < 1 / 3:
        return
    height, width = film.shape
    letter = str(rng.choice(("R", "L")))
    x = 0.05 * width if letter == "R" else 0.88 * width
    corner = (int(x), int(height * rng.uniform(0.08, 0.2)))
    lead = np.zeros(film.shape, np.uint8)
    cv2.putText(lead, letter, corner, cv2.FONT_HERSHEY_SIMPLEX, height / 640, 255, max(1, height // 300), cv2.LINE_AA)
    np.maximum(film, np.float32(0.97 / 255) * lead, out=film)


def scaled(size: tuple[int, int], max_side: int | None) -> tuple[int, int]:
    """A size (W, H) whose longer side is ``max_side`` at most."""
    if max_side is None or max(size) <= max_side:
        return size
    ratio = max_side / max(size)
    return max(1, round(size[0] * ratio)), max(1, round(size[1] * ratio))
