import numpy as np
import pytest
import torch
from sklearn.metrics import (
    accuracy_score,
    average_precision_score,
    balanced_accuracy_score,
    f1_score,
    roc_auc_score,
    roc_curve,
)
from sklearn.preprocessing import label_binarize

from gazelit.metrics import DiagnosisMetrics
from gazelit.metrics.diagnosis import expected_calibration_error

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


def test_every_other_metric_equals_scikit_learn():
    torch.manual_seed(3)
    probabilities = torch.rand(200, 3).softmax(1)
    labels = torch.randint(0, 3, (200,))
    metrics = DiagnosisMetrics(["a", "b", "c"])
    metrics.update(probabilities, labels)
    values = {key: value.item() for key, value in metrics.compute().items()}
    truth = label_binarize(labels, classes=[0, 1, 2])
    chosen = probabilities.argmax(1)
    assert values["auroc_micro"] == pytest.approx(roc_auc_score(truth.ravel(), probabilities.ravel()), abs=1e-6)
    assert values["ap_macro"] == pytest.approx(average_precision_score(truth, probabilities, average="macro"), abs=1e-6)
    assert values["f1_macro"] == pytest.approx(f1_score(labels, chosen, average="macro"), abs=1e-6)
    assert values["balanced_accuracy"] == pytest.approx(balanced_accuracy_score(labels, chosen), abs=1e-6)
    squares = (probabilities.numpy() - truth) ** 2
    assert values["brier"] == pytest.approx(squares.sum(1).mean(), abs=1e-6)
    for position, name in enumerate("abc"):
        false, true, _ = roc_curve(truth[:, position], probabilities[:, position], drop_intermediate=False)
        assert values[f"sensitivity_{name}"] == pytest.approx(true[false <= 0.1].max(), abs=1e-6)


def test_calibration_error_by_its_definition_and_of_a_perfect_model():
    torch.manual_seed(4)
    confidence = torch.rand(40)
    right = torch.randint(0, 2, (40,)).float()
    order = np.argsort(confidence.numpy(), kind="stable")
    expected = sum(
        len(part) / 40 * abs(confidence.numpy()[part].mean() - right.numpy()[part].mean())
        for part in np.array_split(order, 5)
    )
    assert expected_calibration_error(confidence, right, bins=5).item() == pytest.approx(expected, abs=1e-6)
    many = torch.rand(100_000)
    assert expected_calibration_error(many, torch.bernoulli(many)).item() < 0.01
    assert expected_calibration_error(torch.tensor([0.8]), torch.tensor([1.0])).item() == pytest.approx(0.2)


def test_several_labels_with_unknowns_equal_scikit_learn_on_the_known_ones():
    torch.manual_seed(5)
    probabilities, truth = torch.rand(80, 2), torch.randint(0, 2, (80, 2)).float()
    truth[::4, 1] = torch.nan
    metrics = DiagnosisMetrics(["a", "b"], exclusive=False)
    metrics.update(probabilities, truth)
    values = metrics.compute()
    known = ~truth.isnan()
    assert values["brier"].item() == pytest.approx(((probabilities - truth)[known] ** 2).mean().item(), abs=1e-6)
    ours = known[:, 1]
    assert values["f1_b"].item() == pytest.approx(f1_score(truth[ours, 1], probabilities[ours, 1] >= 0.5), abs=1e-6)
    assert values["ap_b"].item() == pytest.approx(
        average_precision_score(truth[ours, 1], probabilities[ours, 1]), abs=1e-6
    )


def test_a_single_case_has_no_silent_numbers():
    metrics = DiagnosisMetrics(["a", "b"])
    metrics.update(torch.tensor([[0.7, 0.3]]), torch.tensor([0]))
    values = metrics.compute()
    assert values["auroc_macro"].isnan()
    assert values["accuracy"].item() == 1
    assert values["ece"].item() == pytest.approx(0.3)
