import numpy as np
import pytest
import torch
from sklearn.metrics import accuracy_score, balanced_accuracy_score, roc_auc_score

from gazelit.metrics import DiagnosisMetrics

NAMES = ["Normal", "CHF", "pneumonia"]


def test_exclusive_classes_equal_scikit_learn():
    torch.manual_seed(0)
    probabilities, label = torch.rand(60, 3).softmax(1), torch.randint(0, 3, (60,))
    metrics = DiagnosisMetrics(NAMES)
    for start in range(0, 60, 25):
        metrics.update(probabilities[start : start + 25], label[start : start + 25])
    result = {key: value.item() for key, value in metrics.compute().items()}
    assert result["auroc_macro"] == pytest.approx(
        roc_auc_score(label, probabilities.double(), multi_class="ovr"), abs=1e-6
    )
    for number, name in enumerate(NAMES):
        assert result[f"auroc_{name}"] == pytest.approx(
            roc_auc_score(label == number, probabilities[:, number]), abs=1e-6
        )
    chosen = probabilities.argmax(1)
    assert result["accuracy"] == pytest.approx(accuracy_score(label, chosen))
    assert result["balanced_accuracy"] == pytest.approx(balanced_accuracy_score(label, chosen))


def test_an_absent_class_has_no_auc_and_the_macro_is_over_the_others():
    torch.manual_seed(1)
    probabilities, label = torch.rand(20, 3).softmax(1), torch.arange(20) % 2
    metrics = DiagnosisMetrics(NAMES)
    metrics.update(probabilities, label)
    result = metrics.compute()
    assert torch.isnan(result["auroc_pneumonia"])
    assert result["auroc_macro"].item() == pytest.approx((result["auroc_Normal"] + result["auroc_CHF"]).item() / 2)


def test_unknown_labels_of_a_multi_label_problem_do_not_count():
    rng = np.random.default_rng(0)
    probabilities = rng.random((50, 2))
    labels = rng.integers(0, 2, (50, 2)).astype(float)
    labels[rng.random((50, 2)) < 0.3] = np.nan
    metrics = DiagnosisMetrics(["a", "b"], exclusive=False)
    metrics.update(torch.from_numpy(probabilities), torch.from_numpy(labels))
    result = metrics.compute()
    for column, name in enumerate("ab"):
        known = ~np.isnan(labels[:, column])
        expected = roc_auc_score(labels[known, column], probabilities[known, column])
        assert result[f"auroc_{name}"].item() == pytest.approx(expected, abs=1e-6)
