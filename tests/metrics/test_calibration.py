"""Temperature scaling."""

import pytest
import torch
from torch.nn import functional as F

from gazelit.errors import InputError
from gazelit.metrics.calibration import BOUNDS, fit_temperature, negative_log_likelihood, probabilities


def test_the_temperature_that_made_the_labels_is_found_again():
    torch.manual_seed(0)
    logits = torch.randn(40_000, 3) * 2
    label = torch.multinomial((logits / 2.5).softmax(1), 1)[:, 0]
    temperature = fit_temperature(logits, label)
    assert temperature.shape == (3,)
    assert temperature[0].item() == pytest.approx(2.5, rel=0.03)


def test_it_is_the_minimum_of_the_likelihood_on_a_grid():
    torch.manual_seed(1)
    logits, label = torch.randn(60, 3) * 4, torch.randint(0, 3, (60,))
    best = fit_temperature(logits, label)
    grid = torch.logspace(-1.3, 1.3, 400)
    losses = torch.stack([F.cross_entropy(logits / temperature, label) for temperature in grid])
    assert negative_log_likelihood(logits, label, best) <= losses.min().item() + 1e-6


def test_several_labels_have_a_temperature_each_fitted_to_known_labels():
    torch.manual_seed(2)
    logits = torch.randn(30_000, 3) * 2
    truth = torch.bernoulli((logits / torch.tensor([0.5, 3.0, 1.0])).sigmoid())
    truth[::3, 1] = torch.nan
    truth[:, 2] = torch.nan
    temperature = fit_temperature(logits, truth)
    assert temperature.tolist() == pytest.approx([0.5, 3.0, 1.0], rel=0.05)
    expected = (logits / temperature).sigmoid()
    assert torch.allclose(probabilities(logits, temperature, exclusive=False), expected)


def test_a_label_that_never_varies_and_a_model_that_is_always_right():
    logits = torch.tensor([[3.0], [2.0]])
    assert fit_temperature(logits, torch.ones(2, 1)).tolist() == [1.0]
    sure = fit_temperature(torch.tensor([[4.0, 0.0], [0.0, 4.0]]), torch.tensor([0, 1]))
    assert BOUNDS[0] <= sure[0].item() < 0.1


def test_logits_that_are_not_numbers():
    with pytest.raises(InputError, match="not finite"):
        fit_temperature(torch.tensor([[torch.nan, 0.0]]), torch.tensor([0]))
