"""Coverage of crossed intervals by simulation, with a known truth.

``python -m tests.evaluation.coverage 2000`` prints the table of docs/metrics.md; a test runs a part of it.
"""

import sys

import numpy as np

from gazelit.evaluation.crossed import crossed_difference
from gazelit.evaluation.statistics import auroc_of, bootstrap_weights

#: By name: standard deviation over patients (of one case), over seeds, and of what both share (of one case).
SETTINGS = {
    "patients alone": (1.0, 0.0, 0.3),
    "seeds as large as patients": (1.0, 0.13, 0.3),
    "seeds alone": (0.1, 0.3, 0.1),
}


def differences(rng, patients, seeds, spread):
    """A mean difference per seed and in each draw of patients; its true mean is 0."""
    of_patient, of_seed, shared = spread
    table = of_patient * rng.normal(size=patients) + of_seed * rng.normal(size=(seeds, 1))
    table = table + shared * rng.normal(size=(seeds, patients))
    weights = np.asarray(bootstrap_weights(np.arange(patients), 400, int(rng.integers(2**31)))) / patients
    return table.mean(axis=1), table @ weights.T


def aucs(rng, patients, seeds, spread):
    """AUC of two arms of equally good models, per seed and in each draw; a seed changes the skill of its model."""
    _, of_seed, _ = spread
    positive = rng.random(patients) < 0.4
    common = rng.normal(size=patients)
    weights = np.asarray(bootstrap_weights(np.arange(patients), 400, int(rng.integers(2**31))))
    everyone = np.ones((1, patients))
    values, draws = [], []
    for _ in range(2):
        each = []
        for _ in range(seeds):
            skill = 1.5 + 2 * of_seed * rng.normal()
            each.append(auroc_of(common + skill * positive + rng.normal(size=patients), positive))
        values.append(np.array([auc(everyone)[0] for auc in each]))
        draws.append(np.stack([auc(weights) for auc in each]))
    return tuple(values), tuple(draws)


def misses(kind, setting, seeds, repeats, patients=60, seed=0):
    """Share of simulations whose 95 % interval misses the truth, 0."""
    rng = np.random.default_rng([seed, seeds, list(SETTINGS).index(setting)])
    missed = 0
    for _ in range(repeats):
        if kind == "mean":
            value, drawn = differences(rng, patients, seeds, SETTINGS[setting])
            values, draws = (value, np.zeros(seeds)), (drawn, np.zeros_like(drawn))
        else:
            values, draws = aucs(rng, patients, seeds, SETTINGS[setting])
        interval = crossed_difference(values, draws, patients, paired=True)
        missed += not interval.low <= 0 <= interval.high
    return missed / repeats


def main(repeats):
    """Writes coverage by statistic, setting and number of seeds."""
    counts = (1, 2, 3, 5, 10)
    sys.stdout.write("| statistic | what varies | " + " | ".join(f"{count} seeds" for count in counts) + " |\n")
    sys.stdout.write("|---" * (2 + len(counts)) + "|\n")
    for kind in ("mean", "AUC"):
        for setting in SETTINGS:
            cells = [f"{1 - misses(kind, setting, count, repeats):.1%}" for count in counts]
            sys.stdout.write(f"| {kind} | {setting} | " + " | ".join(cells) + " |\n")
            sys.stdout.flush()


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 200)
