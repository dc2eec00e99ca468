import numpy as np
import pytest
import torch

from gazelit.data.datamodule import GazeDataModule
from gazelit.data.heatmap import fixation_density
from gazelit.evaluation.yardsticks import score_maps, share_of_the_way, yardsticks


@pytest.fixture(scope="module")
def datamodule(store):
    module = GazeDataModule(str(store), num_workers=0, batch_size=5)
    module.setup()
    return module


def test_the_centre_bias_is_the_mean_of_the_training_maps_alone(datamodule):
    maps = torch.cat([datamodule.render(batch)["heatmap"] for batch in datamodule.loader("train")])
    expected = maps.mean(dim=(0, 1))
    bias = datamodule.centre_bias()
    assert torch.allclose(bias.density, expected / expected.sum(), atol=1e-8)
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
    dataset = datamodule.dataset("test")
    batch = datamodule.render(next(iter(datamodule.loader("test"))))
    first = {key: value[:1] for key, value in batch.items()}
    scores = score_maps({"itself": first["heatmap"][0, 0]}, [first], datamodule.centre_bias())["itself"]
    assert (scores["cc"], scores["sim"]) == pytest.approx((1, 1))
    assert scores["kld"] == pytest.approx(0, abs=1e-9)
    assert len(dataset) > 0


def test_another_reader_is_scored_on_films_that_were_read_twice(reflacx, tmp_path):
    from gazelit.data.prepare import prepare
    from gazelit.data.sources import REFLACX
    from gazelit.evaluation.yardsticks import another_reader
    from gazelit.metrics.functional import cc

    store = prepare(REFLACX(reflacx / "reflacx", reflacx / "mimic-cxr"), tmp_path / "s", size=(64, 64), workers=1).path
    module = GazeDataModule(str(store), labels=[], exclusive=False, num_workers=0, split_method="official")
    values, expected = {}, []
    for split in ("train", "val", "test"):
        values[split] = another_reader(module, split)
        for row in module.rows(split):
            readings = module.readings(int(row))
            if len(readings) < 2:
                assert len(readings) == 1
                continue
            maps = [fixation_density(points[None], (64, 64), sigma[None])[0] for points, sigma in readings]
            mask = module.valid_mask(int(row))
            for place, one in enumerate(maps):
                others = torch.stack(maps[:place] + maps[place + 1 :]).mean(0)
                expected.append(cc(others[None], one[None], mask[None]).item())
    read = {split: one for split, one in values.items() if one}
    assert sum(one["baseline/reader/n"] for one in read.values()) == len(expected) > 0
    mean = sum(one["baseline/reader/cc"] * one["baseline/reader/n"] for one in read.values()) / len(expected)
    assert mean == pytest.approx(np.mean(expected), rel=1e-6)


def test_the_share_of_the_way_from_centre_bias_to_reader():
    assert share_of_the_way(0.6, 0.5, 0.7) == pytest.approx(0.5)
    # Also where lower is better.
    assert share_of_the_way(0.4, 0.8, 0.3) == pytest.approx(0.8)
    assert share_of_the_way(0.6, 0.5, None) is None
