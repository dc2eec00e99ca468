"""Requirements of the hard cohort on films and readings: no scalar gives the class; readers miss and are distracted."""

import hashlib
from types import SimpleNamespace

import cv2
import numpy as np
import pandas as pd
import pytest
from numpy.random import SeedSequence
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import StratifiedKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from gazelit.data.sources import EGDCXR, REFLACX, Manifest
from gazelit.data.store.prepare import prepare
from gazelit.errors import InputError
from gazelit.synthetic.anatomy import CLASSES
from gazelit.synthetic.case import film_size, plan_cohort
from gazelit.synthetic.cohort import write_cohort
from gazelit.synthetic.findings import add_distractors, add_findings
from gazelit.synthetic.hard_case import render, simulate_hard_case
from gazelit.synthetic.oracle import Oracle, for_case
from gazelit.synthetic.patient import draw_body, heart_edges
from gazelit.synthetic.search import PANEL, notice, panel_reader, readers_of
from gazelit.synthetic.tables import identifiers, plan_of
from gazelit.synthetic.truth import rows
from gazelit.synthetic.visibility import OFF_FILM, visibility

SEED, CASES, SIDE = 8, 240, 128


@pytest.fixture(scope="session")
def hard():
    """240 films at 128 pixels with a reading each: thumbnails, gaze statistics and truth."""
    thumbnails, gaze, items, readings, labels = [], [], [], [], []
    for plan in plan_cohort(CASES, SEED, SIDE, "hard"):
        case = simulate_hard_case(plan, SEED)
        fixations, x, y = case.read(np.random.default_rng(SeedSequence([SEED, 10, plan.number, 0])))
        thumbnails.append(cv2.resize(case.film, (12, 16), interpolation=cv2.INTER_AREA).ravel())
        gaze.append(_concentration(x, y, fixations.duration, plan.size))
        labels.append(plan.label)
        _, of_items, of_readings = rows(case, tracked=False)
        items += of_items
        readings += of_readings
    seen = pd.DataFrame(readings).merge(pd.DataFrame(items), on=["image_id", "item"])
    number = seen["image_id"].str.split("-").str[1].apply(int, base=16)
    seen["label"] = [CLASSES[case % 3] for case in number]
    return SimpleNamespace(label=np.array(labels), thumbnails=np.array(thumbnails), gaze=np.array(gaze), seen=seen)


@pytest.fixture(scope="module")
def hard_film():
    """A film of pneumonia with a finding and at least one distractor."""
    film = render(plan_cohort(9, 1, 96, "hard")[2])
    assert len(film.patient.items) > 1
    return film


def _concentration(x, y, duration, size):
    """Logarithms of the maximum, Σp² and the entropy of the fixation density at a degree."""
    height, width = film_size(size)
    density = np.histogram2d(
        y / size[1] * height, x / size[0] * width, bins=(60, 60), range=((0, height), (0, width)), weights=duration
    )[0].astype(np.float32)
    density = cv2.GaussianBlur(density, (0, 0), 1.67 / (height / 60))
    density /= density.sum()
    entropy = -(density * np.log(density + 1e-12)).sum()
    return np.log([density.max(), (density**2).sum(), entropy])


def macro_auc(features, labels, inverse_penalty):
    """Macro AUC of logistic regression, five folds."""
    model = make_pipeline(StandardScaler(), LogisticRegression(C=inverse_penalty, max_iter=500))
    chance = cross_val_predict(model, features, labels, cv=StratifiedKFold(5), method="predict_proba")
    return np.mean([roc_auc_score(labels == name, chance[:, n]) for n, name in enumerate(np.unique(labels))])


def test_the_size_of_the_heart_alone_does_not_give_heart_failure():
    ratio = {}
    for label in ("Normal", "CHF"):
        rng = np.random.default_rng(0)
        bodies = [draw_body(rng, label) for _ in range(250)]
        ratio[label] = np.array([body.heart_ratio for body in bodies])
    # The heart has the drawn width: its edges over the inner width of the chest.
    for body in bodies[:20]:
        left, right = heart_edges(body)
        assert (left - right) / (body.lungs[0].wall + body.lungs[1].wall) == pytest.approx(body.heart_ratio, rel=0.06)
    both = np.concatenate([ratio["CHF"], ratio["Normal"]])
    auc = roc_auc_score(np.arange(500) < 250, both)
    assert 0.80 < auc < 0.90


def test_gaze_concentration_is_a_hint_and_not_the_label(hard):
    assert 0.65 < macro_auc(hard.gaze, hard.label, 1.0) < 0.80


def test_a_thumbnail_does_not_give_the_class(hard):
    assert macro_auc(hard.thumbnails, hard.label, 0.05) < 0.65


def test_a_fifth_to_a_third_of_subtle_findings_is_missed(hard):
    findings = hard.seen[hard.seen["finding"] == 1]
    missed = 1 - findings.groupby("subtle")["noticed"].mean()
    assert 0.20 < missed[1] < 0.30
    assert missed[0] < 0.5 * missed[1]


def test_distractors_are_visited_in_every_class(hard):
    visited = hard.seen[hard.seen["finding"] == 0].groupby("label")["looks"].agg(lambda looks: (looks > 0).mean())
    assert set(visited.index) == set(CLASSES)
    assert visited.min() > 0.3


def test_the_chance_of_noticing_is_how_often_it_happens(hard):
    chance, noticed = hard.seen["chance"].to_numpy(), hard.seen["noticed"].to_numpy()
    error = np.sqrt((chance * (1 - chance)).sum()) / len(chance)
    assert abs(noticed.mean() - chance.mean()) < 3 * error
    assert np.corrcoef(hard.seen["visibility"].clip(-2, 4), noticed)[0, 1] > 0.4


def test_items_off_the_film_are_not_noticed(hard_film):
    """A collimated film may cut off a costophrenic angle and the finding in it."""
    patient, size = hard_film.patient, hard_film.pixels.shape
    clean = (hard_film.pixels, hard_film.pixels * 0.9)
    lungs = hard_film.lungs[0] | hard_film.lungs[1]
    points = np.full((len(patient.items), 2), -30.0)
    points[0] = (size[1] - 0.5, 0.5)
    seen = visibility(hard_film.pixels, clean, lungs, patient, points, 0.3)
    assert np.isfinite(seen).all()
    assert (seen[1:] == OFF_FILM).all()
    assert notice(seen[1:], 0.6, 0.5).max() < 1e-6


def test_distractors_do_not_depend_on_the_class():
    counts = {}
    for label in CLASSES:
        patient = draw_body(np.random.default_rng(1), label)
        add_findings(np.random.default_rng(2), patient)
        before = len(patient.items)
        add_distractors(np.random.default_rng(3), patient)
        counts[label] = [item.kind for item in patient.items[before:]]
    assert counts["Normal"] == counts["CHF"] == counts["pneumonia"]


def test_readers_have_identities_that_last(hard_film):
    oracles = [Oracle.of(hard_film, name) for name in "ab"]
    maps = {number: oracle.expected_map((20, 16)) for number, oracle in enumerate(oracles)}
    again = oracles[0].expected_map((20, 16), seed=5)
    assert np.abs(maps[0] - again).sum() < 0.4 * np.abs(maps[0] - maps[1]).sum()
    assert len({panel_reader(number).name for number in range(PANEL)}) == PANEL
    assert readers_of(3, 7, 2) == readers_of(3, 7, 5)[:2]
    assert sorted(readers_of(3, 7, PANEL)) == list(range(PANEL))


def _digest(root):
    return {
        str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(root.rglob("*"))
        if path.is_file()
    }


@pytest.fixture(scope="module")
def hard_manifest(tmp_path_factory):
    out = tmp_path_factory.mktemp("hard") / "cohort"
    write_cohort(out, 6, "manifest", seed=1, max_side=96, workers=1, difficulty="hard", readers=3)
    return out


def test_the_same_seed_gives_the_same_bytes_for_any_number_of_workers(hard_manifest, tmp_path):
    write_cohort(tmp_path / "two", 6, "manifest", seed=1, max_side=96, workers=2, difficulty="hard", readers=3)
    assert _digest(hard_manifest) == _digest(tmp_path / "two")


def test_the_easy_cohort_is_what_it_was(manifest):
    """The text of the tables is that of commit d77ec39."""
    names = ("images", "gaze")
    found = {name: hashlib.sha256((manifest / f"{name}.csv").read_bytes()).hexdigest()[:16] for name in names}
    assert found == {"images": "23c3fcba95a9316c", "gaze": "23eee305c823f03b"}
    assert not (manifest.parent / "truth").exists()


def test_three_readers_are_written_with_their_identity(hard_manifest):
    gaze = pd.read_csv(hard_manifest / "manifest" / "gaze.csv")
    per_image = gaze.groupby("image_id")["reader_id"].nunique()
    assert (per_image == 3).all()
    assert gaze.groupby("reading_id")["reader_id"].nunique().eq(1).all()
    assert gaze["reader_id"].nunique() > 3


def test_the_truth_is_written_beside_the_cohort(hard_manifest):
    tables = {name: pd.read_csv(hard_manifest / "truth" / f"{name}.csv") for name in ("cases", "items", "readings")}
    assert tables["cases"]["synthetic"].all()
    keys = ["image_id", "item"]
    assert not tables["items"].duplicated(keys).any()
    joined = tables["readings"].merge(tables["items"], on=keys)
    assert len(joined) == len(tables["readings"]) == 3 * len(tables["items"])
    assert (joined.loc[joined["noticed"] == 0, "looks"] == 0).all()
    assert joined.loc[joined["noticed"] == 1, "onset"].notna().all()
    abnormal = tables["cases"].loc[tables["cases"]["label"] != "Normal", "image_id"]
    assert set(abnormal) == set(tables["items"].loc[tables["items"]["finding"] == 1, "image_id"])


def test_the_store_of_a_hard_cohort_rebuilds_film_and_truth(hard_manifest, tmp_path):
    folder = hard_manifest / "manifest"
    source = Manifest(str(folder / "images.csv"), str(folder / "gaze.csv"), CLASSES, "normalised")
    store = prepare(source, tmp_path / "store", size=(96, 96), workers=1)
    case = store.cases.iloc[1]
    oracle = for_case(case["image_id"], (case["height"], case["width"]))
    letterbox = store.letterboxes[1]
    again = letterbox.apply(oracle.film.pixels)
    assert np.abs(again - store.images()[1] / store.largest).mean() < 0.01
    density = oracle.store_map(letterbox, sigma=1.67)
    assert density.shape == store.size
    assert density.sum() == pytest.approx(1)
    truth = pd.read_csv(hard_manifest / "truth" / "items.csv")
    positions = truth[truth["image_id"] == case["image_id"]][["x", "y"]].to_numpy()
    assert np.allclose(oracle.pixels(oracle.scene.spots[-len(positions) :]), positions, atol=0.02)


@pytest.mark.parametrize("name", ["egd-cxr", "reflacx", "mimic-cxr-jpg"])
def test_every_format_holds_the_hard_cohort(tmp_path, name):
    write_cohort(tmp_path / "out", 6, name, seed=1, max_side=96, workers=1, difficulty="hard")
    truth = pd.read_csv(tmp_path / "out" / "truth" / "cases.csv")
    assert len(truth) == 6
    if name == "mimic-cxr-jpg":
        return
    kind = EGDCXR if name == "egd-cxr" else REFLACX
    recording = kind(tmp_path / "out" / name, tmp_path / "out" / "mimic-cxr").read()
    recording.check()
    assert recording.synthetic
    assert set(recording.images["image_id"]) == set(truth["image_id"])


def test_an_id_names_its_case():
    plan = plan_cohort(12, 3, 96, "hard")[10]
    again = plan_of(identifiers(plan)["dicom_id"], plan.size)
    assert again == type(plan)(plan.number, plan.label, plan.patient, plan.image, plan.size, -1, 3, "hard")
    easy = identifiers(plan_cohort(12, 3, 96)[10])["dicom_id"]
    with pytest.raises(InputError, match="easy cohort"):
        for_case(easy, (96, 80))
    with pytest.raises(InputError, match="no image of a synthetic cohort"):
        plan_of("p1234", (10, 10))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"readers": 9}, "1 to 8"),
        ({"readers": 2, "format": "egd-cxr"}, "own number of readings"),
        ({"difficulty": "hard", "seed": 2**32}, "below 2"),
    ],
)
def test_wrong_options(tmp_path, options, message):
    with pytest.raises(InputError, match=message):
        write_cohort(tmp_path / "out", cases=6, **options)
    assert not (tmp_path / "out").exists()
