"""The anatomy of a CT's body, measured on its masks: landmarks, edges of heart and lungs, chest wall.

Points are (y, z, x) in cm as in :mod:`gazelit.synthetic.ct_projection`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from gazelit.synthetic.ct_projection import Floats, Volume

#: Least length along the beam (cm) of belly that hides the lung behind it, and of lung that is seen at the chest wall.
BELLY, RIM = 3.0, 3.5


@dataclass(frozen=True)
class LungShape:
    """A lung as a film shows it.

    Attributes:
        side: −1 for the patient's right, 1 for the left.
        wall: Distance of the outer edge from the middle (cm).
        top: z of the apex.
        dome: z of the diaphragm's highest point.
        angle: z of the costophrenic angle.
    """

    side: int
    wall: float
    top: float
    dome: float
    angle: float


@dataclass(frozen=True)
class Anatomy:
    """The anatomy of a body, measured on its masks; points are (y, z, x) in cm from the carina.

    Attributes:
        landmarks: (3,) by name.
        heart: x of the heart's right and left edge, and of the midline between.
        heart_rows: z of its upper and lower end.
        heart_depth: y of its back and front.
        lungs: Right and left.
        lean: Angle of the spine with the vertical (rad); its lower end is to the left where it is positive.
        reach: (Y, Z, 2) ``|x|`` of the chest wall beside the right and the left lung, on the lattice of the masks; 0
            where no lung is near.
    """

    landmarks: dict[str, Floats]
    heart: tuple[float, float, float]
    heart_rows: tuple[float, float]
    heart_depth: tuple[float, float]
    lungs: tuple[LungShape, LungShape]
    lean: float
    reach: Floats

    @property
    def heart_ratio(self) -> float:
        """Width of the heart over the inner width of the chest."""
        return (self.heart[1] - self.heart[0]) / (self.lungs[0].wall + self.lungs[1].wall)


def measure(labels: Volume, masks: Volume, ids: dict[str, int]) -> Anatomy:
    """Measures a body.

    Args:
        labels: (Y, Z, X) number of the structure each voxel belongs to.
        masks: (Y, Z, X, 4) uint8, 255 inside: right lung, left lung, mediastinum, organs of the belly.
        ids: Number of each structure; must have heart, aorta and trachea.
    """

    def points(*names: str) -> Floats:
        found = np.argwhere(np.isin(labels.values, [ids[name] for name in names if name in ids]))
        return np.asarray(found * labels.spacing + labels.origin, float)

    heart, spine = points("heart"), points(*(name for name in ids if name.startswith("vertebrae_T")))
    half = np.array(labels.spacing) / 2
    low, high = heart.min(axis=0) - half, heart.max(axis=0) + half
    midline, lean = 0.0, 0.0
    if len(spine):
        midline = float(np.median(spine[:, 2]))
        lean = float(np.arctan(np.polyfit(spine[:, 1], spine[:, 2], 1)[0]))
    marks = {
        "trachea": points("trachea").mean(axis=0),
        "aortic knob": _knob(points("aorta")),
        "cardiac silhouette": heart.mean(axis=0),
        "left heart border": heart[heart[:, 2] > high[2] - 2 * labels.spacing[2]].mean(axis=0),
    }
    lungs = []
    for name, side in (("right", -1), ("left", 1)):
        lung, of_lung = _lung(masks, side)
        lungs.append(lung)
        marks |= {f"{name} {zone}": point for zone, point in of_lung.items()}
        clavicle = points(f"clavicula_{name}")
        beside = np.array([3.0, lung.top + 2.0, 5.5 * side])
        marks[f"{name} clavicle"] = clavicle.mean(axis=0) if len(clavicle) else beside
    return Anatomy(
        landmarks=marks,
        heart=(float(low[2]), float(high[2]), float(np.clip(midline, low[2] + 0.2, high[2] - 0.2))),
        heart_rows=(float(low[1]), float(high[1])),
        heart_depth=(float(low[0]), float(high[0])),
        lungs=(lungs[0], lungs[1]),
        lean=lean,
        reach=_reach(masks),
    )


def _reach(masks: Volume) -> Floats:
    """The outer edge of each lung in every row of every coronal slice, smoothed over a centimetre."""
    _, _, x = masks.axes()
    smooth = 1.0 / masks.spacing[0], 1.0 / masks.spacing[1]
    sides = []
    for channel, side in enumerate((-1, 1)):
        within = masks.values[..., channel] > 127
        edge = np.where(within, side * x, 0).max(axis=2)
        blurred, weight = (ndimage.gaussian_filter(image, smooth) for image in (edge, within.any(axis=2).astype(float)))
        sides.append(np.where(weight > 0.05, blurred / np.maximum(weight, 0.05), 0))
    return np.stack(sides, axis=2)


def _knob(aorta: Floats) -> Floats:
    """The arch's left side: the leftmost 2.5 cm of the uppermost 3 cm of the aorta."""
    arch = aorta[aorta[:, 1] < aorta[:, 1].min() + 3.0]
    return np.asarray(arch[arch[:, 2] > arch[:, 2].max() - 2.5].mean(axis=0))


def _lung(masks: Volume, side: int) -> tuple[LungShape, dict[str, Floats]]:
    """A lung as a film shows it, and its landmarks."""
    _, z, x = masks.axes()
    within = masks.values[..., 0 if side < 0 else 1] > 127
    # Thickness along the beam; the belly in front of the lower recess hides the lung there.
    lung = within.sum(axis=0) * masks.spacing[0]
    belly = (masks.values[..., 3] > 127).sum(axis=0) * masks.spacing[0]
    shown = (lung > 1.0) & (belly < BELLY)
    rows, columns = np.flatnonzero(within.any(axis=(0, 2))), np.flatnonzero(shown.any(axis=0))
    top = float(z[rows[0]])
    wall = float((side * x[columns]).max() + masks.spacing[2] / 2)
    # A thin rim of lung is not seen beside the belly.
    outer = (lung > np.maximum(belly, RIM)) & (side * x > wall - 2.0)
    rows = np.flatnonzero(outer.any(axis=1))
    angle = float(z[rows[-1]]) if len(rows) else float(z[np.flatnonzero(shown.any(axis=1))[-1]])
    covered = np.flatnonzero(((belly > BELLY) & (lung > 1.0)).sum(axis=1) * masks.spacing[2] > 1.5)
    dome = min(float(z[covered[0]]), angle - 0.5) if len(covered) else angle - 3.0
    free = np.where((masks.values[..., 2] > 127).sum(axis=0) * masks.spacing[0] < 1.0, lung, 0)
    front = float(np.argwhere(within)[:, 0].mean() * masks.spacing[0] + masks.origin[0])

    def at(share: float, out: float) -> Floats:
        """A point at a share of the height, off the middle of the deep part of the lung that no heart covers."""
        height = top + share * (dome - top)
        row = free[int(np.argmin(np.abs(z - height)))]
        deep = side * x[row > 0.4 * row.max()] if row.max() > 0 else np.array([0.3 * wall, 0.9 * wall])
        return np.array([front, height, side * ((deep[0] + deep[-1]) / 2 + out * abs(deep[-1] - deep[0]) / 2)])

    # The left hilum is higher than the right.
    height = 1.5 if side < 0 else -0.5
    inner = side * x[lung[int(np.argmin(np.abs(z - height)))] > 4.0]
    edge = float(inner.min()) if len(inner) else 3.0
    return LungShape(side, wall, top, dome, angle), {
        "apical zone": at(0.14, -0.1),
        "upper lung zone": at(0.32, 0.0),
        "mid lung zone": at(0.56, 0.12),
        "lower lung zone": at(0.83, 0.15),
        "hilar structures": np.array([0.0, height, side * (edge + 1.2)]),
        "costophrenic angle": np.array([front, angle - 0.8, side * (wall - 0.8)]),
    }
