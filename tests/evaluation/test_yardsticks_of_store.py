"""Yardsticks are scored on the fixations that a network of scanpaths is scored on."""

import numpy as np
import pytest
import torch

from gazelit.data.cohort import Scanpath
from gazelit.data.datamodule import GazeDataModule
from gazelit.data.options import LoaderOptions
from gazelit.evaluation.scanpaths.of_store import _mean_scores, static_map_yardsticks
from gazelit.metrics.scanpath import multimatch
from gazelit.models.scanpath_net import ScanpathNetwork

LONGEST = 5


@pytest.fixture(scope="module")
def data(read_twice):
    return GazeDataModule(str(read_twice), loader=LoaderOptions(batch_size=6, num_workers=0))


def test_a_static_map_is_scored_on_the_fixations_that_the_network_sees(data):
    torch.manual_seed(0)
    encoder = {"name": "res-se", "options": {"widths": [4, 8], "reduction": 4}}
    network = ScanpathNetwork(encoder, map_stride=2, width=16, longest=LONGEST, regions=4).eval()
    bits = static_map_yardsticks(data, network)[0].films.set_index("index")["scanpath_bits"]
    batch = data.render(next(iter(data.loader("test"))))
    with torch.no_grad():
        maps = network(batch["image"])["saliency_logits"][:, 0].double()
    assert len(batch["index"]) > 2
    for row, logits in zip(batch["index"].tolist(), maps, strict=True):
        outside = ~data.valid_mask(row)
        bias = data.centre_bias(torch.tensor([row])).density[0].double().log()
        gain = torch.stack([each.masked_fill(outside, -torch.inf).flatten().log_softmax(0) for each in (logits, bias)])
        gain = (gain[0] - gain[1]).view_as(logits) / np.log(2)
        paths = [each.path[:LONGEST, :2] for each in data.cohort.scanpaths("test") if each.row == row]
        x, y = np.floor(np.concatenate(paths) + 0.5).astype(int).T
        assert bits[row] == pytest.approx(gain[y, x].mean().item(), abs=1e-6)


def test_a_draw_without_a_value_leaves_the_mean_to_the_others(data):
    generator = np.random.default_rng(0)

    def path(fixations):
        return np.column_stack([generator.uniform(2, 60, (fixations, 2)), generator.uniform(0.1, 0.5, fixations)])

    # MultiMatch compares saccades, and is not defined for two fixations.
    drawn, read = [path(6), path(2), path(7)], path(8)
    found = _mean_scores(data, [Scanpath(3, 0, read - [0.5, 0.5, 0])], [0], [[each] for each in drawn])
    expected = [multimatch(drawn[number], read, size=data.size[::-1]).mean for number in (0, 2)]
    assert found["scanpath_multimatch"].item() == pytest.approx(np.mean(expected))
