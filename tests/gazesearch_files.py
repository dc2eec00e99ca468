"""GazeSearch files with the published keys, and readers whose law is known."""

import json

import numpy as np

FINDINGS = ("lung opacity", "edema", "pleural other")
SPLITS = ("train", "valid", "test")


def record(film, finding, split, path):
    """A record with the keys of the published file, in its order."""
    x, y, seconds = np.asarray(path, float).T
    return {
        "name": f"{film}.jpg", "subject": 1, "task": finding, "condition": "present", "bbox": [0, 0, 0, 0],
        "X": x.astype(int).tolist(), "Y": y.astype(int).tolist(), "T": seconds.tolist(), "length": len(x),
        "fixOnTarget": True, "correct": 1, "split": split,
    }  # fmt: skip


def records(films, seed=0, sigma=25):
    """Each film is read for every finding, in a split of its own: all films are shared. Readers look near a place that
    depends on the finding, and a little on the film."""
    generator = np.random.default_rng(seed)
    rows = []
    for number, film in enumerate(films):
        shift = generator.normal(0, 12, 2)
        for place, finding in enumerate(FINDINGS):
            centre = np.array([(60, 80), (160, 90), (110, 160)][place]) + shift
            length = 6 if generator.uniform() < 0.9 else 4
            xy = np.clip(generator.normal(centre, sigma, (length, 2)), 0, 223)
            path = np.column_stack([xy, generator.gamma(2, 0.15, length)])
            rows.append(record(film, finding, SPLITS[(number + place) % 3], path))
    return rows


def write(path, rows):
    path.write_text(json.dumps(rows))
    return path
