import numpy as np
import pytest
import torch

from gazelit.data.datamodule import GazeDataModule
from gazelit.data.gaze.heatmap import fixation_density
from gazelit.data.options import LoaderOptions, SplitOptions
from gazelit.errors import InputError
from gazelit.evaluation.yardsticks import reader_ceiling, score_maps, share_of_the_way, yardsticks


@pytest.fixture(scope="module")
def datamodule(store):
    module = GazeDataModule(str(store), loader=LoaderOptions(num_workers=0, batch_size=5))
    module.setup()
    return module


def test_the_centre_bias_is_the_mean_of_the_training_maps_alone(datamodule):
    maps = torch.cat([datamodule.render(batch)["heatmap"] for batch in datamodule.loader("train")])
    expected = maps.mean(dim=(0, 1))
    bias = datamodule.mean_map(datamodule.rows("train"))
    both = datamodule.centre_bias(torch.tensor([0, 1]))
    assert torch.equal(both.density, bias.density.expand(2, -1, -1))
    assert torch.equal(both.counts, bias.counts.expand(2, -1, -1))
    # The mean has one more case, whose density is uniform.
    expected = (expected * len(maps) + 1 / expected.numel()) / (len(maps) + 1)
    assert torch.allclose(bias.density, expected, atol=1e-8)
    assert bias.density.min() > 0
    points = torch.cat([batch["points"].flatten(0, 1) for batch in datamodule.loader("train")])
    assert bias.counts.sum() == (points[:, 2] > 0).sum()


def test_yardsticks_have_their_known_values(datamodule):
    scores = yardsticks(datamodule)
    assert scores["baseline/uniform/cc"] == 0
    assert scores["baseline/uniform/nss"] == 0
    assert scores["baseline/uniform/auc_judd"] == 0.5
    assert scores["baseline/centre/ig"] == pytest.approx(0, abs=1e-9)
    assert scores["baseline/uniform/ig"] < 0
    assert scores["baseline/centre/emd"] < scores["baseline/uniform/emd"]
    assert scores["baseline/chance/auroc_macro"] == 0.5
    assert min(scores["baseline/centre/cc"], scores["baseline/gaussian/cc"]) > 0.2
    assert not [key for key, value in scores.items() if np.isnan(value)]


def test_a_map_that_is_the_target_is_perfect(datamodule):
    scores = score_maps(datamodule, lambda batch, bias: {"itself": batch["heatmap"][:, 0]})["itself"]
    assert (scores["cc"], scores["sim"]) == pytest.approx((1, 1))
    assert scores["kld"] == pytest.approx(0, abs=1e-9)


def test_the_class_centre_is_the_mean_of_the_maps_of_the_cases_class(datamodule):
    train = [datamodule.render(rendered) for rendered in datamodule.loader("train")]
    maps, labels = (torch.cat([rendered[key] for rendered in train]) for key in ("heatmap", "label"))
    even = torch.full_like(maps[:1, 0], 1 / maps[0].numel())
    by_class = torch.stack([torch.cat([maps[labels == number, 0], even]).mean(0) for number in range(3)])
    expected = score_maps(datamodule, lambda batch, bias: {"c": by_class[batch["label"]]})["c"]
    scores = yardsticks(datamodule)
    for metric in ("cc", "kld", "nss"):
        assert scores[f"baseline/class_centre/{metric}"] == pytest.approx(expected[metric], rel=1e-4)


def test_an_external_test_has_all_cases_of_other_patients_and_their_halves_as_centre_bias(store, datamodule):
    external = GazeDataModule(
        str(store), loader=LoaderOptions(num_workers=0, batch_size=5), split=SplitOptions(method="external")
    )
    assert len(external.rows("test")) == len(external.store.cases)
    assert len(external.rows("train")) == len(external.rows("val")) == 0
    index = torch.arange(len(external.store.cases))
    bias, patients = external.centre_bias(index), external.store.cases["patient_id"].to_numpy()
    # The centre biases are of two halves of the patients, so that no case is in the map that it is scored against.
    planes = bias.density.flatten(1).unique(dim=0)
    assert len(planes) == 2
    for row in range(len(patients)):
        same = [case for case in range(len(patients)) if torch.equal(bias.density[case], bias.density[row])]
        opposite = np.setdiff1d(np.arange(len(patients)), same)
        assert not set(patients[same]) & set(patients[opposite])
        assert torch.allclose(external.mean_map(opposite).density, bias.density[row], atol=1e-9)
    assert "baseline/class_centre/cc" not in yardsticks(external)
    with pytest.raises(InputError, match="no case is left"):
        GazeDataModule(str(store), split=SplitOptions(method="external", trained_on=str(store))).setup()
    with pytest.raises(InputError, match=r"goes with split\.method external"):
        GazeDataModule(str(store), split=SplitOptions(trained_on=str(store)))


def test_finding_f4_readers_are_scored_on_films_that_were_read_several_times(reflacx, tmp_path):
    from gazelit.data.sources import REFLACX
    from gazelit.data.store.prepare import prepare
    from gazelit.metrics.functional import cc

    store = prepare(REFLACX(reflacx / "reflacx", reflacx / "mimic-cxr"), tmp_path / "s", size=(64, 64), workers=1).path
    module = GazeDataModule(
        str(store),
        labels=[],
        exclusive=False,
        loader=LoaderOptions(num_workers=0),
        split=SplitOptions(method="official"),
    )
    values, expected = {}, {}
    for split in ("train", "val", "test"):
        values[split] = reader_ceiling(module, split)
        for row in module.rows(split):
            readings = module.readings(int(row))
            if len(readings) < 2:
                assert len(readings) == 1
                continue
            maps = [fixation_density(points[None], (64, 64), sigma[None])[0] for points, sigma in readings]
            mask = module.valid_mask(int(row))
            for place, map_ in enumerate(maps):
                peers = maps[:place] + maps[place + 1 :]
                expected.setdefault(len(peers), []).append(
                    cc(torch.stack(peers).mean(0)[None], map_[None], mask[None]).item()
                )
                expected.setdefault(1, []).append(
                    np.mean([cc(single[None], map_[None], mask[None]).item() for single in peers])
                )
    for size in (1, 4):
        read = [value for value in values.values() if f"baseline/reader_{size}/n" in value]
        assert sum(film[f"baseline/reader_{size}/n"] for film in read) == len(expected[size]) > 0
        total = sum(film[f"baseline/reader_{size}/cc"] * film[f"baseline/reader_{size}/n"] for film in read)
        assert total / len(expected[size]) == pytest.approx(np.mean(expected[size]), rel=1e-6)
    # The mean of more readers predicts a reader better.
    assert np.mean(expected[4]) > np.mean(expected[1])


def test_the_share_of_the_way_from_centre_bias_to_reader():
    assert share_of_the_way(0.6, 0.5, 0.7) == pytest.approx(0.5)
    # The share is right also if lower is better.
    assert share_of_the_way(0.4, 0.8, 0.3) == pytest.approx(0.8)
    assert share_of_the_way(0.6, 0.5, None) is None
