"""Fits a checkpoint's guards on the store it was trained on."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

from gazelit.checkpoints import stamps
from gazelit.data.gaze_data import GazeData
from gazelit.deploy.guard_files import SUFFIX, write_guards
from gazelit.deploy.guards import RANGES, Guards, film_facts, fit_conformal, fit_density, small
from gazelit.deploy.inference import LoadedModel
from gazelit.deploy.passes import mean_of
from gazelit.deploy.together import load_together
from gazelit.deploy.training_data import training_data
from gazelit.errors import InputError

logger = logging.getLogger("gazelit")


def guard(
    ckpt: list[str],
    out: Path,
    stage_config: Path | None = None,
    split: Literal["val", "test"] = "val",
    coverage: float = 0.9,
    false_alarms: float = 0.01,
    mc_dropout: int = 0,
    device: str = "cpu",
) -> None:
    """Writes a checkpoint with guards: a score for films unlike those of its training, and prediction sets.

    For several checkpoints whose mean is read, or for passes with dropout, the guards are those of the mean. They are
    in a file of their own, for ``--guards`` of ``infer`` and ``app``. Many arguments, because each is an option of the
    command line.

    The density of films is fitted on the training split, its threshold and the prediction sets on another split. For an
    exact promise the model must not have been selected on that split. ``val`` selected the epoch and the temperature,
    so that the stated coverage is slightly optimistic; with ``test`` no cases are left to test the promise.

    Args:
        ckpt: A checkpoint of ``gazelit fit``, after ``gazelit calibrate`` if it is calibrated; or several, of the same
            split.
        out: The file to write: a checkpoint, or ``.json`` for the guards alone.
        stage_config: The ``config.yaml`` of its training; the one beside its ``checkpoints`` unless given. Of several
            checkpoints, of the first.
        split: The split on which the promises are fitted.
        coverage: Share of films whose prediction set must hold the truth.
        false_alarms: Largest share of films like the training's that may be reported as unlike it.
        mc_dropout: Passes with dropout on, whose mean is guarded; 0 for one pass without.
        device: Where the network runs, such as ``cuda``.

    Raises:
        InputError: The checkpoint or its configuration cannot be used, it was trained on another split, a rate is not
            between 0 and 1, or the split is too small for it.
    """
    for name, rate in (("coverage", coverage), ("false_alarms", false_alarms)):
        if not 0 < rate < 1:
            raise InputError(f"{name}: must be above 0 and below 1, not {rate:g}")
    is_file_of_guards = out.suffix == SUFFIX
    if (len(ckpt) > 1 or mc_dropout) and not is_file_of_guards:
        raise InputError(f"out: {out.name} is to hold the guards of a mean; name a file of guards, such as guards.json")
    model = load_together(ckpt, device, dropout_passes=mc_dropout)
    checkpoints = {path: stamps.read_checkpoint(path) for path in ckpt}
    data = training_data({path: held[stamps.STAMP_KEY] for path, held in checkpoints.items()}, stage_config)
    training, facts = _small_films(data, "train")
    calibration, _ = _small_films(data, split)
    density = fit_density(training, calibration, false_alarms)
    ranges = {name: (min(fact[name] for fact in facts), max(fact[name] for fact in facts)) for name in RANGES}
    conformal = None
    if model.class_names:
        conformal = fit_conformal(*_predicted(model, data, split), list(model.class_names), coverage, split)
        for name, threshold in conformal.thresholds.items():
            logger.info("%s: in the set from a probability of %.3f", name, 1 - threshold)
    guards = Guards(density, ranges, conformal)
    if is_file_of_guards:
        write_guards(guards, model, out)
    else:
        checkpoint = checkpoints[ckpt[0]]
        checkpoint[stamps.GUARDS_KEY] = guards.to_primitives()
        stamps.save_checkpoint(checkpoint, out)
    logger.info(
        "%s: %d components of %d training films; at most %.1f %% false alarms, fitted on %d films of split %s",
        out, len(density.variances), density.films[0], 100 * false_alarms, density.films[1], split,
    )  # fmt: skip
    if model.is_of_simulated_films:
        logger.warning(
            "fitted on simulated films: real films may all be called unlike them, and nothing is promised for their "
            "prediction sets; for real films, train and fit on real ones"
        )


def _small_films(data: GazeData, split: str) -> tuple[NDArray[np.float32], list[dict[str, float]]]:
    """Small films (N, D) of a split, and the values that are compared with the range."""
    store = data.store
    images = store.images()
    films, facts = [], []
    for row in data.rows(split).tolist():
        film = images[row].astype(np.float32) / np.float32(store.largest)
        films.append(small(film))
        facts.append(film_facts(film, store.letterboxes[row]))
    return np.stack(films), facts


def _predicted(model: LoadedModel, data: GazeData, split: str) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Probabilities (N, K) and labels of a split, as the model reads films."""
    found, labels = [], []
    for batch in data.loader(split):
        rendered = data.render(batch)
        predicted = mean_of(model.passes(rendered["image"])).probabilities
        assert predicted is not None
        found.append(predicted)
        labels.append(rendered["label"])
    # Rounded as readings are, so that a probability at the threshold is on the same side of it.
    return torch.cat(found).double().round(decimals=6).numpy(), torch.cat(labels).double().numpy()
