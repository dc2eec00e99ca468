"""Intervals of a report's statistics over 4,000 cases: a few draws at a time against a table of all of them.

python benchmarks/bench.py --only statistics_blocks
"""

from __future__ import annotations

import numpy as np
from measure import Workload

from gazelit.evaluation.statistics import auroc_of, bootstrap_weights, drawn

CASES = 4000


def workloads() -> list[Workload]:
    """The AUROC in 500 draws of patients."""
    rng = np.random.default_rng(0)
    statistic = auroc_of(rng.random(CASES), rng.random(CASES) < 0.3)
    draws = bootstrap_weights(np.arange(CASES), 500)
    ways = {"all draws at once": lambda: statistic(np.asarray(draws)), "gazelit": lambda: drawn(statistic, draws)}

    def difference() -> float:
        return float(np.abs(ways["all draws at once"]() - ways["gazelit"]()).max())

    return [Workload("AUROC interval", ways, difference, 1e-12)]
