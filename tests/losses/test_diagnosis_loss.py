"""The diagnosis objective against torch's own losses, label by label."""

import pytest
import torch
import torch.nn.functional as F

from gazelit.errors import InputError
from gazelit.losses import DiagnosisLoss

NAN = float("nan")


def loss_of(loss, logits, label):
    return loss({"logits": logits}, {"label": label})


@pytest.mark.parametrize(("weights", "smoothing"), [(None, 0.0), ([1.0, 2.0, 0.5], 0.1)])
def test_exclusive_classes_are_torchs_cross_entropy(weights, smoothing):
    torch.manual_seed(0)
    logits, label = torch.randn(7, 3), torch.tensor([0, 1, 2, 0, 1, 2, 2])
    expected = torch.nn.CrossEntropyLoss(None if weights is None else torch.tensor(weights), label_smoothing=smoothing)(
        logits, label
    )
    assert torch.equal(loss_of(DiagnosisLoss(weights, smoothing), logits, label), expected)


def test_unknown_labels_have_no_part_in_loss_and_gradient():
    torch.manual_seed(0)
    logits = torch.randn(4, 3, requires_grad=True)
    label = torch.tensor([[1, 0, NAN], [NAN, NAN, NAN], [0, 1, 1], [NAN, 1, 0]])
    loss = loss_of(DiagnosisLoss(), logits, label)
    known = ~label.isnan()
    assert loss.item() == pytest.approx(
        F.binary_cross_entropy_with_logits(logits[known], label[known]).item(), rel=1e-6
    )
    loss.backward()
    assert (logits.grad[~known] == 0).all()
    assert (logits.grad[known] != 0).all()


def test_weights_and_smoothing_of_several_labels():
    logits, label = torch.tensor([[0.3, -1.2]]), torch.tensor([[1.0, 0.0]])
    loss = loss_of(DiagnosisLoss([3.0, 5.0], 0.2), logits, label)
    # Smoothed targets 0.9 and 0.1; a label's weight counts on its positive part.
    p = torch.sigmoid(logits[0])
    first = -(3 * 0.9 * p[0].log() + 0.1 * (1 - p[0]).log())
    second = -(5 * 0.1 * p[1].log() + 0.9 * (1 - p[1]).log())
    assert loss.item() == pytest.approx(((first + second) / 2).item(), rel=1e-6)


def test_a_batch_without_any_label_gives_zero_and_a_zero_gradient():
    logits = torch.randn(3, 2, requires_grad=True)
    loss = loss_of(DiagnosisLoss(), logits, torch.full((3, 2), NAN))
    loss.backward()
    assert loss.item() == 0
    assert (logits.grad == 0).all()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: DiagnosisLoss([1.0, 0.0]), "class_weights: must be above 0"),
        (lambda: DiagnosisLoss(label_smoothing=1.0), "label_smoothing"),
        (
            lambda: loss_of(DiagnosisLoss([1.0]), torch.zeros(2, 3), torch.zeros(2, dtype=torch.long)),
            "1 are given for 3",
        ),
    ],
)
def test_wrong_options(make, message):
    with pytest.raises(InputError, match=message):
        make()
