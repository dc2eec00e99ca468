"""The contrastive objective on several processes equals that of one with the whole batch."""

import pytest
import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from gazelit.losses import BatchAllTripletLoss, DynamicWeightAverage
from gazelit.losses.gather import gather_rows
from tests.ranks import on_ranks

IMAGES, LABELS = torch.randn(16, 10, generator=torch.Generator().manual_seed(0)), torch.arange(16) % 3


def network():
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(10, 12), nn.ReLU(), nn.Linear(12, 6))


def share_of_batch(rank, world, folder):
    model = DistributedDataParallel(network())
    share = slice(rank * 16 // world, (rank + 1) * 16 // world)
    embedding, label = gather_rows(model(IMAGES[share])), gather_rows(LABELS[share])
    loss = BatchAllTripletLoss()(embedding, label)
    loss.backward()
    torch.save((loss.detach(), [parameter.grad for parameter in model.parameters()]), folder / f"{rank}.pt")


@pytest.mark.parametrize("world", [2, 4])
def test_loss_and_gradients_equal_one_process_with_the_whole_batch(world, tmp_path):
    on_ranks(share_of_batch, world, tmp_path)
    model = network()
    loss = BatchAllTripletLoss()(model(IMAGES), LABELS)
    loss.backward()
    for rank in range(world):
        gathered, gradients = torch.load(tmp_path / f"{rank}.pt", weights_only=True)
        assert gathered.item() == pytest.approx(loss.item(), rel=1e-5)
        for ours, gradient in zip(model.parameters(), gradients, strict=True):
            assert torch.allclose(ours.grad, gradient, rtol=1e-5, atol=1e-7)


def weigh(rank, world, folder):
    weighting = DynamicWeightAverage()
    for losses in ((1.0 + rank, 2.0), (0.5, 1.0 + rank)):
        weighting({"diagnosis": torch.tensor(losses[0]), "saliency": torch.tensor(losses[1])})
        weighting.begin_epoch()
    torch.save(weighting.weights, folder / f"{rank}.pt")


def test_dynamic_weights_are_those_of_all_processes_together(tmp_path):
    on_ranks(weigh, 2, tmp_path)
    alone = DynamicWeightAverage()
    for losses in ((1.5, 2.0), (0.5, 1.5)):
        alone({"diagnosis": torch.tensor(losses[0]), "saliency": torch.tensor(losses[1])})
        alone.begin_epoch()
    for rank in range(2):
        assert torch.allclose(torch.load(tmp_path / f"{rank}.pt", weights_only=True), alone.weights)


def test_a_single_process_gathers_itself():
    assert gather_rows(IMAGES) is IMAGES
