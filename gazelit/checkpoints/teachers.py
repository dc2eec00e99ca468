"""Teachers of a distillation: checkpoints of gazelit's, checked against the student's data before they teach."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, cast

import torch

from gazelit.checkpoints import split_guard, stamps
from gazelit.errors import InputError
from gazelit.files import sha256_file
from gazelit.losses.auxiliary import AuxiliaryLoss
from gazelit.losses.distillation import FrozenTeacher, Taught, TaughtLoss
from gazelit.models.network import Network, rebuild
from gazelit.models.weights import check_fit


def taught_losses(objectives: Iterable[AuxiliaryLoss]) -> list[TaughtLoss]:
    """Those of a stage's auxiliary objectives that have a teacher."""
    return [cast(TaughtLoss, objective) for objective in objectives if objective.checkpoint is not None]


def take_teachers(
    objectives: Sequence[TaughtLoss], data: Mapping[str, Any], measures: Sequence[str], allowed: bool = False
) -> list[dict[str, Any]]:
    """Gives each objective that is taught its teacher.

    Args:
        objectives: The objectives.
        data: Provenance of the student's data.
        measures: Outputs of the student: ``diagnosis``, ``saliency``.
        allowed: Whether a teacher is accepted that may have seen patients of the student's test split.

    Returns:
        What the student's stamp records of each: the teacher's own stamp with its ``sha256`` and ``split_note``, and
        what is ``taught`` by a teacher that ``sees_gaze`` or not. No path.

    Raises:
        InputError: A teacher cannot be read, does not fit the student or its data, or may have seen patients of the
            test split (:func:`gazelit.checkpoints.split_guard.check_split`).
    """
    networks: dict[str, FrozenTeacher] = {}
    records = []
    for objective in objectives:
        path = objective.checkpoint
        missing = [output for output in objective.outputs if output not in measures]
        if missing:
            raise InputError(
                f"{path}: shall teach {', '.join(missing)}, but the stage that learns predicts {', '.join(measures)}"
            )
        checkpoint = stamps.read_checkpoint(path)
        stamp = checkpoint[stamps.STAMP_KEY]
        _check_data(path, stamp["data"], data, objective.outputs)
        note = split_guard.check_split(path, stamp, data, allowed)
        digest = sha256_file(path)
        if digest not in networks:
            networks[digest] = FrozenTeacher(_network(path, checkpoint))
        objective.teacher = networks[digest]
        _check_network(objective, data)
        records.append(
            {
                **stamp,
                "sha256": digest,
                "split_note": note,
                "taught": list(objective.outputs),
                "sees_gaze": objective.sees_gaze,
            }
        )
    return records


def _network(path: str | os.PathLike[str], checkpoint: Mapping[str, Any]) -> Network:
    stamp = checkpoint[stamps.STAMP_KEY]
    # Building draws random weights, which must not move the random numbers that the student goes on with.
    with torch.random.fork_rng(devices=[]):
        network = rebuild(stamp["network"], str(path))
    state = stamps.network_state(checkpoint)
    check_fit(state, network.state_dict(), f"{path}: the teacher")
    network.load_state_dict(state)
    return network


def _check_data(
    path: str | os.PathLike[str], stored: Mapping[str, Any], data: Mapping[str, Any], outputs: Sequence[Taught]
) -> None:
    """Checks that a teacher has the same classes and size, as far as the given data specify them."""
    fields = ["size", *(["class_names", "exclusive"] if "diagnosis" in outputs else [])]
    for field in fields:
        if field in data and stored.get(field) != data[field]:
            raise InputError(
                f"{path}: the teacher was trained with {field} {stored.get(field)}, the data have {data[field]}; both "
                "must be the same, in the same order"
            )


def _check_network(objective: TaughtLoss, data: Mapping[str, Any]) -> None:
    """Checks that a teacher predicts what it shall teach, and takes gaze if it shall see it."""
    assert objective.teacher is not None
    network = objective.teacher.network
    if objective.sees_gaze and not getattr(network, "pools_by_gaze", False):
        raise InputError(
            f"{objective.checkpoint}: sees_gaze: the teacher's classifier does not pool by gaze; train one with "
            "classifier_pooling: gaze"
        )
    image = torch.zeros(1, 1, *(data.get("size") or (64, 64)))
    predicted = objective.teacher(image, image if objective.sees_gaze else None)
    for output, name in (("diagnosis", "logits"), ("saliency", "saliency_logits")):
        if output in objective.outputs and name not in predicted:
            raise InputError(f"{objective.checkpoint}: shall teach {output}, but the teacher predicts none")
