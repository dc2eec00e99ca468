"""Nearest neighbours and linear probe against scikit-learn's, fitted image by image."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import Ridge
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import LeaveOneOut, cross_val_predict
from sklearn.neighbors import KNeighborsClassifier

from gazelit.metrics import EmbeddingMetrics
from gazelit.metrics.embedding import NEIGHBOURS, PENALTY, neighbour_share, ridge_probe

NAMES = ["Normal", "CHF", "pneumonia"]


@pytest.fixture(scope="module")
def embedded():
    rng = np.random.default_rng(0)
    label = np.arange(60) % 3
    features = rng.normal(size=(60, 8)) * np.linspace(0.1, 3, 8) + 5
    features[:, :3] += 0.8 * np.eye(3)[label] * np.linspace(0.1, 3, 8)[:3]
    return torch.tensor(features, dtype=torch.float32), torch.tensor(label)


def test_the_probe_is_ridge_regression_without_the_image(embedded):
    features, label = embedded
    x = features.double().numpy()
    scaled = (x - x.mean(0)) / x.std(0)
    # A fit without one of N cases keeps the penalty of all N.
    model = Ridge(alpha=PENALTY * len(x))
    expected = cross_val_predict(model, scaled, (label == 1).numpy().astype(float), cv=LeaveOneOut())
    assert np.allclose(ridge_probe(features, (label == 1).float()).numpy(), expected, atol=1e-8)


def test_neighbours_are_scikit_learns_without_the_image(embedded):
    features, label = embedded
    model = KNeighborsClassifier(NEIGHBOURS, metric="cosine")
    chance = cross_val_predict(model, features.numpy(), label.numpy() == 2, cv=LeaveOneOut(), method="predict_proba")
    assert np.allclose(neighbour_share(features, (label == 2).float()).numpy(), chance[:, 1], atol=1e-6)
    few = neighbour_share(features[:5], (label[:5] == 0).float())
    assert few.tolist() == pytest.approx([((label[:5] == 0).sum() - own).item() / 4 for own in (label[:5] == 0).int()])


def test_blocks_of_rows_are_one_matrix(embedded, monkeypatch):
    features, label = embedded
    whole = neighbour_share(features, (label == 2).float())
    monkeypatch.setattr("gazelit.metrics.embedding._ROWS", 7)
    assert torch.equal(neighbour_share(features, (label == 2).float()), whole)


def test_macro_aucs_are_scikit_learns(embedded):
    features, label = embedded
    metrics = EmbeddingMetrics(NAMES)
    for part in (slice(0, 25), slice(25, 60)):
        metrics.update(features[part], label[part])
    values = metrics.compute()
    for name, score in (("knn", neighbour_share), ("probe", ridge_probe)):
        each = [roc_auc_score((label == k).numpy(), score(features, (label == k).float()).numpy()) for k in range(3)]
        assert float(values[f"{name}_auroc_macro"]) == pytest.approx(np.mean(each), abs=1e-6)


def test_unknown_labels_and_constant_classes_do_not_count(embedded):
    features, label = embedded
    labels = torch.nn.functional.one_hot(label, 3).float()
    labels[:, 0] = 1.0
    labels[::4, 1] = torch.nan
    metrics = EmbeddingMetrics(NAMES, exclusive=False)
    metrics.update(features, labels)
    known = ~labels[:, 1].isnan()
    each = [
        roc_auc_score(labels[known, 1].numpy(), ridge_probe(features[known], labels[known, 1]).numpy()),
        roc_auc_score(labels[:, 2].numpy(), ridge_probe(features, labels[:, 2]).numpy()),
    ]
    assert float(metrics.compute()["probe_auroc_macro"]) == pytest.approx(np.mean(each), abs=1e-6)


def test_without_classes_there_are_no_metrics(embedded):
    metrics = EmbeddingMetrics([], exclusive=False)
    metrics.update(embedded[0], torch.zeros(60, 0))
    assert metrics.compute() == {}
    alone = EmbeddingMetrics(NAMES)
    alone.update(embedded[0][:6], torch.zeros(6, dtype=torch.long))
    assert all(value.isnan() for value in alone.compute().values())


def test_constant_features_do_not_break_the_probe():
    features = torch.ones(12, 4)
    positive = (torch.arange(12) % 2).float()
    assert ridge_probe(features, positive).isfinite().all()
