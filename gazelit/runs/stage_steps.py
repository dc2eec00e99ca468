"""The parts of a pipeline, and checks that it can be run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gazelit.errors import InputError

#: Folders of the steps after the stages.
TEST, REPORT = "test", "report"


@dataclass
class StageStep:
    """One stage of a pipeline.

    Attributes:
        name: Folder of the stage within the run.
        config: Its configuration: a path or the name of a shipped file, or several; later ones replace values of
            earlier ones.
        after: Step whose checkpoint is handed over; the step before it unless given, ``null`` for none.
        overrides: Options added to its command line, such as ``--trainer.max_epochs=3``.
        calibrate: Whether the probabilities of its model get a temperature, fitted on the validation split, before the
            model is tested.
        teachers: By earlier stage, how its model teaches this one: options of :class:`gazelit.losses.Distillation`,
            such as ``{outputs: [diagnosis], sees_gaze: true}``. Each teacher is that of the same seed and fold.
    """

    name: str
    config: str | list[str]
    after: str | None = "previous"
    overrides: list[str] = field(default_factory=list)
    calibrate: bool = False
    teachers: dict[str, dict[str, Any]] = field(default_factory=dict)


@dataclass
class ExternalTest:
    """A test of every arm on data of another source.

    Attributes:
        store: The prepared store: all its cases, except those of patients that are in the training's store.
        overrides: Options added to the test's command line, such as ``--data.labels=[No Finding,Edema,Pneumonia]``, the
            same classes in the same order, with their names in that store.
    """

    store: Path
    overrides: list[str] = field(default_factory=list)


def check_stages(stages: Sequence[StageStep], checkpoint: str, seeds: int, folds: int | None) -> None:
    """Refuses a pipeline that cannot be run; arguments as of :func:`gazelit.runs.pipeline.run`."""
    if not stages:
        raise InputError("stages: the pipeline has none; name at least one stage with its config")
    if checkpoint not in ("best", "last"):
        raise InputError(f"checkpoint: must be 'best' or 'last', not '{checkpoint}'")
    if seeds < 1:
        raise InputError(f"seeds: must be at least 1, not {seeds}")
    if folds is not None and folds < 3:
        raise InputError(f"folds: must be at least 3 (test, validation, training), not {folds}")
    seen: list[str] = []
    for stage in stages:
        taken = stage.name in (*seen, REPORT) or stage.name.split("_")[0] == TEST
        if taken or not stage.name.isidentifier():
            raise InputError(f"stages: '{stage.name}' is taken or not a plain name; give every stage its own")
        if stage.after not in (None, "previous", *seen):
            raise InputError(f"stages: '{stage.name}' comes after '{stage.after}', which is no earlier stage")
        for teacher, options in stage.teachers.items():
            if teacher not in seen:
                raise InputError(f"stages: '{stage.name}' is taught by '{teacher}', which is no earlier stage")
            if "checkpoint" in options:
                raise InputError(f"stages: '{stage.name}', teachers: '{teacher}' decides the checkpoint; leave it out")
        seen.append(stage.name)


def arms_of(stages: Sequence[StageStep], arms: Mapping[str, str] | None) -> dict[str, str]:
    """Each arm's stage, by the arm's name; only the last stage unless arms are given."""
    names = [stage.name for stage in stages]
    tested = {names[-1]: names[-1]} if arms is None else dict(arms)
    if not tested:
        raise InputError("arms: there is none; name at least one, or leave the option out")
    for arm, stage in tested.items():
        if stage not in names:
            raise InputError(f"arms: '{arm}' tests stage '{stage}', but the stages are {', '.join(names)}")
        if not arm.isidentifier():
            raise InputError(f"arms: '{arm}' is not a plain name; use letters, digits and underscores")
    return tested
