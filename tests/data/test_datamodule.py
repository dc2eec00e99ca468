"""Batches: geometry, order, augmentation, labels, provenance."""

import json
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import torch

from gazelit.data import working_gaze
from gazelit.data.datamodule import GazeDataModule
from gazelit.data.gaze.events import TimeWindow
from gazelit.data.gaze.heatmap import fixation_density
from gazelit.data.images.transforms import Augmentation
from gazelit.data.options import GazeOptions
from gazelit.data.sampling import EpochSampler, Processes
from gazelit.data.store.store import Store
from gazelit.data.working_gaze import WorkingGaze
from gazelit.errors import InputError
from tests.tiny import grouped


def module(store, **options):
    return GazeDataModule(str(store), **grouped(**{"num_workers": 0, "batch_size": 4, **options}))


def epoch(datamodule, number):
    loader = datamodule.train_dataloader()
    loader.sampler.set_epoch(number)
    return list(loader)


def test_a_batch_has_the_documented_entries(store):
    datamodule = module(store)
    batch = datamodule.on_after_batch_transfer(next(iter(datamodule.val_dataloader())), 0)
    size = len(batch["index"])
    expected = {
        "image": ((size, 1, 64, 64), torch.float32),
        "heatmap": ((size, 1, 64, 64), torch.float32),
        "valid_mask": ((size, 1, 64, 64), torch.bool),
        "points": ((size, batch["points"].shape[1], 3), torch.float32),
        "sigma": ((size, batch["points"].shape[1], 2), torch.float32),
        "sigma_px": ((size,), torch.float32),
        "points_off_image": ((size,), torch.int64),
        "has_gaze": ((size,), torch.bool),
        "label": ((size,), torch.int64),
        "index": ((size,), torch.int64),
    }
    assert {key: (tuple(value.shape), value.dtype) for key, value in batch.items()} == expected
    assert torch.allclose(batch["sigma_px"], batch["sigma"][:, 0].mean(1))
    assert torch.allclose(batch["heatmap"].sum((1, 2, 3)), torch.ones(size), atol=1e-5)
    assert 0 <= batch["image"].min() <= batch["image"].max() <= 1
    # Padding is black, and stays black in bilinear and area resampling.
    assert (batch["image"][~batch["valid_mask"]] == 0).all()


def test_heatmaps_are_those_of_the_original_pixels(store):
    """The density rendered at the working size equals that of the original film, resampled."""
    datamodule = module(store, sigma=1.5)
    batch = datamodule.render(next(iter(datamodule.test_dataloader())))
    opened = Store.open(store)
    row = int(batch["index"][0])
    gaze = opened.gaze("fixation").query("row == @row")
    letterbox = opened.letterboxes[row]
    points = torch.from_numpy(gaze[["x", "y", "duration"]].to_numpy(np.float32, copy=True))
    sigma = (1.5 * gaze["ppd_x"].mean(), 1.5 * gaze["ppd_y"].mean())
    original = fixation_density(points, (letterbox.height, letterbox.width), sigma)
    expected = letterbox.apply(original.numpy())
    ours = batch["heatmap"][0, 0].numpy()
    inside = letterbox.valid_mask()
    assert np.corrcoef(ours[inside], expected[inside])[0, 1] > 0.999


def test_sigma_units_agree(store):
    opened = Store.open(store)
    row = 0
    ppd = opened.gaze("fixation").query("row == 0")[["ppd_x", "ppd_y"]].mean().to_numpy()
    scale = np.array(opened.letterboxes[row].scale)

    def sigma(value, unit):
        datamodule = module(store, sigma=value, sigma_unit=unit)
        return datamodule.dataset("train").gaze.sigma[row], datamodule.provenance

    degrees, provenance = sigma(2.0, "deg")
    assert degrees == pytest.approx(2 * ppd * scale, rel=1e-5)
    assert provenance["sigma_deg"] == 2.0
    pixels, provenance = sigma(75.5, "image_px")
    assert pixels == pytest.approx(75.5 * scale, rel=1e-5)
    # If films differ in size, the two means differ a little.
    assert provenance["sigma_deg"] == pytest.approx(75.5 / np.array(opened.about["pixels_per_degree"]), rel=0.05)
    assert sigma(3.0, "px")[0] == pytest.approx([3, 3])


def test_downscaling_keeps_positions(store):
    fine, coarse = module(store), module(store, downscale=2)
    full, halved = fine.dataset("test")[0, 0], coarse.dataset("test")[0, 0]
    assert halved["image"].shape == (1, 32, 32)
    assert halved["image"].dtype == torch.uint8
    means = torch.nn.functional.avg_pool2d(full["image"].float(), 2)
    assert (halved["image"] - means).abs().max() <= 0.5
    assert torch.allclose((full["points"][:, :2] + 0.5) / 2 - 0.5, halved["points"][:, :2], atol=1e-4)
    assert torch.allclose(full["sigma"] / 2, halved["sigma"])


def test_order_and_augmentation_are_functions_of_seed_and_epoch(store):
    alone, by_workers = epoch(module(store), 3), epoch(module(store, num_workers=2), 3)
    for expected, found in zip(alone, by_workers, strict=True):
        assert all(torch.equal(expected[key], found[key]) for key in expected)
    later = epoch(module(store), 4)
    assert [batch["index"].tolist() for batch in alone] != [batch["index"].tolist() for batch in later]
    reseeded = epoch(module(store, seed=1), 3)
    assert [batch["index"].tolist() for batch in alone] != [batch["index"].tolist() for batch in reseeded]


def test_persistent_workers_learn_the_epoch(store):
    loader = module(store, num_workers=1).train_dataloader()
    seen = []
    for number in (0, 1):
        loader.sampler.set_epoch(number)
        seen.append(
            {int(index): image for batch in loader for index, image in zip(batch["index"], batch["image"], strict=True)}
        )
    shared = seen[0].keys() & seen[1].keys()
    assert shared
    assert any(not torch.equal(seen[0][index], seen[1][index]) for index in shared)


def test_evaluation_shares_cover_every_case_once(store):
    dataset = module(store).dataset("test")
    shares = [list(EpochSampler(dataset, False, 0, Processes(3, rank))) for rank in range(3)]
    assert sorted(position for share in shares for _, position in share) == list(range(len(dataset)))
    samplers = [EpochSampler(dataset, False, 0, Processes(3, rank)) for rank in range(3)]
    assert list(map(len, samplers)) == list(map(len, shares))


def test_training_shares_are_of_equal_length_and_disjoint_but_for_padding(store):
    dataset = module(store).dataset("train")
    shares = [[position for _, position in EpochSampler(dataset, True, 0, Processes(2, rank))] for rank in range(2)]
    assert len(shares[0]) == len(shares[1])
    assert set(shares[0]) | set(shares[1]) == set(range(len(dataset)))


def test_splits_are_by_patient(store):
    datamodule = module(store)
    patients = Store.open(store).cases["patient_id"]
    groups = [set(patients.iloc[datamodule.rows(split)]) for split in ("train", "val", "test")]
    assert len(groups[0] | groups[1] | groups[2]) == sum(map(len, groups))
    assert sum(len(datamodule.rows(split)) for split in ("train", "val", "test")) == 24


def test_provenance_is_primitive_and_names_no_case(store):
    provenance = module(store, sigma=1.25).provenance
    text = json.dumps(provenance)
    assert not any(image_id in text for image_id in Store.open(store).cases["image_id"])
    assert provenance["synthetic"] is True
    assert (provenance["sigma"], provenance["sigma_unit"]) == (1.25, "deg")
    assert provenance["fingerprint"] == Store.open(store).about["fingerprint"]


def test_multi_label_keeps_unknowns(store):
    datamodule = module(store, labels=["edema__chx", "consolidation__chx"], exclusive=False, allow_empty=True)
    labels = torch.cat([batch["label"] for batch in datamodule.loader("train")])
    assert labels.shape[1] == 2
    assert torch.isnan(labels).any()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"labels": ["Normal", "Cough"]}, "no label Cough"),
        ({"labels": ["Normal", "CHF"]}, "do not have exactly one"),
        ({"downscale": 4}, "multiple of 32"),
        ({"sigma": 0.0}, "sigma: must be above 0"),
        ({"val_fraction": 0.001}, "'val' is empty"),
    ],
)
def test_wrong_options_are_one_error(store, options, message):
    with pytest.raises(InputError, match=message):
        module(store, **options).setup()


def test_missing_store():
    with pytest.raises(InputError, match="gazelit prepare"):
        module("nowhere").setup()


@pytest.mark.parametrize("dtype", [np.float32, np.uint8])
def test_augmentation_moves_image_and_points_together(dtype):
    augmentation = Augmentation()
    for seed in range(6):
        image = np.zeros((96, 80), dtype)
        image[39:42, 29:32] = 1 if dtype == np.float32 else 255
        mask = np.ones((96, 80), bool)
        points = np.array([[30, 40, 0.7]], np.float32)
        moved, _, landed, _, inside = augmentation(image, mask, points, np.ones((1, 2), np.float32), seed)
        ys, xs = np.mgrid[:96, :80]
        bright = np.where(moved > 0.5 * moved.max(), moved, 0)
        centroid = [(xs * bright).sum() / bright.sum(), (ys * bright).sum() / bright.sum()]
        assert inside.all()
        assert landed[0, 2] == np.float32(0.7)
        assert np.abs(landed[0, :2] - centroid).max() < 0.6


def test_augmentation_drops_and_counts_points_that_leave_the_image():
    points = np.array([[0, 0, 1], [79, 95, 1], [40, 48, 1]], np.float32)
    left = 0
    for seed in range(20):
        film, sigma = np.zeros((96, 80), np.float32), np.ones((3, 2), np.float32)
        _, _, landed, _, kept = Augmentation()(film, np.ones((96, 80), bool), points, sigma, seed)
        assert len(landed) == kept.sum()
        assert np.array_equal(landed[:, 2], points[kept, 2])
        left += int((~kept).sum())
        inside = (landed[:, 0] >= -0.5) & (landed[:, 0] < 79.5) & (landed[:, 1] >= -0.5) & (landed[:, 1] < 95.5)
        assert inside.all()
    assert left > 0


def test_augmentation_of_stored_integers_is_that_of_floats():
    image = np.random.default_rng(0).integers(0, 256, (96, 80)).astype(np.uint8)
    rest = np.ones((96, 80), bool), np.array([[30, 40, 1]], np.float32), np.ones((1, 2), np.float32)
    for seed in range(8):
        integer, mask_a, points_a, *_ = Augmentation()(image, *rest, seed)
        number, mask_b, points_b, *_ = Augmentation()((image / 255).astype(np.float32), *rest, seed)
        assert integer.dtype == np.uint8
        # Each of the three steps rounds to 1/255.
        assert np.abs(integer / 255 - number).max() < 0.03
        assert np.array_equal(mask_a, mask_b)
        assert np.array_equal(points_a, points_b)


def test_sixteen_bits_keep_their_precision(cohort, tmp_path):
    from gazelit.data.sources import EGDCXR
    from gazelit.data.store.prepare import prepare

    made = prepare(EGDCXR(cohort / "egd-cxr", cohort / "mimic-cxr"), tmp_path / "s", size=(64, 64), bits=16, workers=1)
    batch = module(made.path).render(next(iter(module(made.path).test_dataloader())))
    row = int(batch["index"][0])
    assert torch.equal(batch["image"][0, 0], torch.from_numpy(made.images()[row] * np.float32(1 / 65535)))


def test_augmentation_never_mirrors():
    # A mirrored film would have the heart on the wrong side: a bright left half stays left.
    image = np.zeros((96, 80), np.float32)
    image[:, :40] = 1
    for seed in range(20):
        nowhere = np.zeros((0, 3), np.float32), np.zeros((0, 2), np.float32)
        moved, *_ = Augmentation()(image, np.ones((96, 80), bool), *nowhere, seed)
        assert moved[:, 10:30].mean() > moved[:, 50:70].mean()


def _sums(datamodule, epoch=0, training=False):
    """Sum of the weights of each case's points."""
    dataset = datamodule.datasets["train"] if training else datamodule.dataset("train")
    return np.array([float(dataset[epoch, position]["points"][:, 2].sum()) for position in range(len(dataset))])


@pytest.fixture(scope="module")
def readings(reflacx, tmp_path_factory):
    """A store whose first images have five readings."""
    from gazelit.data.sources import REFLACX
    from gazelit.data.store.prepare import prepare

    out = tmp_path_factory.mktemp("readings") / "s"
    return prepare(REFLACX(reflacx / "reflacx", reflacx / "mimic-cxr"), out, size=(64, 64), workers=1).path


OFFICIAL = {
    "labels": ["Consolidation", "Pulmonary edema"], "exclusive": False, "split_method": "official", "allow_empty": True,
}  # fmt: skip


def test_readings_are_pooled_weighted_equally_or_drawn(readings):
    opened = Store.open(readings)
    gaze = opened.gaze("fixation")
    seconds = gaze.groupby(["row", "reading_id"], observed=True)["duration"].sum()
    pooled, equal = (module(readings, readings=how, **OFFICIAL) for how in ("pooled", "equal"))
    rows = pooled.rows("train")
    assert _sums(pooled) == pytest.approx(seconds.groupby("row").sum().loc[rows].to_numpy(), rel=1e-4)
    assert _sums(equal) == pytest.approx(seconds.groupby("row").size().loc[rows].to_numpy(), rel=1e-4)
    drawn = module(readings, readings="drawn", augment=False, **OFFICIAL)
    several = int(np.flatnonzero(seconds.groupby("row").size().loc[rows].to_numpy() == 5)[0])
    values = seconds.loc[rows[several]].to_numpy()
    seen = {round(_sums(drawn, epoch, training=True)[several], 3) for epoch in range(12)}
    assert len(seen) > 2
    assert all(np.abs(values - reading).min() < 0.01 for reading in seen)
    # Evaluation sees all readings.
    assert _sums(drawn)[several] == pytest.approx(values.sum(), rel=1e-4)


def test_the_official_split_of_the_dataset(readings):
    datamodule = module(readings, **OFFICIAL)
    official = Store.open(readings).cases["official_split"]
    for split in ("train", "val", "test"):
        assert (official.iloc[datamodule.rows(split)] == split).all()
    assert datamodule.provenance["split_method"] == "official"


def test_folds_and_their_provenance(store):
    modules = [module(store, folds=4, fold=fold) for fold in range(4)]
    tested = np.concatenate([datamodule.rows("test") for datamodule in modules])
    assert sorted(tested) == list(range(24))
    assert [datamodule.provenance["fold"] for datamodule in modules] == [0, 1, 2, 3]
    assert len({datamodule.provenance["split_sha256"] for datamodule in modules}) == 4


def test_uncertain_labels_follow_the_option(store):
    name = "edema__chx"
    raw = Store.open(store).cases[name].to_numpy()
    if not (raw == -1).any():
        pytest.skip("the cohort has no uncertain label of this finding")
    values = {}
    for how in ("unknown", "positive", "negative"):
        datamodule = module(store, labels=[name], exclusive=False, uncertain=how, allow_empty=True)
        datamodule.setup()
        values[how] = datamodule.labels[:, 0].numpy()
    uncertain = raw == -1
    assert np.isnan(values["unknown"][uncertain]).all()
    assert (values["positive"][uncertain] == 1).all()
    assert (values["negative"][uncertain] == 0).all()
    for value in values.values():
        assert np.array_equal(value[~uncertain], raw[~uncertain].astype(np.float32), equal_nan=True)


def test_images_without_labels_or_gaze_are_batches_too(mimic, tmp_path):
    from gazelit.data.sources import MIMICCXR
    from gazelit.data.store.prepare import prepare

    made = prepare(MIMICCXR(mimic / "mimic-cxr-jpg", labels="none"), tmp_path / "s", size=(64, 64), workers=1)
    datamodule = module(made.path, labels=[], exclusive=False)
    batch = datamodule.render(next(iter(datamodule.train_dataloader())))
    assert batch["label"].shape == (4, 0)
    assert not batch["has_gaze"].any()
    assert (batch["heatmap"] == 0).all()
    assert datamodule.provenance["sigma_px"] is None


def test_detected_fixations_and_windows_reach_the_batch(store):
    published, detected = (module(store, gaze_kind=kind) for kind in ("fixation", "detected"))
    assert 0.3 < _sums(detected).sum() / _sums(published).sum() < 1.3
    assert detected.provenance["detection"]["method"] == "ivt"
    early = module(store, window=TimeWindow(first=3.0))
    assert _sums(early).max() <= 3.0
    assert early.provenance["window"] == {"first": 3.0, "last": None, "phrase": None}
    spoken = module(store, window=TimeWindow(phrase="frontal"))
    assert 0 < _sums(spoken).sum() < _sums(published).sum() / 5


def test_scanpaths_stay_in_order(store):
    opened = Store.open(store)
    dataset = module(store).dataset("test")
    for position in range(len(dataset)):
        row = int(dataset.rows[position])
        gaze = opened.gaze("fixation").query("row == @row").sort_values("t")
        points = dataset[0, position]["points"].numpy()
        assert points[:, 2] == pytest.approx(gaze["duration"].to_numpy(), rel=1e-5)
        assert points[:, :2] == pytest.approx(opened.letterboxes[row].to_working(gaze[["x", "y"]].to_numpy()), abs=1e-3)


def test_points_that_augmentation_moves_away_are_counted_in_the_batch(store):
    datamodule = module(store)
    dataset, plain = datamodule.datasets["train"], datamodule.dataset("train")
    dataset.draws = replace(dataset.draws, augmentation=Augmentation(shift=0.4))
    lost = 0
    for epoch in range(3):
        for position in range(len(dataset)):
            example = dataset[epoch, position]
            assert len(example["points"]) + example["points_off_image"] == len(plain[0, position]["points"])
            assert len(example["points"]) == len(example["sigma"])
            lost += int(example["points_off_image"])
    assert lost > 0


def test_shipped_options_can_be_written_in_yaml(store, tmp_path, run_gazelit):
    from tests.tiny import tiny

    config = tmp_path / "gaze.yaml"
    config.write_text(
        "data:\n  class_path: gazelit.data.datamodule.GazeDataModule\n  init_args:\n    gaze:\n      kind: detected\n"
        "      detection: {method: idt, dispersion: 1.5, min_duration: 0.1}\n      window: {last: 8}\n"
        "      readings: equal\n    split: {folds: 4, fold: 1}\n"
    )
    run_gazelit("fit", "--config=stage2.yaml", f"--config={config}", *tiny(2, store), "--trainer.fast_dev_run=1")


def test_finding_c9_the_split_is_that_of_the_store_whatever_a_stage_trains_on(store):
    from gazelit.checkpoints.split_guard import check_split

    stages = [
        module(store),
        module(store, labels=[], exclusive=False),
        module(store, labels=["CHF", "pneumonia"], exclusive=False),
        module(store, labels=["edema__chx"], exclusive=False, uncertain="positive", allow_empty=True),
    ]
    recorded = [stage.provenance for stage in stages]
    assert len({record["split_sha256"] for record in recorded}) == 1
    assert "CHF" in recorded[0]["split_stratify"]
    for record in recorded[1:]:
        assert check_split("a.ckpt", {"stage": "contrastive", "data": record}, recorded[0]) is None


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"stratify": ["CHF"], "allow_empty": True}, "split_stratify"),
        ({"split_seed": 3, "allow_empty": True}, "split_seed"),
        ({"test_fraction": 0.4}, "split_test_fraction"),
        ({"val_fraction": 0.2}, "split_val_fraction"),
    ],
)
def test_finding_c9_what_decided_the_split_is_recorded_field_by_field(store, options, field):
    from gazelit.data.splits.case_split import SETTINGS

    first, second = module(store).provenance, module(store, **options).provenance
    assert first["split_sha256"] != second["split_sha256"]
    assert [name for name in SETTINGS if first[name] != second[name]] == [field]


def test_a_split_file_is_recorded_by_its_content(store, tmp_path):
    from gazelit.data.splits.by_patient import save_split
    from gazelit.files import sha256_file

    path = tmp_path / "split.csv"
    drawn = module(store)
    drawn.setup()
    save_split(path, drawn.store.cases, drawn.cohort.split.of_case)
    provenance = module(store, split_file=str(path)).provenance
    assert provenance["split_sha256"] == drawn.provenance["split_sha256"]
    assert provenance["split_file_sha256"] == sha256_file(path)
    assert (provenance["split_method"], provenance["split_seed"], provenance["split_stratify"]) == ("file", None, None)


def test_finding_c10_rows_of_several_partial_or_unknown_classes_are_no_class(store, tmp_path):
    from gazelit.data.labels import read_labels
    from tests.data.test_identity import changed

    names = ["Normal", "CHF", "pneumonia"]
    cases = Store.open(store).cases[names].to_numpy(float, copy=True)
    nan = np.nan
    cases[:6] = [[1, 1, nan], [0.5, 0.5, 0], [1, 0, nan], [0, 0, 0], [1, 1, -1], [1, -1, 0]]
    folder = changed(store, tmp_path / "s", cases=dict(zip(names, cases.T, strict=True)))
    labels, usable = read_labels(Store.open(folder), names, True, "unknown")
    assert usable.tolist() == [False] * 6 + [True] * 18
    assert (labels[:6] == -1).all()
    detail = r"2 have several, 1 have a value other than 0 and 1, 3 have none or an unknown"
    with pytest.raises(InputError, match=rf"6 cases do not have exactly one of Normal, CHF, pneumonia \({detail}\)"):
        module(folder).setup()
    external = module(folder, split_method="external")
    assert external.rows("test").tolist() == list(range(6, 24))
    # A split file that leaves these films out resolves the error.
    drawn = module(store)
    drawn.setup()
    split = drawn.cohort.split.of_case.copy()
    pd.DataFrame({"image_id": drawn.store.cases["image_id"], "split": split}).iloc[6:].to_csv(tmp_path / "f.csv")
    assert set(module(folder, split_file=str(tmp_path / "f.csv"), allow_empty=True).labels.tolist()) == {-1, 0, 1, 2}


def test_finding_c1_a_class_without_a_positive_in_a_split_stops_the_training(store):
    options = {"labels": ["Normal", "support_devices__chx"], "exclusive": False}
    with pytest.raises(InputError, match=r"no positive case of support_devices__chx in .* split.allow_empty: true"):
        module(store, **options).setup()
    module(store, **options, allow_empty=True).setup()


def test_finding_c1_fit_logs_the_counts_of_each_split_once(store, caplog):
    datamodule = module(store)
    with caplog.at_level("INFO", logger="gazelit"):
        datamodule.setup()
        assert not caplog.text
        for stage in ("fit", "validate", "fit"):
            datamodule.setup(stage)
    assert caplog.text.count("what is in each split") == 1
    assert "pneumonia positive" in caplog.text
    assert "fewer than 5 positive cases of Normal (val " in caplog.text


def test_processes_of_a_loader_that_outlive_signals_end_with_the_interpreter():
    program = (
        "from torch.utils.data import DataLoader\n"
        "from gazelit.data.sampling import ends_with_interpreter, outlive_signals\n"
        "loader = DataLoader(range(4), num_workers=1, persistent_workers=True, worker_init_fn=outlive_signals)\n"
        "kept = ends_with_interpreter(loader), list(loader)\n"
        # An error's traceback, printed at the end, keeps the loader alive in the same way.
        "import sys; sys.last_value = kept\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)


def test_gaze_is_sorted_whatever_the_order_of_its_file_and_equal_in_blocks(store, tmp_path, monkeypatch):
    turned = tmp_path / "turned"
    turned.mkdir()
    for file in store.iterdir():
        if file.is_file():
            (turned / file.name).symlink_to(file)
    table = pq.read_table(store / "gaze.parquet")
    (turned / "gaze.parquet").unlink()
    pq.write_table(table.take(np.random.default_rng(0).permutation(len(table))), turned / "gaze.parquet")
    opened, shuffled = Store.open(store), Store.open(turned, check=False)
    plain = pq.read_table(store / "gaze.parquet").to_pandas().query("kind == 'fixation' and valid")
    plain = plain.sort_values(["row", "reading_id", "t"], kind="stable", ignore_index=True)
    for each in (opened, shuffled):
        found = each.gaze("fixation", columns=["row", "reading_id", "t", "x"])
        for name in ("row", "t", "x"):
            np.testing.assert_array_equal(found[name], plain[name])
    whole = WorkingGaze.of(opened, GazeOptions(), 1)
    monkeypatch.setattr(working_gaze, "_BLOCK", 7)
    parts = WorkingGaze.of(opened, GazeOptions(), 1)
    np.testing.assert_array_equal(parts.points, whole.points)
    np.testing.assert_array_equal(parts.sigma, whole.sigma)
