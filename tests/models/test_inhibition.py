"""Traces of what was seen: closed forms, and chances by enumeration and by simulation."""

import itertools
import math

import numpy as np
import pytest
import torch
from scipy import stats

from gazelit.models.inhibition import Course, Inhibition, Traces
from gazelit.models.regions import region_chance


def course(taken, restored, noticed=0.0):
    return Course(*(torch.tensor([[value]], dtype=torch.float64) for value in (taken, restored, noticed)))


def traces_after(course, shares):
    traces = Traces.fresh(course.noticed)
    for share in shares:
        traces = course.after(traces, torch.tensor([[share]], dtype=torch.float64))
    return traces


def test_without_rest_every_look_takes_the_same_share():
    of_three = traces_after(course(0.3, 0.0), [1, 0, 1, 1, 0])
    assert course(0.3, 0.0).gained(of_three).item() == pytest.approx(3 * math.log(0.7))


def test_ease_comes_back_as_an_exponential():
    for waited in range(12):
        traces = traces_after(course(1.0, 0.2), [1] + [0] * waited)
        assert traces.ease.item() == pytest.approx(1 - 0.8**waited)


def test_unseen_is_the_chance_that_no_look_was_there():
    shares = [0.5, 0.1, 0.7, 0.25]
    none = 0.0
    for looks in itertools.product([False, True], repeat=len(shares)):
        chance = math.prod(share if look else 1 - share for share, look in zip(shares, looks, strict=True))
        none += chance * (not any(looks))
    traces = traces_after(course(0.0, 0.0, 2.0), shares)
    assert traces.unseen.item() == pytest.approx(none)
    assert course(0.0, 0.0, 2.0).gained(traces).item() == pytest.approx(2 * (1 - none))


def test_ease_is_its_mean_over_where_the_looks_were():
    """The ease is linear in each look, so that its mean over independent looks is exact."""
    shares, rng = [0.5, 0.1, 0.7], np.random.default_rng(0)
    drawn = []
    for _ in range(4000):
        ease = 1.0
        for share in shares:
            ease = ease + 0.1 * (1 - ease)
            if rng.random() < share:
                ease -= 0.6 * ease
        drawn.append(ease)
    error = np.std(drawn) / np.sqrt(len(drawn))
    assert traces_after(course(0.6, 0.1), shares).ease.item() == pytest.approx(np.mean(drawn), abs=4 * error)


def test_where_a_look_was_follows_from_place_and_weights():
    """Draws from three Gaussians: of those that land near a point, the shares that each Gaussian had drawn."""
    rng, weight, centre = np.random.default_rng(0), np.array([0.6, 0.3, 0.1]), np.array([0.0, 1.0, 3.0])
    which = rng.choice(3, 400_000, p=weight)
    near = np.abs(centre[which] + rng.standard_normal(len(which)) - 1.2) < 0.02
    found = np.bincount(which[near], minlength=3) / near.sum()
    at = torch.tensor(stats.norm.pdf(1.2, centre), dtype=torch.float32)
    chance = region_chance(torch.tensor(weight).log().float() + 5.0, at)
    assert chance.tolist() == pytest.approx(found, abs=4 * np.sqrt(0.25 / near.sum()))


def test_a_look_far_from_all_regions_is_of_none_and_gradients_are_finite():
    torch.manual_seed(0)
    inhibition = Inhibition(4)
    with torch.no_grad():
        # All of the ease is taken.
        inhibition.courses.bias[0] = 80.0
    token, log_weight = torch.randn(2, 3, 4), torch.zeros(2, 5, 3, requires_grad=True)
    at = torch.rand(2, 5, 3)
    at[0, 1] = 0
    found = inhibition(token, log_weight, at)
    assert found.isfinite().all()
    found.softmax(-1)[..., 0].sum().backward()
    assert log_weight.grad.isfinite().all()
    assert region_chance(log_weight[0, 1], at[0, 1]).tolist() == [0, 0, 0]


def test_a_fixation_changes_nothing_before_it_and_regions_have_courses_of_their_own():
    torch.manual_seed(0)
    inhibition, token = Inhibition(4), torch.randn(1, 3, 4)
    log_weight, at = torch.randn(1, 6, 3), torch.rand(1, 6, 3)
    changed = at.clone()
    changed[0, 3] = at[0, 3].flip(0)
    same = (inhibition(token, log_weight, at) == inhibition(token, log_weight, changed)).all(-1)[0]
    assert same.tolist() == [True] * 4 + [False] * 2
    courses = inhibition.course(token)
    assert all(len(set(part[0].tolist())) == 3 for part in courses)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_changes_nothing(dtype):
    torch.manual_seed(0)
    inhibition, token = Inhibition(4), torch.randn(1, 3, 4)
    log_weight, at = torch.randn(1, 6, 3), torch.rand(1, 6, 3)
    plain = inhibition(token, log_weight, at)
    with torch.autocast("cpu", dtype=dtype):
        assert torch.equal(inhibition(token, log_weight, at), plain)
