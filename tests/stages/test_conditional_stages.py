"""Maps by time and by reader: targets, networks that begin as the plain network, and tests that measure the gain."""

import json

import numpy as np
import pandas as pd
import pytest
import torch

from gazelit.data.datamodule import GazeDataModule
from gazelit.data.gaze.events import TimeWindow
from gazelit.data.options import GazeOptions, LoaderOptions
from gazelit.data.working_gaze import WorkingGaze
from gazelit.density import log_density
from gazelit.deploy.new_reader import batches_of, fit_reader, mean_information, with_reader
from gazelit.errors import InputError
from gazelit.losses import TimeSlicesLoss
from gazelit.models import DualEncoderUNet, ReaderUNet, TimeResolvedUNet
from gazelit.stages.reader_conditional import readings_of
from gazelit.stages.time_resolved import slices_of
from tests.stages.test_stages import PARTS
from tests.tiny import save_untrained, tiny

EDGES = (1.0, 3.0, 10.0)


@pytest.fixture(scope="module")
def datamodule(read_twice):
    made = GazeDataModule(str(read_twice), loader=LoaderOptions(batch_size=6, num_workers=0))
    made.with_events = True
    return made


@pytest.fixture(scope="module")
def batch(datamodule):
    return datamodule.render(next(iter(datamodule.loader("train"))))


def handed_over(network, plain):
    """A network with the components of another, in evaluation mode."""
    for name in ("encoder", "saliency_encoder", "decoder", "saliency_head"):
        network.get_submodule(name).load_state_dict(plain.get_submodule(name).state_dict())
    return network.eval()


@pytest.fixture(scope="module")
def plain():
    torch.manual_seed(0)
    return DualEncoderUNet(**PARTS, classes=None).eval()


def test_parts_of_a_reading_add_up_to_it(batch):
    found = slices_of(batch, EDGES)
    assert torch.allclose(found["slice_points"][..., 2].sum(1), batch["points"][..., 2], atol=1e-5)
    mixture = (found["slice_maps"] * found["slice_shares"][..., None, None]).sum(1)
    assert torch.allclose(mixture, batch["heatmap"][:, 0], atol=1e-6)
    # Computed by hand for a film: seconds of looking in the second part.
    events = batch["events"][0].double().numpy()
    seconds = np.clip(np.minimum(events[:, 2] + events[:, 3], 3) - np.maximum(events[:, 2], 1), 0, None).sum()
    assert found["slice_shares"][0, 1] == pytest.approx(seconds / events[:, 3].sum(), abs=1e-5)


def test_the_parts_begin_as_the_whole_and_the_loss_is_zero_at_the_targets(plain, batch):
    network = handed_over(TimeResolvedUNet(**PARTS, edges=EDGES), plain)
    with torch.no_grad():
        outputs = network(batch["image"])
        assert torch.allclose(outputs["saliency_logits"], plain(batch["image"])["saliency_logits"], atol=1e-5)
    # The last layers of the new heads are zero, but for a constant, which does not change a density.
    parts = [log_density(outputs["slice_logits"][:, k, None]) for k in range(4)]
    assert all(torch.allclose(part, log_density(outputs["saliency_logits"]), atol=1e-4) for part in parts)
    targets = slices_of(batch, EDGES)
    perfect = {
        "slice_logits": targets["slice_maps"].clamp(min=1e-30).log(),
        "saliency_logits": batch["heatmap"].clamp(min=1e-30).log(),
    }
    loss = TimeSlicesLoss()(perfect, {**batch, **targets})
    assert loss == pytest.approx(0, abs=1e-3)
    assert TimeSlicesLoss()({**perfect, "slice_logits": perfect["slice_logits"].flip(1)}, {**batch, **targets}) > 0.1
    with pytest.raises(InputError, match="edges: must ascend from above 0 s"):
        TimeResolvedUNet(**PARTS, edges=[3, 1])


def test_readings_are_rows_of_their_own(batch, datamodule):
    readers = torch.arange(1, len(datamodule.reader_names) + 2)
    readings = readings_of(batch, readers)
    counts = batch["reading"].max(1).values + 1
    assert torch.equal(torch.bincount(readings["film"], minlength=6), counts)
    weight = torch.zeros_like(batch["points"][..., 2]).index_add_(0, readings["film"], readings["points"][..., 2])
    assert torch.equal(weight, batch["points"][..., 2])
    row = int(torch.nonzero(counts == 2)[0])
    second = int(torch.nonzero(readings["film"] == row)[1])
    of_second = batch["reading"][row] == 1
    assert readings["reader"][second] == batch["reader"][row][of_second][0] + 1
    assert torch.equal(readings["points"][second, :, 2] > 0, of_second)
    assert torch.allclose(readings["heatmap"].sum((1, 2, 3)), torch.ones(len(readings["film"])), atol=1e-5)


def test_readers_begin_alike_and_differ_once_their_vectors_differ(plain, batch):
    network = handed_over(ReaderUNet(**PARTS, readers=["a", "b"]), plain)
    image = batch["image"]
    with torch.no_grad():
        expected = plain(image)["saliency_logits"]
        film, reader = torch.tensor([0, 0, 3]), torch.tensor([1, 2, 0])
        begun = network(image, film, reader)["saliency_logits"]
        assert torch.allclose(begun, expected[film], atol=1e-5)
        torch.nn.init.normal_(network.reader_film.modulation.weight)
        changed = network(image, film, reader)["saliency_logits"]
        assert not torch.allclose(changed[0], changed[1], atol=1e-3)
        assert torch.allclose(network(image)["saliency_logits"][3], changed[2], atol=1e-5)
    with pytest.raises(InputError, match="name each of the readers once"):
        ReaderUNet(**PARTS, readers=["a", "a"])


def test_a_readers_vector_is_fitted_to_readings_and_nothing_else_moves(plain, datamodule):
    torch.manual_seed(1)
    network = handed_over(ReaderUNet(**PARTS, readers=["a", "b"]), plain)
    torch.nn.init.normal_(network.reader_film.modulation.weight, std=0.5)
    grown = with_reader(network, "new").eval()
    assert torch.equal(grown.reader_film.table.weight[:3], network.reader_film.table.weight)
    name = datamodule.reader_names[datamodule.cohort.scanpaths("train")[0].reader]
    (batch,) = batches_of(datamodule, "train", datamodule.rows("train")[:4], name)
    unknown = mean_information(grown, [batch], 0)
    assert mean_information(grown, [batch], 3) == pytest.approx(unknown, abs=1e-5)
    fit_reader(grown, batch)
    assert mean_information(grown, [batch], 3) > unknown
    state, fitted = network.state_dict(), grown.state_dict()
    moved = {key for key in state if fitted[key].shape == state[key].shape and not torch.equal(fitted[key], state[key])}
    assert not moved
    assert torch.equal(fitted["reader_film.table.weight"][:3], state["reader_film.table.weight"])


def test_another_order_keeps_every_map_and_no_time(datamodule):
    gaze, rows = datamodule.cohort.gaze, datamodule.rows("train")
    patients = datamodule.cohort.patients
    mixed = gaze.controlled("order", rows, patients, 0)
    assert isinstance(mixed, WorkingGaze)
    moved = 0
    for row in range(len(gaze.starts) - 1):
        part = slice(gaze.starts[row], gaze.starts[row + 1])
        for number in np.unique(gaze.reading[part]):
            own = np.arange(part.start, part.stop)[gaze.reading[part] == number]
            before, after = gaze.points[own], mixed.points[own]
            assert np.array_equal(np.sort(before, axis=0), np.sort(after, axis=0))
            times, durations = mixed.events.times[own].T
            # Weights are durations and moved with them; pauses and the end of the reading stayed.
            assert np.allclose(durations, after[:, 2])
            assert times[0] == pytest.approx(gaze.events.times[own[0], 0], abs=1e-3)
            ends = [float(each.events.times[own[-1]].sum()) for each in (gaze, mixed)]
            assert ends[0] == pytest.approx(ends[1], abs=1e-2)
            assert (np.diff(times) >= durations[:-1] - 1e-2).all()
            moved += int(not np.array_equal(before, after))
            if row not in rows:
                assert np.array_equal(before, after)
    assert moved > len(rows)


STAGES = {
    "time_resolved": (["--model.network.edges=[1,3]"], ["from_0s_ig", "from_3s_ig_of_whole", "from_1s_cc"]),
    "reader_conditional": (["--model.network.readers=[a,b,c,d,e]"], ["ig_of_unknown", "reader_identified"]),
}


@pytest.mark.parametrize("name", STAGES)
def test_a_stage_takes_stage_2_over_and_is_tested_by_film(name, read_twice, plain, run_gazelit, tmp_path):
    options, columns = STAGES[name]
    data = GazeDataModule(str(read_twice)).provenance
    before = save_untrained(tmp_path / "stage2.ckpt", plain, data, "saliency")
    options = [*tiny(2, read_twice), *options, "--checkpoint.dirpath=run/checkpoints", "--trainer.max_epochs=2"]
    printed = run_gazelit("fit", f"--config=presets/quick/{name}.yaml", *options, f"--ckpt_path={before}")
    assert "loaded encoder, saliency_encoder, decoder, saliency_head; new " in printed
    epochs = pd.read_csv(tmp_path / "run" / "epochs.csv")
    assert epochs["train/loss"].iloc[1] < epochs["train/loss"].iloc[0]
    run_gazelit("test", "--config=run/config.yaml", "--trainer.default_root_dir=tested")
    found = next(path.parent for path in (tmp_path / "tested").rglob("metrics.json"))
    table, metrics = pd.read_parquet(found / "predictions.parquet"), json.loads((found / "metrics.json").read_text())
    assert table["index"].is_unique
    for column in columns:
        assert metrics[f"test/{column}"] == pytest.approx(table[column].mean(), rel=1e-4, nan_ok=True)
    run_gazelit("report", str(found))
    report = (found / "report" / "report.md").read_text()
    assert ("## Gaze by time" in report) == (name == "time_resolved")
    assert ("## Gaze by reader" in report) == (name == "reader_conditional")
    if name == "time_resolved":
        gain = (table["from_0s_ig"] - table["from_0s_ig_of_whole"]).mean()
        (row,) = [line for line in report.splitlines() if "| 0 s to 1 s |" in line]
        assert f"{abs(gain):.3f}" in row
    if name == "reader_conditional":
        assert table["reader_identified"].dropna().between(0, 1).all()
        # The network has hardly learned its readers yet: their maps are nearly those of an unknown reader.
        assert np.abs(table["ig"] - table["ig_of_unknown"]).max() < 0.5


def test_the_readers_of_a_left_out_reader_are_unknown(read_twice, plain, run_gazelit, tmp_path):
    gaze = GazeOptions(leave_out="a")
    assert GazeDataModule(str(read_twice), gaze=gaze).provenance["reader_left_out"]
    fit = ["fit", "--config=presets/quick/reader_conditional.yaml", *tiny(2, read_twice), "--trainer.fast_dev_run=true"]
    run_gazelit(*fit, "--model.network.readers=[b,c]", "--data.gaze.leave_out=a")
    # A vector that nothing trains would score the readings of the test.
    printed = run_gazelit(*fit, "--model.network.readers=[a,b]", "--data.gaze.leave_out=a", code=2)
    assert "model.network.readers: has a, whom data.gaze.leave_out leaves out; leave a out of it, too" in printed


def test_readers_without_training_films_are_named(read_twice, run_gazelit):
    fit = ["fit", "--config=presets/quick/reader_conditional.yaml", *tiny(2, read_twice), "--trainer.fast_dev_run=true"]
    printed = run_gazelit(*fit, "--model.network.readers=[A,B]", code=2)
    assert "model.network.readers: no training film was read by A, B; name some of a, " in printed
    printed = run_gazelit(*fit, "--model.network.readers=[a,nobody]")
    assert "no training film was read by nobody, so nothing is learned of them" in printed


WORDS = {"cardiac silhouette": "heart", "bone": "bones"}


def test_during_a_phrase_all_that_is_left_was_looked_at_while_it_was_said(store):
    window = TimeWindow(phrase="heart", lag=0.5)
    gaze = GazeDataModule(str(store), gaze=GazeOptions(phrases=WORDS, phrase_lag=0.5, window=window)).cohort.gaze
    assert len(gaze.points) > 20
    assert gaze.events.phrase_shares[:, 0] == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"control": "phrases"}, "gaze.control: phrases moves what gaze.phrases names, which is not given"),
        (
            {"control": "phrases", "phrases": WORDS, "window": TimeWindow(phrase="heart")},
            "gaze.control: phrases does not move gaze.window.phrase",
        ),
        ({"phrase_lag": 1.0}, "gaze.phrase_lag: goes with gaze.phrases"),
    ],
)
def test_options_of_phrases_without_phrases_are_refused(options, message):
    with pytest.raises(InputError, match=message):
        GazeOptions(**options)


def test_named_findings_are_given_event_by_event_and_the_control_moves_them(store):
    def events(**options):
        module = GazeDataModule(
            str(store), gaze=GazeOptions(phrases=WORDS, **options), loader=LoaderOptions(num_workers=0)
        )
        return module, module.cohort.gaze

    module, gaze = events(phrase_lag=0.5)
    phrases, row = module.store.table("phrases"), int(module.rows("train")[0])
    part = slice(gaze.starts[row], gaze.starts[row + 1])
    spans = phrases[(phrases["row"] == row) & phrases["text"].str.contains("bones")][["begin", "end"]].to_numpy() - 0.5
    start, duration = gaze.events.times[part].T.astype(float)
    clock = start[:, None] + duration[:, None] * (np.arange(400) + 0.5) / 400
    expected = ((clock[..., None] >= spans[:, 0]) & (clock[..., None] < spans[:, 1])).any(-1).mean(1)
    assert expected.max() > 0
    assert gaze.events.phrase_shares[part, 1] == pytest.approx(expected, abs=0.01)
    _, moved = events(phrase_lag=0.5, control="phrases")
    assert np.array_equal(moved.points, gaze.points)
    for case in module.rows("train"):
        own = slice(gaze.starts[case], gaze.starts[case + 1])
        assert np.array_equal(
            np.sort(moved.events.phrase_shares[own], axis=0), np.sort(gaze.events.phrase_shares[own], axis=0)
        )
    assert not np.array_equal(moved.events.phrase_shares, gaze.events.phrase_shares)
    kept = np.concatenate([np.arange(gaze.starts[case], gaze.starts[case + 1]) for case in module.rows("test")])
    assert np.array_equal(moved.events.phrase_shares[kept], gaze.events.phrase_shares[kept])


def test_maps_by_finding_are_trained_and_scored_against_regions(store, plain, run_gazelit, tmp_path):
    data = GazeDataModule(str(store)).provenance
    before = save_untrained(tmp_path / "stage2.ckpt", plain, data, "saliency")
    options = [
        *tiny(2, store),
        "--checkpoint.dirpath=run/checkpoints",
        "--trainer.max_epochs=2",
        f"--ckpt_path={before}",
    ]
    printed = run_gazelit("fit", "--config=presets/quick/finding_conditional.yaml", *options)
    assert "loaded encoder, saliency_encoder, decoder, saliency_head; new finding_heads" in printed
    run_gazelit("test", "--config=run/config.yaml", "--trainer.default_root_dir=tested")
    (found,) = [path.parent for path in (tmp_path / "tested").rglob("metrics.json")]
    table, metrics = pd.read_parquet(found / "predictions.parquet"), json.loads((found / "metrics.json").read_text())
    for name in ("said_cardiac_silhouette_mass", "said_cardiac_silhouette_auc_of_whole"):
        # A film on which the finding is not marked has no value.
        assert table[name].dropna().between(0, 1).all()
        assert metrics[f"test/{name}"] == pytest.approx(table[name].mean(), rel=1e-4)
    run_gazelit("report", str(found))
    report = (found / "report" / "report.md").read_text()
    own, whole = (table[f"said_cardiac_silhouette_mass{suffix}"].dropna() for suffix in ("", "_of_whole"))
    (row,) = [line for line in report.splitlines() if "| cardiac silhouette |" in line and "mass" in line]
    _, _, _, films, _, first, second, difference, chance, _ = map(str.strip, row.split("|"))
    assert int(films) == len(own)
    for cell, values in ((first, own), (second, whole), (difference, own - whole)):
        assert float(cell.split()[0]) == pytest.approx(values.mean(), abs=6e-4)
    opened = GazeDataModule(str(store))
    examples = [opened.dataset("test")[0, position] for position in range(len(table))]
    films = {int(case["index"]): case["valid_mask"][0] for case in examples}
    regions = {case: opened.regions(case).get("cardiac silhouette") for case in films}
    inside = [float(region[films[case]].float().mean()) for case, region in regions.items() if region is not None]
    assert float(chance) == pytest.approx(np.mean(inside), abs=6e-4)
    assert (found / "report" / "figures" / "findings.png").is_file()
    printed = run_gazelit(
        "fit", "--config=presets/quick/finding_conditional.yaml", *tiny(2, store), "--model.network.findings=[lung]",
        "--trainer.fast_dev_run=true", code=2,
    )  # fmt: skip
    assert "data.gaze.phrases: names cardiac silhouette, but the network has maps of lung" in printed
    printed = run_gazelit(
        "fit", "--config=presets/quick/finding_conditional.yaml", *tiny(2, store),
        "--data.gaze.phrases={cardiac silhouette: hert}", "--trainer.fast_dev_run=true", code=2,
    )  # fmt: skip
    assert "data.gaze.phrases.cardiac silhouette: matches nothing that was said over a training film" in printed


def test_findings_that_would_share_a_column_are_refused(store, run_gazelit):
    names = "{nodule (left): heart, 'Nodule, left': bones}"
    printed = run_gazelit(
        "fit", "--config=presets/quick/finding_conditional.yaml", *tiny(2, store), f"--data.gaze.phrases={names}",
        "--model.network.findings=['nodule (left)','Nodule, left']", "--trainer.fast_dev_run=true", code=2,
    )  # fmt: skip
    assert "'nodule (left)' and 'Nodule, left' differ in case or punctuation alone" in printed
