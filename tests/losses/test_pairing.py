"""Pairs of images that belong together, and NT-Xent over them."""

import numpy as np
import pytest
import torch
from pytorch_metric_learning.losses import NTXentLoss as TheirNTXent
from pytorch_metric_learning.losses import SelfSupervisedLoss
from torch.nn import functional as F

from gazelit.errors import InputError
from gazelit.losses import (
    BatchAllTripletLoss,
    BatchSemiHardTripletLoss,
    GazeSimilarity,
    NTXentLoss,
    SameClass,
    SameImage,
    SupervisedContrastiveLoss,
)
from tests.losses.test_objectives import triple_loop


def test_ntxent_equals_pytorch_metric_learning_on_two_views():
    torch.manual_seed(0)
    first, second = torch.randn(8, 5), torch.randn(8, 5)
    oracle = SelfSupervisedLoss(TheirNTXent(temperature=0.5))(first, second)
    image = torch.arange(8)
    assert NTXentLoss(0.5)(torch.cat([first, second]), image.repeat(2)).item() == pytest.approx(oracle.item(), rel=1e-5)


def test_a_matrix_of_pairs_gives_the_same_loss_as_labels():
    torch.manual_seed(0)
    embedding, label = torch.randn(12, 5), torch.randint(0, 3, (12,))
    pairs = label[:, None] == label[None, :]
    for loss in (BatchAllTripletLoss(), BatchSemiHardTripletLoss(), SupervisedContrastiveLoss()):
        assert loss(embedding, pairs).item() == pytest.approx(loss(embedding, label).item(), rel=1e-6)


def test_gaze_similarity_is_the_correlation_of_coarse_maps():
    torch.manual_seed(0)
    maps = torch.rand(6, 1, 32, 48)
    maps[1] = maps[0] + 0.05 * torch.rand(1, 32, 48)
    maps = maps / maps.sum(dim=(1, 2, 3), keepdim=True)
    coarse = np.array([map_[0].reshape(8, 4, 8, 6).mean((1, 3)).flatten().tolist() for map_ in maps])
    expected = np.corrcoef(coarse) >= 0.5
    batch = {"heatmap": maps, "has_gaze": torch.ones(6, dtype=torch.bool), "index": torch.arange(6)}
    together = GazeSimilarity(0.5, cells=8)(batch, gather=False)
    assert together.tolist() == expected.tolist()
    assert together[0, 1]
    assert not together[0, 2]


def test_images_without_gaze_belong_only_to_their_own_views():
    batch = {
        "heatmap": torch.zeros(3, 1, 32, 32),
        "has_gaze": torch.zeros(3, dtype=torch.bool),
        "index": torch.tensor([4, 9, 4]),
    }
    together = GazeSimilarity(0.0)(batch, gather=False)
    assert together.tolist() == [[True, False, True], [False, True, False], [True, False, True]]
    assert SameImage()(batch, gather=False).tolist() == [4, 9, 4]


def test_classes_must_be_exclusive():
    with pytest.raises(InputError, match="SameClass needs exclusive classes"):
        SameClass()({"label": torch.zeros(2, 3)}, gather=False)


@pytest.mark.parametrize(("options", "message"), [({"threshold": 2}, "threshold"), ({"cells": 1}, "cells")])
def test_wrong_similarity(options, message):
    with pytest.raises(InputError, match=message):
        GazeSimilarity(**options)


def test_batch_all_at_the_papers_size_equals_the_triple_loop_with_ties():
    torch.manual_seed(2)
    # Distances on a grid, so that many triplets lie exactly on the margin.
    embedding = torch.randint(0, 3, (32, 6)).float().requires_grad_()
    label = torch.randint(0, 3, (32,))
    expected = triple_loop(embedding, label, 1.0)
    loss = BatchAllTripletLoss()(embedding, label)
    assert loss.item() == pytest.approx(expected.mean().item(), rel=1e-5)


def test_batch_all_and_semi_hard_need_memory_of_the_batch_squared():
    # 1,500 images have over a billion triplets, which would take gigabytes to write out.
    torch.manual_seed(3)
    embedding, label = torch.randn(1500, 4, requires_grad=True), torch.randint(0, 3, (1500,))
    sample = torch.randperm(1500)[:40]
    for loss in (BatchAllTripletLoss(), BatchSemiHardTripletLoss()):
        loss(embedding, label).backward()
        assert embedding.grad.isfinite().all()
    distance = torch.cdist(embedding, embedding).detach()
    total = 0.0
    for anchor in sample.tolist():
        positive = (label == label[anchor]) & (torch.arange(1500) != anchor)
        terms = F.relu(distance[anchor, positive][:, None] - distance[anchor, label != label[anchor]][None, :] + 1.0)
        total += terms.double().sum().item() / 40
    count = sum(
        ((label == number).sum().item() - 1) * (label != number).sum().item() * (label == number).sum().item()
        for number in range(3)
    )
    assert BatchAllTripletLoss()(embedding, label).item() == pytest.approx(total * 1500 / count, rel=0.1)
