"""The options of the data module, in groups: of the gaze, the split, the loaders and the augmentation."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from gazelit.data.gaze.events import Detection, TimeWindow
from gazelit.data.images.transforms import Augmentation
from gazelit.errors import InputError

GazeKind = Literal["fixation", "sample", "detected"]
SigmaUnit = Literal["deg", "px", "image_px"]
Readings = Literal["pooled", "equal", "drawn"]
GazeControl = Literal["true", "shuffled", "centre", "order", "phrases", "none"]
Method = Literal["patient", "official", "official_shared", "reference_image_level", "external"]
Sampling = Literal["shuffled", "balanced", "by_node"]
Split = Literal["train", "val", "test"]


@dataclass(frozen=True)
class GazeOptions:
    """How gaze becomes a target map, and which readers' gaze is used.

    Attributes:
        kind: Published ``fixation``, raw ``sample``, or fixations ``detected`` in the samples.
        weight: Weight of a point: its ``duration``, or 1 (``count``).
        sigma: Standard deviation of the heatmap's Gaussian.
        sigma_unit: ``deg`` of visual angle, ``px`` of the working image, or ``image_px`` of the original image.
        readings: For an image with several readings: all points ``pooled``; every reading with the same weight
            (``equal``); or in training one reading, ``drawn`` anew each epoch (pooled elsewhere).
        window: The part of each reading that counts, such as its first seconds; all of it unless given.
        detection: Method and thresholds of ``detected``.
        control: The gaze of the training and validation cases, to find out what a model learns from it: their own
            (``true``), that of another patient's film (``shuffled``), points drawn from all of them (``centre``), the
            fixations of each reading in another order (``order``), phrases at other times of the reading (``phrases``),
            or ``none``. Test cases keep their own gaze.
        cases: Number of training cases that keep their gaze, for learning curves; all unless given.
        leave_out: A reader (``reader_id``) whose readings are left out of training and validation, and are the only
            ones of the test (leave-one-reader-out); none unless given.
        phrases: By finding, a regular expression of its words, for stages that learn from the gaze while it was named.
        phrase_lag: Seconds by which looking precedes these words.
    """

    kind: GazeKind = "fixation"
    weight: Literal["duration", "count"] = "duration"
    sigma: float = 1.0
    sigma_unit: SigmaUnit = "deg"
    readings: Readings = "pooled"
    window: TimeWindow | None = None
    detection: Detection = field(default_factory=Detection)
    control: GazeControl = "true"
    cases: int | None = None
    leave_out: str | None = None
    phrases: dict[str, str] | None = None
    phrase_lag: float = 0.0

    def __post_init__(self) -> None:
        if self.leave_out == "None":
            # jsonargparse 4.53 turns a null for a field of a nested dataclass into this text.
            object.__setattr__(self, "leave_out", None)
        if not self.sigma > 0:
            raise InputError(f"gaze.sigma: must be above 0, not {self.sigma}")
        for name, pattern in (self.phrases or {}).items():
            try:
                re.compile(pattern)
            except re.error as error:
                raise InputError(f"gaze.phrases.{name}: is no regular expression ({error})") from error
        if self.phrase_lag and not self.phrases:
            raise InputError("gaze.phrase_lag: goes with gaze.phrases; leave it out")
        if self.control == "phrases":
            if not self.phrases:
                raise InputError("gaze.control: phrases moves what gaze.phrases names, which is not given")
            if self.window is not None and self.window.phrase is not None:
                raise InputError(
                    "gaze.control: phrases does not move gaze.window.phrase; leave out the control or the window"
                )
        if self.cases is not None and self.cases < 0:
            raise InputError(f"gaze.cases: must be at least 0, not {self.cases}")


@dataclass(frozen=True)
class SplitOptions:
    """How cases are split.

    Attributes:
        method: ``patient``; ``official``, the dataset's own; ``official_shared``, the same if its parts share patients,
            only for comparison with published figures; ``reference_image_level``, that of the paper's reference
            implementation, which splits images, so that patients with several films are in several splits: only for
            comparison with it; ``external``: every case is a test case, for a model that was trained on other data.
        seed: Seed of the shuffle of patients; runs that hand over to each other must share it.
        val_fraction: Share of patients, and of films, for validation, with ``patient`` and no folds.
        test_fraction: Share of patients, and of films, for the test, with ``patient`` and no folds.
        folds: Number of folds of patients instead of the two shares, with ``patient``: fold ``fold`` is the test, the
            next one validation.
        fold: Which fold is the test, from 0.
        stratify: Label columns whose prevalence is the same in every split, whatever labels the stage trains on. Unless
            given, all label columns of the store that have a positive case and are no measurements. Stages that hand
            over to each other must share it.
        file: CSV with ``image_id`` and ``split``; it replaces the options above.
        trained_on: With ``external``, the store that the model was trained on: its patients are left out.
        train_cases: Number of cases of the training split that are used, drawn by the data module's seed, for learning
            curves; all unless given. With the same seed a larger set includes the smaller one.
        allow_empty: Continue even if a class has no positive case in some split.
    """

    method: Method = "patient"
    seed: int = 0
    val_fraction: float = 0.1
    test_fraction: float = 0.2
    folds: int | None = None
    fold: int = 0
    stratify: Sequence[str] | None = None
    file: str | None = None
    trained_on: str | None = None
    train_cases: int | None = None
    allow_empty: bool = False

    def __post_init__(self) -> None:
        if self.trained_on is not None and self.method != "external":
            raise InputError("split.trained_on: goes with split.method external; leave it out")
        if self.train_cases is not None and self.train_cases < 1:
            raise InputError(f"split.train_cases: must be at least 1, not {self.train_cases}")


@dataclass(frozen=True)
class LoaderOptions:
    """How cases are loaded.

    Attributes:
        batch_size: Cases a process takes per step.
        num_workers: Processes that load.
        sampling: Order of the training cases: ``shuffled``, or ``balanced``: as many of every class, rarer ones
            repeated, in epochs of the same length; or ``by_node``: each of several nodes shuffles its own part of the
            store, the same in every epoch, and reads only this (with one node the same as ``shuffled``).
        predict_split: Which split ``gazelit predict`` reads.
    """

    batch_size: int = 16
    num_workers: int = 2
    sampling: Sampling = "shuffled"
    predict_split: Split = "test"

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise InputError(f"loader.batch_size: must be at least 1, not {self.batch_size}")
        if self.num_workers < 0:
            raise InputError(f"loader.num_workers: must be at least 0, not {self.num_workers}")


@dataclass(frozen=True)
class AugmentationOptions:
    """How training cases are augmented.

    Attributes:
        enabled: Whether training cases are augmented.
        views: 2 adds ``other_view`` to each batch, another augmentation of the same images, for contrastive objectives
            that compare views; also to validation batches, there the same in every epoch.
        shift: Largest shift, as a share of the size.
        scale: Largest relative change of scale.
        rotation: Largest rotation in degrees.
        contrast: Largest relative change of contrast and of brightness.
        gamma: Largest relative change of gamma.
    """

    enabled: bool = True
    views: Literal[1, 2] = 1
    shift: float = 0.04
    scale: float = 0.08
    rotation: float = 5.0
    contrast: float = 0.15
    gamma: float = 0.2

    def __post_init__(self) -> None:
        if self.views == 2 and not self.enabled:
            raise InputError("augmentation.views: two views are two augmentations; set augmentation.enabled: true")
        for name in ("shift", "scale", "contrast", "gamma"):
            if not 0 <= getattr(self, name) < 1:
                raise InputError(f"augmentation.{name}: must be at least 0 and below 1, not {getattr(self, name)}")
        if not 0 <= self.rotation <= 180:
            raise InputError(f"augmentation.rotation: must be 0 to 180 degrees, not {self.rotation}")

    def build(self) -> Augmentation:
        """The transformation that these options describe."""
        return Augmentation(self.shift, self.scale, self.rotation, self.contrast, self.gamma)
