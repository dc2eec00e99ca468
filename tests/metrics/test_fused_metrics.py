"""The four metrics in compiled code against their definitions in float64."""

import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from pysaliency.metrics import CC, NSS, SIM, MIT_KLDiv

from gazelit.metrics.functional import cc, kld, nss, sim
from gazelit.metrics.fused import cc_kld_sim_nss

# Large enough for the compiled code, with a last block that is not full.
SIZE = (255, 163)
GENERATOR = torch.Generator().manual_seed(0)
RANDOM = torch.rand(3, *SIZE, generator=GENERATOR) ** 3 + 1e-4
TARGET = torch.rand(3, *SIZE, generator=GENERATOR) ** 2
COUNTS = torch.poisson(torch.full((3, *SIZE), 2e-3), generator=GENERATOR)


def _half(values, fill):
    changed = values.clone()
    changed[:, :100] = fill
    return changed


MASK = torch.zeros(3, *SIZE, dtype=torch.bool)
MASK[0, 20:200, 10:140] = True
MASK[1] = True
NEARLY_FLAT = 3e-6 * (1 + 1e-3 * torch.randn(3, *SIZE, generator=GENERATOR))
CASES = {
    "random": (RANDOM, TARGET, COUNTS, None),
    "sums to one": (RANDOM / RANDOM.sum(), TARGET / TARGET.sum(), COUNTS, None),
    "peaked": (torch.softmax(20 * RANDOM.flatten(1), 1).view_as(RANDOM), TARGET**40, COUNTS, None),
    "nearly flat": (NEARLY_FLAT, TARGET, COUNTS, None),
    "zeros of the target": (RANDOM, _half(TARGET, 0.0), COUNTS, None),
    "zeros of the prediction": (_half(RANDOM, 0.0), TARGET, COUNTS, None),
    "zeros of both": (_half(RANDOM, 0.0), _half(TARGET, 0.0), COUNTS, None),
    "ratios beyond float32": (_half(RANDOM, 1e-38), _half(TARGET, 1e5), COUNTS, None),
    "constant prediction": (torch.full_like(RANDOM, 0.3), TARGET, COUNTS, None),
    "constant target": (RANDOM, torch.full_like(RANDOM, 0.3), COUNTS, None),
    "empty target": (RANDOM, torch.zeros_like(RANDOM), COUNTS, None),
    "empty prediction": (torch.zeros_like(RANDOM), TARGET, COUNTS, None),
    "no fixations": (RANDOM, TARGET, torch.zeros_like(COUNTS), None),
    "not a number": (_half(RANDOM, torch.nan), TARGET, COUNTS, None),
    "padding": (RANDOM, TARGET, COUNTS, MASK),
    "no image": (RANDOM[:0], TARGET[:0], COUNTS[:0], None),
    "one image": (RANDOM[:1], TARGET[:1], COUNTS[:1], MASK[:1]),
}


@pytest.mark.parametrize("case", CASES)
def test_together_they_equal_each_metric(case):
    prediction, target, counts, mask = CASES[case]
    values = cc_kld_sim_nss(prediction, target, counts, mask)
    predicted, observed, fixations = prediction.double(), target.double(), counts.double()
    expected = {
        "cc": cc(predicted, observed, mask),
        "kld": kld(predicted, observed, mask),
        "sim": sim(predicted, observed, mask),
        "nss": nss(predicted, fixations, mask),
    }
    for name, value in expected.items():
        assert values[name].dtype == torch.float64
        assert torch.allclose(values[name], value, rtol=1e-6, atol=1e-6, equal_nan=True), (name, values[name], value)


def test_together_they_equal_pysaliency():
    values = cc_kld_sim_nss(RANDOM, TARGET, COUNTS)
    for number in range(3):
        p, g = RANDOM[number].double().numpy(), TARGET[number].double().numpy()
        y, x = np.repeat(np.argwhere(COUNTS[number].numpy()), COUNTS[number][COUNTS[number] > 0].int(), axis=0).T
        expected = {"cc": CC(p, g), "kld": MIT_KLDiv(p, g), "sim": SIM(p, g), "nss": NSS(p, x, y).mean()}
        for name, value in expected.items():
            assert values[name][number].item() == pytest.approx(value, abs=1e-6), name


def test_torch_keeps_its_number_of_threads():
    # Run in a new process, because numba starts its threads only once.
    code = (
        "import torch; from gazelit.metrics.fused import cc_kld_sim_nss; one = torch.rand(2, 256, 256);"
        "cc_kld_sim_nss(one, one, torch.ones(2, 256, 256)); print(torch.get_num_threads())"
    )
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    assert result.stdout.split() == ["1"]


def test_shapes_that_differ_and_blurred_counts_are_refused():
    with pytest.raises(ValueError, match="whole numbers"):
        cc_kld_sim_nss(RANDOM, TARGET, COUNTS + 0.25)
    with pytest.raises(ValueError, match="maps must all be"):
        cc_kld_sim_nss(RANDOM, TARGET[:, 1:], COUNTS)
