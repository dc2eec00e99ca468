"""A case of the hard cohort: patient, film, visibility of its items, and the panel's readings."""

from __future__ import annotations

from dataclasses import dataclass, field

import cv2
import numpy as np
from numpy.random import Generator, SeedSequence
from numpy.typing import NDArray

from gazelit.synthetic.case import (
    GEOMETRY_ROWS,
    LETTERS,
    SCREEN,
    Pads,
    Plan,
    SyntheticCase,
    film_pixels,
    film_size,
    mark_side,
    session_bias,
    to_screen,
)
from gazelit.synthetic.findings import Depicted, add_distractors, add_findings
from gazelit.synthetic.patient import Patient, draw_body, draw_hard_position
from gazelit.synthetic.projection import Grid, Image, film_grid
from gazelit.synthetic.radiograph import develop, draw_exposure, project
from gazelit.synthetic.reader import Fixations, track
from gazelit.synthetic.search import (
    CM_PER_DEGREE,
    KEEP_DISTRACTOR,
    KEEP_FINDING,
    LANDING,
    NAMES,
    Readings,
    Scene,
    panel_reader,
    readers_of,
    simulate,
)
from gazelit.synthetic.shapes import Position
from gazelit.synthetic.visibility import show_without, visibility

#: Resolution of the tracker's screen.
PIXELS_PER_DEGREE = 39.87
#: Pull of a noticed item: a lesion, the outline of the heart, a distractor.
PULL = {"heart": 1.6, "oedema": 0.9, "effusion": 1.6, "nodule": 2.6, "consolidation": 2.6}
DISTRACTOR_PULL = 1.1


@dataclass(frozen=True)
class Film:
    """A rendered film of the hard cohort with its truth.

    Attributes:
        plan: Plan of the case.
        pixels: (H, W) float32 in [0, 1], bright = dense.
        lungs: (H, W) bool, right and left.
        mediastinum: (H, W) bool.
        patient: The patient on the film.
        position: How the patient stood.
        items: (J, 3) x, y and radius of the patient's items in pixels from the film's left and upper edge.
        visibility: (J,) contrast over noise of each item on this film.
        scene: Landmarks and items of the film, which draw the reader.
    """

    plan: Plan
    pixels: NDArray[np.float32]
    lungs: tuple[NDArray[np.bool_], NDArray[np.bool_]]
    mediastinum: NDArray[np.bool_]
    patient: Depicted
    position: Position
    items: NDArray[np.float64]
    visibility: NDArray[np.float64]
    scene: Scene


@dataclass(frozen=True)
class HardCase(SyntheticCase):
    """A case of the hard cohort.

    Attributes:
        film_truth: The film with its truth.
        tracked: The reading from which ``fixations`` and ``samples`` come.
        log: The simulated readings, in order: number of the reading, number of the reader, and the simulation.
    """

    film_truth: Film
    tracked: tuple[int, Readings]
    log: list[tuple[int, int, Readings]] = field(default_factory=list)

    def read(self, rng: Generator, reading: int = 0) -> tuple[Fixations, NDArray[np.float64], NDArray[np.float64]]:
        """A reading by a reader of the panel, as the tracker saw it; see the base class."""
        reader = readers_of(self.plan.seed, self.plan.number, reading + 1)[reading]
        readings = simulate(self.film_truth.scene, np.array([reader]), rng)
        self.log.append((reading, reader, readings))
        fixations, points = as_fixations(readings, rng)
        x, y = to_film_pixels(points, self.plan.size)
        return fixations, x, y

    def reader_id(self, reading: int) -> str:
        """The letter of a reader of the panel, the same person in every cohort."""
        return LETTERS[readers_of(self.plan.seed, self.plan.number, reading + 1)[reading]]

    def finding_radius(self, number: int) -> float:
        """Radius of a finding in pixels of the film."""
        found = [size for item, size in zip(self.film_truth.patient.items, self.film_truth.items, strict=True)
                 if item.finding]  # fmt: skip
        return float(found[number][2])


def render(plan: Plan) -> Film:
    """Draws a case's patient and film; a function of the plan's seed, number, patient, label and size alone."""
    width, height = plan.size
    size = film_size(plan.size)
    body = np.random.default_rng(SeedSequence([plan.seed, 2, plan.patient]))
    rng = np.random.default_rng(SeedSequence([plan.seed, 3, plan.number]))
    patient = draw_body(body, plan.label)
    add_findings(body, patient)
    add_distractors(rng, patient)
    position = draw_hard_position(rng, width > height)
    scale = min(1.0, GEOMETRY_ROWS / height)
    grid = film_grid((round(height * scale), round(width * scale)), size, position)
    projection, exposure = project(patient, grid, rng), draw_exposure(rng)
    right, left = projection.right, projection.left
    shown = develop(projection.integral, (height, width), exposure, size[0], rng)
    mark_side(shown, rng)
    lungs = (full_size(right > 1.0, plan.size), full_size(left > 1.0, plan.size))
    between = (right <= 1.0) & (left <= 1.0) & _middle(patient, grid)
    clean = show_without(projection, exposure, size[0])
    return film_of(plan, patient, position, shown, clean, lungs, full_size(between, plan.size))


def film_of(
    plan: Plan,
    patient: Depicted,
    position: Position,
    shown: Image,
    clean: tuple[Image, Image],
    lungs: tuple[NDArray[np.bool_], NDArray[np.bool_]],
    mediastinum: NDArray[np.bool_],
) -> Film:
    """Measures the visibility of a patient's items on a film.

    Args:
        plan: Plan of the case.
        patient: The patient on the film, with items and landmarks in chest coordinates.
        position: Maps chest coordinates to the film.
        shown: (H, W) film in [0, 1].
        clean: The film with and without the items, as :func:`show_without` gives them.
        lungs: (H, W) bool, right and left.
        mediastinum: (H, W) bool.
    """
    size = film_size(plan.size)
    points = np.array([(item.x, item.y, item.radius) for item in patient.items]).reshape(-1, 3)
    pixel = size[0] / plan.size[1]
    x, y = film_pixels(points[:, 0], points[:, 1], position, size, plan.size)
    seen = visibility(shown, clean, lungs[0] | lungs[1], patient, np.column_stack([x, y]), pixel)
    items = np.column_stack([x, y, points[:, 2] * position.scale / pixel])
    scene = _scene(patient, position, seen)
    return Film(plan, shown, lungs, mediastinum, patient, position, items, seen, scene)


def simulate_hard_case(plan: Plan, seed: int) -> HardCase:
    """Simulates a case; the same plan and seed give the same bytes."""
    return read_film(render(plan), seed)


def read_film(film: Film, seed: int) -> HardCase:
    """Makes a case of a film with a reading by the panel's first reader; ``seed`` draws the reading."""
    plan, patient, position = film.plan, film.patient, film.position
    size = film_size(plan.size)
    rng = np.random.default_rng(SeedSequence([seed, 12, plan.number]))
    # A format with samples has a single reader, the first of the panel.
    readings = simulate(film.scene, np.array([0]), rng)
    fixations, _ = as_fixations(readings, rng)
    x, y = to_film_pixels(readings.eye[0][: len(fixations.start)], plan.size)
    pads = Pads.of(*plan.size)
    samples = track(*to_screen(x, y, pads, plan.size), fixations, tracker_bias(seed, plan.session), rng)
    names = list(patient.landmarks)
    marks = np.array([patient.landmarks[name] for name in names])
    mark_x, mark_y = film_pixels(marks[:, 0], marks[:, 1], position, size, plan.size)
    found = np.array([item.finding for item in patient.items], bool)
    knob_x, knob_y = patient.landmarks["aortic knob"]
    grid = film_grid((plan.size[1], plan.size[0]), size, position)
    pulls = np.array([PULL.get(item.kind, DISTRACTOR_PULL) for item in patient.items])
    return HardCase(
        plan,
        film.pixels,
        film.lungs,
        film.mediastinum,
        np.hypot((grid.x - knob_x) / 1.5, (grid.y - knob_y) / 1.7) < 1,
        fixations,
        samples,
        pads,
        {name: (float(u), float(v)) for name, u, v in zip(names, mark_x, mark_y, strict=True)},
        np.column_stack([film.items[found, :2], pulls[found]]) if found.any() else np.zeros((0, 3)),
        10 * size[0] / plan.size[1],
        position,
        film,
        (0, readings),
    )


def tracker_bias(seed: int, session: int) -> tuple[float, float]:
    """The tracker's error for the panel's first reader in a session, as fractions of the screen's width and height."""
    sitting, own = session_bias(seed, session), panel_reader(0).bias * PIXELS_PER_DEGREE
    return sitting[0] + float(own[0]) / SCREEN[0], sitting[1] + float(own[1]) / SCREEN[1]


def as_fixations(readings: Readings, rng: Generator) -> tuple[Fixations, NDArray[np.float64]]:
    """The first of several readings with times, and its points as tracked, (N, 2) cm from the film's centre."""
    kept = readings.duration[0] > 0
    eye, duration, target = readings.eye[0][kept], readings.duration[0][kept], readings.target[0][kept]
    jump = np.hypot(*np.diff(eye, axis=0, prepend=eye[:1]).T)
    flight = 0.021 + 0.0022 * jump / CM_PER_DEGREE
    start = rng.uniform(0.1, 0.3) + np.cumsum(flight) + np.concatenate([[0.0], np.cumsum(duration)[:-1]])
    fixations = Fixations(eye[:, 0], eye[:, 1], start, duration, target >= len(NAMES))
    return fixations, readings.tracked[0][kept]


def to_film_pixels(
    points: NDArray[np.float64], size: tuple[int, int]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Converts cm from the film's centre, (N, 2), to pixels from its left and upper edge."""
    height, width = film_size(size)
    return (points[:, 0] / width + 0.5) * size[0], (points[:, 1] / height + 0.5) * size[1]


def _scene(patient: Depicted, position: Position, seen: NDArray[np.float64]) -> Scene:
    items = patient.items
    spots = np.array([*(patient.landmarks[name] for name in NAMES), *((item.x, item.y) for item in items)])
    finding = np.array([item.finding for item in items], bool)
    return Scene(
        spots=np.stack(position.to_film(spots[:, 0], spots[:, 1]), axis=1),
        spread=np.array([*(LANDING for _ in NAMES), *(0.45 + 0.3 * item.radius * position.scale for item in items)]),
        pull=np.array([PULL.get(item.kind, DISTRACTOR_PULL) for item in items]),
        keep=np.where(finding, KEEP_FINDING, KEEP_DISTRACTOR),
        visibility=seen,
        finding=finding,
    )


def _middle(patient: Patient, grid: Grid) -> NDArray[np.bool_]:
    reach = 0.35 * patient.heart_ratio * (patient.lungs[0].wall + patient.lungs[1].wall) + 2.0
    return (np.abs(grid.x) < reach) & (grid.y > -9) & (grid.y < max(lung.dome for lung in patient.lungs))


def full_size(mask: NDArray[np.bool_], size: tuple[int, int]) -> NDArray[np.bool_]:
    """A mask at a film's size (W, H)."""
    return cv2.resize(mask.astype(np.uint8), size, interpolation=cv2.INTER_NEAREST) > 0
