"""A film projected from a chest CT, with the findings, distractors and readers of the hard cohort.

All films show the same person, who is in the CT, so they have the same patient id, whatever the seed.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from numpy.random import Generator, SeedSequence

from gazelit.synthetic import ct_findings
from gazelit.synthetic.case import Plan, film_size, mark_side, plan_cohort, scaled
from gazelit.synthetic.ct_anatomy import BELLY, LungShape
from gazelit.synthetic.ct_findings import HeartWarp
from gazelit.synthetic.ct_projection import Floats, Pose, Volume, line_integrals
from gazelit.synthetic.ct_volume import COARSE, FINE, LOBES, Body, load, person
from gazelit.synthetic.findings import Item, add_distractors, add_heart_failure
from gazelit.synthetic.hard_case import Film, HardCase, film_of, full_size, read_film
from gazelit.synthetic.patient import HEART_RATIO, Lung
from gazelit.synthetic.projection import SOFT, Grid, Image, add_tube, film_grid
from gazelit.synthetic.radiograph import Projection, add_item, develop, draw_exposure, smooth_noise
from gazelit.synthetic.shapes import Effusion, Position, Tube
from gazelit.synthetic.visibility import show_without

#: Size of every film, (W, H) pixels before ``max_side``; its proportions are those of the chest that a CT shows.
SIZE = (2500, 2380)
#: Most rows of a projection; larger films are interpolated, because the CT is no finer.
ROWS = 480
#: How often each lobe has a pneumonia.
_LOBE_SHARE = {"right upper": 0.2, "right middle": 0.12, "right lower": 0.26, "left upper": 0.18, "left lower": 0.24}
#: Distractors that lie in the lung; a distractor of these kinds that would lie outside it is left out.
_IN_LUNG = ("granuloma", "scar", "band")


@dataclass
class Subject:
    """The person on the film, in chest coordinates on the plane of the carina; see the analytic ``Patient``.

    Attributes:
        label: Class.
        heart_ratio: Width of the heart over the inner width of the chest.
        lungs: The lungs in which distractors are drawn.
        rotation: Turn about the long axis (rad).
        oedema: Extra attenuation per cm of lung about the hila.
        effusions: Fluid in the costophrenic angles.
        items: Findings and distractors.
        landmarks: Points that a reader searches: (x, y) by name.
    """

    label: str
    heart_ratio: float
    lungs: tuple[Lung, Lung]
    rotation: float
    landmarks: dict[str, tuple[float, float]]
    oedema: float = 0.0
    effusions: list[Effusion] = field(default_factory=list)
    items: list[Item] = field(default_factory=list)


@dataclass
class _Scan:
    """A CT with this film's heart and pose, and the attenuation that findings add to it.

    Attributes:
        attenuation: Attenuation of the body.
        masks: As in :class:`gazelit.synthetic.ct_volume.Body`.
        lungs: Share of aerated right and left lung.
        warp: Warp of the heart.
        pose: Pose of the body.
        added: Attenuation of the findings.
        fluids: Number of a lung, and the share of fluid in it.
    """

    attenuation: Volume
    masks: Volume
    lungs: tuple[Volume, Volume]
    warp: HeartWarp
    pose: Pose
    added: list[Volume] = field(default_factory=list)
    fluids: list[tuple[int, Volume]] = field(default_factory=list)

    def to_chest(self, point: Floats) -> tuple[float, float]:
        """Chest coordinates of a point (y, z, x) of the body as it is now."""
        x, y = self.pose.to_plane(point[None])[0]
        return float(x), float(y)


def plan_films(folder: Path, cases: int, seed: int, max_side: int | None, readings: int = 1) -> list[Plan]:
    """Draws classes and sessions; every film is of the same patient."""
    whose = person(folder)
    return [
        replace(plan, patient=whose, image=plan.number, size=scaled(SIZE, max_side), body=str(folder))
        for plan in plan_cohort(cases, seed, max_side, "hard", readings)
    ]


def simulate_ct_case(plan: Plan, seed: int) -> HardCase:
    """Simulates a case; the same plan, seed and CT give the same bytes."""
    return read_film(render(plan), seed)


def render(plan: Plan) -> Film:
    """Projects a case's film; a function of the CT and the plan's seed, number, label and size alone."""
    body = load(Path(plan.body))
    rng = np.random.default_rng(SeedSequence([plan.seed, 14, plan.number]))
    size, height = film_size(plan.size), plan.size[1]
    rows = min(ROWS, height)
    shape = (rows, max(1, round(plan.size[0] * rows / height)))
    scan, subject = _prepare(rng, body, plan.label, float(np.clip(size[0] / rows, FINE, COARSE)))
    if plan.label == "CHF":
        add_heart_failure(rng, subject)
        _insert_heart_failure(rng, body, scan, subject)
    elif plan.label == "pneumonia":
        _add_pneumonia(rng, body, scan, subject)
    position = scan.pose.position
    grid = film_grid(shape, size, position)

    def rays(volume: Volume) -> Image:
        return line_integrals(volume, scan.pose, shape, size)

    masks = rays(scan.masks) / np.float32(255)
    lengths = [masks[..., 0], masks[..., 1]]
    for number, fluid in scan.fluids:
        lengths[number] = np.maximum(lengths[number] - rays(fluid), 0)
    added = sum((rays(part) for part in scan.added), np.zeros(shape, np.float32))
    air = lengths[0] + lengths[1]
    add_distractors(rng, subject)
    subject.items = [item for item in subject.items if item.kind not in _IN_LUNG or _at(air, item, grid) > 2.0]
    texture = np.clip(0.5 + 0.28 * smooth_noise(grid, rng, 2.5, 1.0, 0.45), 0, 1)
    if subject.oedema:
        _add_septal_lines(added, subject, grid, air)
    for item in subject.items:
        if not item.finding:
            add_item(added, item, grid, np.clip(air / 3, 0, 1), texture)
    whole = line_integrals(scan.attenuation, scan.pose, shape, size, endless=True)
    projection = Projection(np.maximum(whole + added, 0), added, lengths[0], lengths[1])
    exposure = draw_exposure(rng)
    shown = develop(projection.integral, (height, plan.size[0]), exposure, size[0], rng)
    mark_side(shown, rng)
    middle = masks[..., 2] > 2.0
    free = (masks[..., 3] < BELLY) & ~middle
    right, left = (full_size((length > 1.0) & free, plan.size) for length in lengths)
    clean = show_without(projection, exposure, size[0])
    return film_of(plan, subject, position, shown, clean, (right, left), full_size(middle, plan.size))


def _prepare(rng: Generator, body: Body, label: str, spacing: float) -> tuple[_Scan, Subject]:
    """Draws heart and pose."""
    ratio = float(np.clip(rng.normal(*HEART_RATIO[label]), 0.36, 0.68))
    warp, pose = HeartWarp(body.anatomy, body.masks, ratio), draw_pose(rng, body)
    attenuation, masks = warp.apply(body.at(spacing)), warp.apply(body.masks)
    right, left = (
        replace(masks, values=masks.values[..., number].astype(np.float32) / np.float32(255)) for number in (0, 1)
    )
    scan = _Scan(attenuation, masks, (right, left), warp, pose)
    marks = {name: scan.to_chest(warp.point(point)) for name, point in body.anatomy.landmarks.items()}
    lungs = body.anatomy.lungs
    return scan, Subject(label, ratio, (_lung(lungs[0]), _lung(lungs[1])), pose.rotation, marks)


def draw_pose(rng: Generator, body: Body) -> Pose:
    """Draws how the patient stands, so that the film shows no more than the CT has."""
    _, z, _ = body.attenuation.axes()
    scale = rng.uniform(1.07, 1.15)
    rise = -scale * (z[0] + z[-1]) / 2 + rng.normal(0, 0.2)
    position = Position(rng.normal(0, 0.8), rise, scale, np.deg2rad(rng.normal(0, 2.5)))
    return Pose(np.deg2rad(rng.normal(0, 4.5)), np.deg2rad(rng.normal(0, 2.0)), body.anatomy.lean, position)


def _add_pneumonia(rng: Generator, body: Body, scan: _Scan, subject: Subject) -> None:
    """Adds an opacity in a lobe, larger than in an analytic body, because no lung is denser than filled lung."""
    number = int(rng.choice(len(LOBES), p=[_LOBE_SHARE[name] for name in LOBES])) + 1
    lung = body.anatomy.lungs[0 if list(LOBES)[number - 1].startswith("right") else 1]
    subtle = bool(rng.random() < 0.6)
    if rng.random() < 0.4:
        kind, radius = "nodule", rng.uniform(0.8, 1.3)
        share = rng.uniform(0.65, 0.85) if subtle else rng.uniform(0.85, 1.0)
    else:
        kind, radius = "consolidation", rng.uniform(1.8, 3.0)
        share = rng.uniform(0.4, 0.7) if subtle else rng.uniform(0.7, 1.0)
    lobe = replace(body.lobes, values=body.lobes.values == number)
    # Above the dome, because an opacity behind the belly is not seen on a frontal film.
    low = lung.top + 0.15 * (lung.dome - lung.top)
    centre = scan.warp.point(ct_findings.spot_in(rng, lobe, radius, low, lung.dome - 0.5 * radius))
    within = scan.warp.apply(replace(lobe, values=lobe.values.astype(np.float32)))
    added, through = ct_findings.opacity(rng, kind, scan.attenuation, within, centre, radius, share)
    scan.added.append(added)
    subject.items.append(Item(kind, True, *scan.to_chest(centre), radius, through, subtle))


def _insert_heart_failure(rng: Generator, body: Body, scan: _Scan, subject: Subject) -> None:
    """Puts the subject's oedema and effusions into the body."""
    lungs = replace(scan.lungs[0], values=scan.lungs[0].values + scan.lungs[1].values)
    items = iter([number for number, item in enumerate(subject.items) if item.kind == "effusion"])
    for effusion in subject.effusions:
        number = 0 if effusion.side < 0 else 1
        fluid = ct_findings.fluid(scan.lungs[number], body.wall, body.anatomy.lungs[number], effusion.level)
        scan.fluids.append((number, fluid))
        scan.added.append(replace(fluid, values=np.float32(SOFT - body.lung) * fluid.values))
        lungs.values[:, -fluid.values.shape[1] :] -= fluid.values
        # Fluid is seen near its surface, where it replaces lung.
        low, high = np.array([-99, effusion.level - 2.5, -99]), np.array([99, effusion.level + 0.5, 99])
        x, y = scan.to_chest(_centroid(fluid.part(fluid.box(low, high))))
        item = next(items)
        subject.items[item] = replace(subject.items[item], x=x, y=y)
    if subject.oedema:
        marks = body.anatomy.landmarks
        hila = (marks["right hilar structures"], marks["left hilar structures"])
        scan.added.append(ct_findings.oedema(rng, lungs, hila, subject.oedema))


def _add_septal_lines(added: Image, subject: Subject, grid: Grid, air: Image) -> None:
    """Adds short lines at the chest wall above the costophrenic angles, in place."""
    lines = np.zeros_like(added)
    for lung in subject.lungs:
        for number in range(4):
            edge, height = lung.side * 0.95 * lung.wall, lung.dome + 0.4 * (lung.fall - 0.4) - 0.75 * number
            ends = np.array([[edge, height], [edge - lung.side * 1.3, height + 0.1]])
            add_tube(lines, Tube(ends, 0.06, 0.05), grid, 12 * subject.oedema)
    added += lines * np.clip(air / 2, 0, 1)


def _lung(shape: LungShape) -> Lung:
    """The lung in which distractors are drawn, with the shape of the masks."""
    # The tip of the pleural space lies below the visible angle.
    inner, fall = 1.1, shape.angle + 0.4 - shape.dome
    return Lung(
        side=shape.side,
        inner=inner,
        half=(shape.wall - inner) / 2,
        top=shape.top,
        bottom=shape.dome + fall + 4.5,
        depth=8.0,
        dome=shape.dome,
        fall=fall,
        waves=((0.0, 1.0, 0.0), (0.0, 1.0, 0.0)),
        slant=0.0,
    )


def _centroid(volume: Volume) -> Floats:
    """Mean position (y, z, x) of a volume, weighted by its values."""
    weights = volume.values.sum(axis=(1, 2)), volume.values.sum(axis=(0, 2)), volume.values.sum(axis=(0, 1))
    total = max(float(weights[0].sum()), 1e-9)
    return np.array([float(axis @ weight) / total for axis, weight in zip(volume.axes(), weights, strict=True)])


def _at(image: Image, item: Item, grid: Grid) -> float:
    nearest = np.unravel_index(np.argmin((grid.x - item.x) ** 2 + (grid.y - item.y) ** 2), image.shape)
    return float(image[nearest])
