"""Guards keep their promised rates on films they have not seen, and recognise a hip without its tags."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from gazelit import InputError, load
from gazelit.data.datamodule import GazeDataModule
from gazelit.data.images.dicom import read_radiograph
from gazelit.data.options import LoaderOptions
from gazelit.deploy.fit_guards import guard
from gazelit.deploy.guards import (
    Conformal,
    Guards,
    conformal_quantile,
    film_facts,
    fit_conformal,
    fit_density,
    small,
)
from gazelit.deploy.preparing import Preparation
from gazelit.deploy.together import load_together
from gazelit.models import DualEncoderUNet, EncoderSpec
from tests.tiny import save_untrained


def test_the_quantile_is_the_smallest_that_covers():
    scores = np.random.default_rng(0).random(57)
    for level in (0.5, 0.8, 0.9, 0.95):
        threshold = conformal_quantile(scores, level)
        # By definition, at least that share of the 58 scores, a new score included, is at most the threshold; no
        # smaller threshold does.
        assert (scores <= threshold).sum() >= level * 58 - 1e-9
        smaller = scores[scores < threshold].max()
        assert (scores <= smaller).sum() < level * 58
    assert conformal_quantile(np.arange(100.0), 0.9) == 90
    assert conformal_quantile(np.arange(9.0), 0.9) == 8
    assert math.isinf(conformal_quantile(np.arange(8.0), 0.9))


@pytest.mark.parametrize("exclusive", [True, False])
def test_prediction_sets_have_the_promised_coverage_and_no_more(exclusive):
    rng = np.random.default_rng(1)
    names, coverage, covered, sizes = ["a", "b", "c"], 0.8, [], []
    for _ in range(150):
        # The probabilities are not calibrated, because the promise does not need calibration.
        logits = rng.normal(size=(70, 3))
        if exclusive:
            p = np.exp(3 * logits) / np.exp(3 * logits).sum(1, keepdims=True)
            truth = (logits + rng.gumbel(size=(70, 3))).argmax(1).astype(float)
        else:
            p = 1 / (1 + np.exp(-3 * logits))
            truth = (rng.random((70, 3)) < 1 / (1 + np.exp(-logits))).astype(float)
            truth[:10, 1] = np.nan
        fitted = fit_conformal(p[:50], truth[:50], names, coverage, "val")
        for row in range(50, 70):
            prediction = fitted.prediction_set(dict(zip(names, p[row], strict=True)), exclusive)
            if exclusive:
                covered.append(names[int(truth[row])] in prediction)
                sizes.append(len(prediction))
            else:
                states = ["present" if value else "absent" for value in truth[row]]
                covered += [prediction[name] in (state, "unclear") for name, state in zip(names, states, strict=True)]
    # In theory, coverage is between the promise and the promise + 1 / (n + 1) for scores without ties; with a margin
    # for chance.
    assert coverage - 0.02 < np.mean(covered) < (coverage + 1 / 41 + 0.02 if exclusive else 1)
    if exclusive:
        assert 1 < np.mean(sizes) < 3


def test_too_few_films_for_a_promise_are_reported():
    p = np.full((8, 2), 0.5)
    with pytest.raises(InputError, match=r"coverage of 0\.9 needs at least 9 calibration films .* of a, b"):
        fit_conformal(p, np.zeros(8), ["a", "b"], 0.9, "val")
    films = np.random.default_rng(0).random((60, 1024)).astype(np.float32)
    with pytest.raises(InputError, match=r"rate of 0\.01 needs at least 99 calibration films, not 20"):
        fit_density(films[:40], films[40:], 0.01)


def test_the_density_is_that_of_a_gaussian_and_alarms_are_as_rare_as_promised():
    rng = np.random.default_rng(2)
    side = rng.normal(size=(1024, 4)) * [0.3, 0.2, 0.1, 0.05]

    def draw(count):
        return (0.5 + rng.normal(size=(count, 4)) @ side.T + 0.02 * rng.normal(size=(count, 1024))).astype(np.float32)

    density = fit_density(draw(400), draw(200), 0.05)
    new = density.scores(draw(2000)) > density.threshold
    # The mean rate over calibrations is 5 %; the rate of a calibration on 200 films is distributed as Beta(10, 191).
    assert 0.01 < new.mean() < 0.11
    assert (density.scores(rng.random((50, 1024)).astype(np.float32)) > density.threshold).all()
    # The score is a Gaussian's negative log-likelihood with the covariance that the components describe.
    covariance = (density.components * density.variances) @ density.components.T
    rest = np.eye(1024) - density.components @ density.components.T
    inverse = np.linalg.inv(covariance.astype(float) + density.noise * rest)
    film = draw(1)[0]
    centred = film.astype(float) - density.mean
    assert density.scores(film[None])[0] == pytest.approx(0.5 * centred @ inverse @ centred, rel=1e-3)


def test_guards_are_kept_as_primitives_and_damaged_ones_are_refused():
    films = np.random.default_rng(0).random((60, 1024)).astype(np.float32)
    limits = {"height": (1.0, 2.0), "width": (1.0, 2.0), "mean": (0.0, 1.0), "sd": (0.0, 1.0)}
    guards = Guards(fit_density(films[:40], films[40:], 0.1), limits, Conformal(0.8, {"a": 0.5}, {"a": 20}, "val"))
    held = guards.to_primitives()
    again = Guards.from_primitives(held, "x.ckpt", ["a"])
    assert np.array_equal(again.density.components, guards.density.components)
    assert (again.ranges, again.conformal) == (limits, guards.conformal)
    assert again.density.threshold == guards.density.threshold
    sets, density = held["conformal"], held["density"]
    for damaged in (
        *({}, {**held, "ranges": {}}, {**held, "density": {**density, "mean": [0.0]}}, None),
        *({**held, "density": {**density, "noise": value}} for value in (0.0, float("nan"), 10**400)),
        *({**held, "conformal": {**sets, "thresholds": value}} for value in ({}, {"b": 0.5}, {"a": "0.5"}, 1)),
    ):
        with pytest.raises(InputError, match=r"x\.ckpt: its guards are malformed"):
            Guards.from_primitives(damaged, "x.ckpt", ["a"])


@pytest.fixture(scope="module")
def guarded(store, tmp_path_factory):
    """An untrained checkpoint, its guards, and the folder of both."""
    folder = tmp_path_factory.mktemp("guarded") / "run"
    (folder / "checkpoints").mkdir(parents=True)
    data = GazeDataModule(store, loader=LoaderOptions(batch_size=8, num_workers=0))
    torch.manual_seed(0)
    network = DualEncoderUNet(
        encoder=EncoderSpec("densenet-small"),
        saliency_encoder=EncoderSpec("res-se", options={"widths": [4, 4, 8, 8, 8], "reduction": 4}),
        decoder_widths=[8, 8, 8, 4, 4],
        classes=3,
    )
    best = save_untrained(folder / "checkpoints" / "best.ckpt", network, data.provenance)
    init = {"store": str(store), "loader": {"batch_size": 8, "num_workers": 0}}
    content = {"data": {"class_path": "gazelit.data.datamodule.GazeDataModule", "init_args": init}}
    (folder / "config.yaml").write_text(yaml.safe_dump(content))
    guard([best], folder / "guarded.ckpt", split="test", coverage=0.7, false_alarms=0.3)
    return folder


def test_a_guarded_checkpoint_recognises_a_hip_without_tags_and_gives_sets(guarded, store, real_data):
    model = load(guarded / "guarded.ckpt")
    assert model.guards is not None
    assert load(guarded / "checkpoints" / "best.ckpt").guards is None
    hip = read_radiograph(real_data / "RG2_JPLL.dcm").pixels
    reading = model.predict(hip)
    kinds = [warning.split(":")[0] for warning in reading.warnings]
    assert kinds.count("unlike the training") == 1
    assert "outside the training" in kinds
    states = reading.prediction_set
    assert set(states) <= set(model.class_names)
    threshold = model.guards.conformal.thresholds
    assert set(states) == {name for name, p in reading.probabilities.items() if 1 - p <= threshold[name]}


def test_the_ranges_are_those_of_the_training_films(guarded, store):
    data = GazeDataModule(store, loader=LoaderOptions(batch_size=8, num_workers=0))
    cases = data.store.cases.iloc[data.rows("train")]
    ranges = load(guarded / "guarded.ckpt").guards.ranges
    assert ranges["height"] == (cases["height"].min(), cases["height"].max())
    assert ranges["width"] == (cases["width"].min(), cases["width"].max())


def test_inference_scores_the_same_inputs_as_the_fit(store, cohort):
    """A film read from its file has the same small film and the same facts as in the store."""
    data = GazeDataModule(store, loader=LoaderOptions(batch_size=8, num_workers=0))
    films = {path.stem: path for path in (cohort / "mimic-cxr").rglob("*.dcm")}
    row = 0
    path = films[data.store.cases["image_id"].iloc[row]]
    prepared = Preparation(data.store.size)(read_radiograph(path))
    stored = data.store.images()[row].astype(np.float32) / data.store.largest
    assert np.allclose(small(prepared.image), small(stored), atol=2 / data.store.largest)
    facts = film_facts(prepared.image, prepared.record.box), film_facts(stored, data.store.letterboxes[row])
    assert facts[0] == pytest.approx(facts[1], abs=2 / data.store.largest)


def test_a_mean_has_guards_of_its_own(guarded, store, cohort, tmp_path, caplog):
    best, second = str(guarded / "checkpoints" / "best.ckpt"), tmp_path / "second.ckpt"
    data = GazeDataModule(store, loader=LoaderOptions(batch_size=8, num_workers=0))
    changed = torch.load(best, weights_only=True)
    (bias,) = (key for key, values in changed["state_dict"].items() if "classifier" in key and values.shape == (3,))
    changed["state_dict"][bias] += torch.arange(3.0)
    torch.save(changed, second)
    both, file = [best, str(second)], tmp_path / "guards.json"
    options = {"stage_config": guarded / "config.yaml", "split": "test", "coverage": 0.7, "false_alarms": 0.3}
    guard(both, file, **options)
    # The log has a note too, because the store is of simulated films.
    assert "fitted on simulated films: real films may all be called unlike them" in caplog.text
    model = load_together(both, guards=file)
    # The threshold is the quantile of the mean's scores for the true classes.
    scores = []
    for batch in data.loader("test"):
        rendered = data.render(batch)
        with torch.inference_mode():
            p = [load(path).network(rendered["image"])["logits"].softmax(1) for path in both]
        scores += (1 - torch.stack(p).mean(0)[range(len(batch["label"])), rendered["label"].long()]).tolist()
    threshold = model.guards.conformal.thresholds[model.class_names[0]]
    assert threshold == pytest.approx(sorted(scores)[math.ceil((len(scores) + 1) * 0.7) - 1], abs=2e-6)
    reading = model.predict(next((cohort / "mimic-cxr").rglob("*.dcm")))
    expected = {name for name, p in reading.probabilities.items() if 1 - p <= threshold}
    assert set(reading.prediction_set) == expected
    hip = model.predict(np.random.default_rng(0).random((64, 64)))
    (unlike,) = [warning for warning in hip.warnings if warning.startswith("unlike the training")]
    assert unlike.endswith("the training films were simulated, so that this says nothing about a real one")
    # These guards belong only to this mean, and are in no checkpoint.
    for paths, passes in ((both[::-1], 0), ([best], 0)):
        with pytest.raises(InputError, match=r"guards\.json: holds the guards of another model"):
            load_together(paths, dropout_passes=passes, guards=file)
    with pytest.raises(InputError, match=r"both\.ckpt is to hold the guards of a mean; name a file of guards"):
        guard(both, tmp_path / "both.ckpt", **options)
    assert load_together([str(guarded / "guarded.ckpt"), best]).guards is None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"coverage": 1.0}, "coverage: must be above 0 and below 1"),
        ({"false_alarms": 0.0}, "false_alarms: must be above 0"),
        ({"stage_config": Path("none.yaml")}, "no configuration; name the config.yaml"),
        ({}, "a false alarm rate of 0.01 needs at least 99 calibration films"),
    ],
)
def test_guards_that_cannot_be_fitted_are_one_line(guarded, changes, message, tmp_path):
    with pytest.raises(InputError, match=message):
        guard([str(guarded / "checkpoints" / "best.ckpt")], tmp_path / "out.ckpt", **changes)
    assert not (tmp_path / "out.ckpt").exists()
