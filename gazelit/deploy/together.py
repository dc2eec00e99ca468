"""Several checkpoints as one model."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

from gazelit.data.images.dicom import MAX_PIXELS
from gazelit.deploy.guard_files import read_guards
from gazelit.deploy.inference import LoadedModel
from gazelit.deploy.loading import load
from gazelit.errors import InputError
from gazelit.files import sha256_json


def load_together(
    ckpts: Sequence[str | os.PathLike[str]],
    device: str | torch.device = "cpu",
    max_pixels: int = MAX_PIXELS,
    dropout_passes: int = 0,
    guards: Path | None = None,
) -> LoadedModel:
    """Loads several checkpoints as one model; its readings are their mean, with the agreement of the networks.

    Args:
        ckpts: One or more, of any form that is loaded, of the same size and classes, such as of several seeds or folds.
        device: See :func:`gazelit.deploy.loading.load`.
        max_pixels: See :func:`gazelit.deploy.loading.load`.
        dropout_passes: How often each network is run with its dropout on (Monte Carlo dropout); 0 for once without.
        guards: The file of guards that were fitted to this model; of a single checkpoint, in place of its own.

    Raises:
        InputError: One cannot be used, they differ in size or classes, ``dropout_passes`` is 1 or negative, or the
            guards are another model's.
    """
    if dropout_passes < 0 or dropout_passes == 1:
        raise InputError(f"mc_dropout: {dropout_passes} passes have no spread; give 2 or more, or 0 for none")
    models = [load(ckpt, device, max_pixels) for ckpt in ckpts]
    first, further = models[0], models[1:]
    for model in further:
        for field in ("size", "class_names", "outputs"):
            if getattr(model, field) != getattr(first, field):
                raise InputError(f"{model.name}: its {field.replace('_', ' ')} are not those of {first.name}")
    # A checkpoint's guards hold for its own probabilities, not for those of a mean.
    own = first.guards if not further and not dropout_passes else None
    model = replace(first, dropout_passes=dropout_passes, guards=own)
    if further:
        synthetic = any(model.is_of_simulated_films for model in models)
        model = replace(
            model,
            stamp={**first.stamp, "data": {**first.stamp["data"], "synthetic": synthetic}},
            sha256=sha256_json([model.sha256 for model in models]),
            members=tuple((model.network, model.temperature) for model in further),
        )
    return model if guards is None else replace(model, guards=read_guards(guards, model))
