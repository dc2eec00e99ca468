"""Distillation: a network that is trained already, and may be shown the reader's gaze, teaches another one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, Protocol, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gazelit.density import log_density
from gazelit.errors import InputError
from gazelit.losses.auxiliary import AuxiliaryLoss
from gazelit.losses.objective import Tensors

Taught = Literal["diagnosis", "saliency"]


class FrozenTeacher:
    """A network that only predicts: in evaluation mode, without gradient, never changed.

    It is no module, so that a stage that holds it neither trains, saves, shards nor switches it; it moves to the device
    and type of the images by itself. A copy of the stage (a moving average of weights) shares it.

    Args:
        network: The network; it is put into evaluation mode.
    """

    def __init__(self, network: nn.Module) -> None:
        self.network = network.eval().requires_grad_(False)

    def __deepcopy__(self, memo: dict[int, Any]) -> FrozenTeacher:
        return self

    def __call__(self, image: Tensor, attention: Tensor | None) -> dict[str, Tensor]:
        """The network's outputs for images (B, 1, H, W); ``attention`` as in :class:`DualEncoderUNet`, if it is given.

        Images without a density are pooled by what the teacher itself predicts.
        """
        weight = next(self.network.parameters())
        if (weight.device, weight.dtype) != (image.device, image.dtype):
            self.network.to(image.device, image.dtype)
        with torch.no_grad():
            return self.network(image, *([] if attention is None else [attention]))


class TaughtLoss(Protocol):
    """An auxiliary objective with a ``checkpoint``: a stage loads the teacher from it when training begins.

    Attributes:
        checkpoint: The teacher, a checkpoint of gazelit's.
        outputs: What is taught.
        sees_gaze: Whether the teacher's classifier is given the reader's gaze.
        teacher: Set before training.
    """

    checkpoint: str
    outputs: tuple[Taught, ...]
    sees_gaze: bool
    teacher: FrozenTeacher | None


class Distillation(AuxiliaryLoss):
    """Draws a student's outputs to those of a teacher, over all images, whether or not they have gaze or a label.

    Of the diagnosis the KL divergence of the student's from the teacher's class probabilities, both softened by a
    temperature T, times T² (Hinton, Vinyals and Dean 2015, section 2); of several labels that of each label's two
    probabilities, mean over labels, unknown ones too. Of saliency the KL divergence of the student's from the teacher's
    density. With ``sees_gaze`` the distillation is privileged (Lopez-Paz et al. 2016): the teacher sees image and gaze,
    the student the image. Single-task teachers of a joint network are those of Li and Bilen 2020.

    Args:
        checkpoint: The teacher, a checkpoint of gazelit's. A stage loads it when training begins
            (:func:`gazelit.checkpoints.teachers.take_teachers`); it is not needed for a test.
        outputs: What is taught: ``diagnosis``, ``saliency`` or both.
        weight: See :class:`gazelit.losses.auxiliary.AuxiliaryLoss`. For a weight each, name the teacher twice.
        temperature: T, above 0. The logits are taken as they are, without a temperature that `gazelit calibrate` found.
        sees_gaze: Whether the teacher's classifier pools by the reader's gaze; films without gaze are pooled by the
            gaze that the teacher predicts.

    Raises:
        InputError: Nothing or something unknown is taught, an option is impossible, or ``sees_gaze`` could change
            nothing of what is taught.
    """

    checkpoint: str

    def __init__(
        self,
        checkpoint: str,
        outputs: Sequence[Taught] = ("diagnosis",),
        weight: float = 1.0,
        temperature: float = 1.0,
        sees_gaze: bool = False,
    ) -> None:
        super().__init__(weight)
        if not outputs or set(outputs) - set(get_args(Taught)) or len(set(outputs)) < len(outputs):
            raise InputError(f"outputs: must be one or both of {', '.join(get_args(Taught))}, each once")
        if not temperature > 0:
            raise InputError(f"temperature: must be above 0, not {temperature}")
        if sees_gaze and "diagnosis" not in outputs:
            raise InputError("sees_gaze: gaze changes the teacher's diagnosis alone; teach that, or leave it out")
        self.name = "_".join(["teacher", *outputs])
        self.checkpoint = checkpoint
        self.outputs = tuple(outputs)
        self.temperature = temperature
        self.sees_gaze = sees_gaze
        #: Set before training.
        self.teacher: FrozenTeacher | None = None

    def forward(self, outputs: Tensors, batch: Tensors) -> Tensor:
        """See :meth:`gazelit.losses.objective.Objective.forward`.

        Raises:
            InputError: The teacher was not loaded.
        """
        if self.teacher is None:
            raise InputError(
                f"{self.checkpoint}: the teacher was not loaded; call gazelit.checkpoints.teachers.take_teachers"
            )
        taught = self.teacher(batch["image"], batch["heatmap"] if self.sees_gaze else None)
        terms = []
        if "diagnosis" in self.outputs:
            several = batch["label"].is_floating_point()
            terms.append(softened_divergence(outputs["logits"], taught["logits"], self.temperature, several))
        if "saliency" in self.outputs:
            student, teacher = (log_density(each["saliency_logits"]).flatten(1) for each in (outputs, taught))
            terms.append(F.kl_div(student, teacher, reduction="batchmean", log_target=True))
        return torch.stack(terms).sum()

    def counted(self, batch: Tensors) -> Tensor:
        """All images."""
        return torch.tensor(len(batch["image"]), device=batch["image"].device)


def softened_divergence(student: Tensor, teacher: Tensor, temperature: float, several: bool) -> Tensor:
    """T² KL(teacher ‖ student) of class probabilities softened by a temperature, in float32.

    Args:
        student: Logits (B, K).
        teacher: Logits (B, K).
        temperature: T. With T² gradients keep their size whatever the temperature.
        several: Whether the K classes are several labels, each with a probability of its own, and not exclusive.

    Returns:
        Scalar: the mean over images, or over images and labels.
    """
    student, teacher = student.float() / temperature, teacher.float() / temperature
    if several:
        # Each label is two classes: it is there, and it is not.
        student, teacher = (
            torch.stack([F.logsigmoid(each), F.logsigmoid(-each)], dim=-1).flatten(0, 1) for each in (student, teacher)
        )
    else:
        student, teacher = student.log_softmax(1), teacher.log_softmax(1)
    return F.kl_div(student, teacher, reduction="batchmean", log_target=True) * temperature**2
