"""PCGrad against its algorithm in NumPy, and on several processes."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from gazelit.losses import GradientSurgery
from tests.ranks import on_ranks


def projected(gradients):
    result = np.zeros_like(gradients[0])
    for own in gradients:
        freed = own.copy()
        for opponent in gradients:
            if opponent is not own and freed @ opponent < 0:
                freed -= (freed @ opponent) / (opponent @ opponent) * opponent
        result += freed
    return result


def losses(parameter):
    return {"diagnosis": (parameter * torch.tensor([1.0, 2.0, 0.0])).sum(), "saliency": (parameter**2).sum() / 2}


@pytest.mark.parametrize("start", [[1.0, 1.0, 1.0], [-3.0, -1.0, 2.0]])
def test_opposed_gradients_are_projected_and_others_added(start):
    parameter = nn.Parameter(torch.tensor(start))
    total = GradientSurgery()(losses(parameter), [parameter])
    assert total.item() == pytest.approx(sum(loss.item() for loss in losses(parameter).values()))
    total.backward()
    gradients = [np.array([1.0, 2.0, 0.0]), np.array(start)]
    assert parameter.grad.numpy() == pytest.approx(projected(gradients), abs=1e-6)
    if gradients[0] @ gradients[1] < 0:
        # The step makes neither task worse.
        assert all(parameter.grad.numpy() @ gradient > -1e-6 for gradient in gradients)


def test_parameters_that_one_task_does_not_reach_keep_the_others_gradient():
    shared, alone = nn.Parameter(torch.tensor([1.0, -1.0])), nn.Parameter(torch.tensor([2.0]))
    GradientSurgery()({"diagnosis": shared.sum(), "saliency": (alone**2).sum()}, [shared, alone]).backward()
    assert shared.grad.tolist() == [1.0, 1.0]
    assert alone.grad.tolist() == [4.0]


def test_without_parameters_it_is_the_sum():
    assert GradientSurgery()({"a": torch.tensor(1.0), "b": torch.tensor(2.0)}).item() == 3


IMAGES = torch.randn(8, 5, generator=torch.Generator().manual_seed(0))


def step(model, images):
    parameters = list(model.parameters())
    outputs = model(images)
    pair = {"diagnosis": outputs[:, 0].mean(), "saliency": (outputs[:, 1] - outputs[:, 0]).tanh().mean()}
    GradientSurgery()(pair, parameters).backward()
    return [parameter.grad for parameter in parameters]


def network():
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 2))


def project_share(rank, world, folder):
    model = DistributedDataParallel(network())
    for _ in range(2):
        # Two steps, because DDP reports in the second step the hooks that the first did not reach.
        model.zero_grad()
        gradients = step(model, IMAGES[rank * 4 : rank * 4 + 4])
    torch.save(gradients, folder / f"{rank}.pt")


def test_two_processes_project_as_one_with_the_whole_batch(tmp_path):
    on_ranks(project_share, 2, tmp_path)
    expected = step(network(), IMAGES)
    for rank in range(2):
        for ours, of_rank in zip(expected, torch.load(tmp_path / f"{rank}.pt", weights_only=True), strict=True):
            assert torch.allclose(ours, of_rank, rtol=1e-5, atol=1e-7)
