"""Controls: gaze of another patient, gaze drawn from all cases, and no gaze; and that gaze reaches the model at all."""

import lightning as L
import numpy as np
import pytest
import torch

from gazelit.data.datamodule import GazeDataModule
from gazelit.data.options import GazeOptions
from gazelit.errors import InputError
from gazelit.models import DualEncoderUNet, EncoderSpec
from gazelit.stages import JointFinetuning
from tests.tiny import grouped


def module(store, **options):
    datamodule = GazeDataModule(str(store), **grouped(batch_size=6, num_workers=0, augment=False, **options))
    datamodule.setup()
    return datamodule


def maps(data, split):
    return torch.cat([data.render(batch)["heatmap"] for batch in data.loader(split)])


def test_shuffled_gaze_is_that_of_another_patients_film_and_all_of_it_is_used(store):
    own, shuffled = module(store), module(store, gaze_control="shuffled")
    rows = own.rows("train")
    patients = own.store.cases["patient_id"].to_numpy()[rows]
    true_maps = maps(own, "train").flatten(1)
    donors = [int((true_maps - map_).abs().sum(1).argmin()) for map_ in maps(shuffled, "train").flatten(1)]
    assert sorted(donors) == list(range(len(rows)))
    assert (patients != patients[donors]).all()
    assert torch.equal(maps(own, "test"), maps(shuffled, "test"))
    assert not torch.equal(maps(own, "val"), maps(shuffled, "val"))


def test_centre_gaze_is_drawn_from_the_training_points(store):
    own, centre = module(store), module(store, gaze_control="centre")
    points = {
        tuple(point) for row in own.rows("train") for reading, _ in own.readings(row) for point in reading.tolist()
    }
    for row in own.rows("train"):
        drawn = torch.cat([reading for reading, _ in centre.readings(row)])
        assert len(drawn) == sum(len(reading) for reading, _ in own.readings(row))
        assert {tuple(point) for point in drawn.tolist()} <= points
    # Its maps depend little on their film: they are more alike than the readers' own maps.
    spread = [maps(control, "train").std(dim=0).mean() for control in (own, centre)]
    assert spread[1] < spread[0]


def test_none_and_some_cases_have_no_gaze_and_larger_numbers_hold_the_smaller(store):
    def seen(**options):
        data = module(store, **options)
        return {int(row) for row in data.rows("train") if data.readings(int(row))}

    everyone = seen()
    assert seen(gaze_control="none") == set()
    few, more = seen(gaze_cases=4), seen(gaze_cases=9)
    assert (len(few), len(more)) == (4, 9)
    assert few < more < everyone
    assert module(store, gaze_cases=4).provenance["gaze_cases"] == 4
    with pytest.raises(InputError, match=r"gaze\.cases: must be at least 0"):
        GazeDataModule(str(store), gaze=GazeOptions(cases=-1))


def test_gaze_reaches_the_model(store, tmp_path):
    # A published loader feeds zeros. Here other gaze must lead to other weights, in both encoder and decoder.
    weights = {}
    for control in ("true", "shuffled", "none"):
        L.seed_everything(0)
        network = DualEncoderUNet(
            EncoderSpec("densenet-small"),
            EncoderSpec("res-se", options={"widths": [4, 4, 8, 8, 8], "reduction": 4}),
            [8, 8, 8, 4, 4],
        )
        trainer = L.Trainer(
            max_steps=2, limit_val_batches=0, accelerator="cpu", logger=False, enable_checkpointing=False,
            enable_progress_bar=False, enable_model_summary=False, default_root_dir=tmp_path,
        )  # fmt: skip
        trainer.fit(JointFinetuning(network), module(store, gaze_control=control))
        weights[control] = {key: value.detach().clone() for key, value in network.named_parameters()}
    for replaced in ("shuffled", "none"):
        moved = {
            key.split(".")[0]
            for key, value in weights["true"].items()
            if not torch.equal(value, weights[replaced][key])
        }
        assert moved >= {"encoder", "saliency_encoder", "decoder", "saliency_head"}
    # Without gaze the saliency head has nothing to learn from.
    torch.manual_seed(0)
    heads = [key for key in weights["none"] if key.startswith("saliency_head.1")]
    assert heads
    assert all(np.isfinite(weights["none"][key].numpy()).all() for key in heads)


def test_finding_c13_the_centre_bias_is_that_of_the_readers_own_gaze(store):
    own = module(store)
    index = torch.from_numpy(own.rows("test"))
    expected = own.centre_bias(index)
    assert expected.counts.sum() > 0
    for options in (
        {"gaze_control": "shuffled"},
        {"gaze_control": "centre"},
        {"gaze_control": "none"},
        {"gaze_cases": 2},
    ):
        controlled = module(store, **options)
        bias = controlled.centre_bias(index)
        assert torch.equal(bias.density, expected.density)
        assert torch.equal(bias.counts, expected.counts)
        # σ is that of the maps against which all models are scored.
        assert controlled.provenance["sigma_px"] == own.provenance["sigma_px"]
