import numpy as np
import pytest
import torch

from gazelit.data.datamodule import GazeDataModule
from gazelit.evaluation.yardsticks import score_maps, yardsticks


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
