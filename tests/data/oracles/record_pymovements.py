"""Records the fixations that pymovements finds in seeded recordings, the oracle of gazelit's detection of fixations.

pymovements depends on a package under the AGPL, so it is not a dependency, not even of the tests. Its results are kept
in ``pymovements_events.json``. To record them again, in an environment of its own with pymovements 0.28.0:

python tests/data/oracles/record_pymovements.py
"""

import json
from importlib.metadata import version
from pathlib import Path

import numpy as np
from pymovements.events import idt, ivt

#: Name, rate (Hz), jitter of the times (share of the interval), noise (degrees), drift (degrees per second), samples.
RECORDINGS = [
    ("60 Hz, noisy", 60, 0.0, 0.15, 0.3, 400),
    ("60 Hz, jittery clock", 60, 0.2, 0.08, 0.0, 400),
    ("250 Hz", 250, 0.0, 0.02, 0.5, 500),
    ("1 kHz", 1000, 0.0, 0.01, 0.4, 700),
    ("120 Hz, jittery and noisy", 120, 0.3, 0.2, 0.8, 400),
    ("few samples", 60, 0.0, 0.05, 0.0, 7),
]
VELOCITIES = (15.0, 30.0, 100.0)
#: Dispersion (degrees) and the least number of samples.
DISPERSIONS = ((0.5, 4), (1.0, 6), (2.0, 12))


def recording(rate, jitter, noise, drift, count, rng):
    """Rests of 0.1 to 0.5 s that drift, with jumps of one to four samples between; microseconds and degrees."""
    step = np.ones(count) + rng.uniform(-jitter, jitter, count)
    ticks = np.round(np.cumsum(step) / rate * 1e6).astype(np.int64)
    ticks -= ticks[0]
    place, pieces = rng.uniform(0, 20, 2), []
    while sum(map(len, pieces)) < count:
        rest = np.arange(max(2, int(rng.uniform(0.1, 0.5) * rate)))[:, None] / rate
        direction = rng.uniform(0, 2 * np.pi)
        pieces.append(place + drift * rest * (np.cos(direction), np.sin(direction)))
        target = rng.uniform(0, 20, 2)
        pieces.append(np.linspace(pieces[-1][-1], target, int(rng.integers(1, 5)) + 2)[1:-1])
        place = target
    degrees = np.concatenate(pieces)[:count] + rng.normal(0, noise, (count, 2))
    return ticks, np.round(degrees, 3)


def main():
    recordings = []
    for number, (name, *how) in enumerate(RECORDINGS):
        ticks, degrees = recording(*how, np.random.default_rng(number))
        velocity = np.gradient(degrees, ticks / 1e6, axis=0)
        found = []
        for threshold in VELOCITIES:
            frame = ivt(velocity, ticks, minimum_duration=1, velocity_threshold=threshold).frame
            spans = np.searchsorted(ticks, [frame["onset"].to_numpy(), frame["offset"].to_numpy()]).T
            found.append({"method": "ivt", "velocity": threshold, "spans": spans.tolist()})
        for threshold, least in DISPERSIONS:
            frame = idt(degrees, minimum_duration=least, dispersion_threshold=threshold).frame
            spans = np.array([frame["onset"].to_numpy(), frame["offset"].to_numpy()]).astype(int).T
            found.append({"method": "idt", "dispersion": threshold, "samples": least, "spans": spans.tolist()})
        recordings.append({"name": name, "ticks": ticks.tolist(), "degrees": degrees.tolist(), "found": found})
    content = {
        "made by": f"tests/data/oracles/record_pymovements.py with pymovements {version('pymovements')}",
        "spans": "first and last sample of each event, as pymovements gives them",
        "recordings": recordings,
    }
    path = Path(__file__).with_name("pymovements_events.json")
    path.write_text(json.dumps(content, separators=(",", ":")) + "\n")


if __name__ == "__main__":
    main()
