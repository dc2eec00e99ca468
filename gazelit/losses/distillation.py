"""Distillation: a trained network, which may be given the reader's gaze, teaches another one."""

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

    It is no module, so that the stage neither trains, saves nor shards it, nor changes its mode. It moves to the device
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

        Images without a density are pooled by the gaze that the teacher predicts.
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
        outputs: Outputs that are taught.
        sees_gaze: Whether the teacher's classifier is given the reader's gaze.
        teacher: Set before training.
    """

    checkpoint: str
    outputs: tuple[Taught, ...]
    sees_gaze: bool
    teacher: FrozenTeacher | None


class Distillation(AuxiliaryLoss):
    """Draws a student's outputs to those of a teacher, over all images, also those without gaze or label.

    For the diagnosis it is the KL divergence of the student's from the teacher's class probabilities, both softened by
    a temperature T, times T² (Hinton, Vinyals and Dean 2015, section 2). For several labels it is that of each label's
    two probabilities, as a mean over all labels, also unknown ones. For saliency it is the KL divergence of the
    student's from the teacher's density. With ``sees_gaze`` the distillation is privileged (Lopez-Paz et al. 2016): the
    teacher sees image and gaze, the student the image. Single-task teachers of a joint network are those of Li and
    Bilen 2020.

    Args:
        checkpoint: The teacher, a checkpoint of gazelit's. A stage loads it when training begins
            (:func:`gazelit.checkpoints.teachers.take_teachers`); it is not needed for a test.
        outputs: Outputs that are taught: ``diagnosis``, ``saliency`` or both.
        weight: See :class:`gazelit.losses.auxiliary.AuxiliaryLoss`. To give each output a weight, name the teacher
            twice.
        temperature: T, above 0. The logits are used without the temperature of `gazelit calibrate`.
        sees_gaze: Whether the teacher's classifier pools by the reader's gaze; films without gaze are pooled by the
            gaze that the teacher predicts.

    Raises:
        InputError: No output or an unknown one is taught, an option is impossible, or ``sees_gaze`` has no effect on
            the taught outputs.
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
        temperature: T. The factor T² keeps the size of gradients independent of the temperature.
        several: Whether the K classes are independent labels and not exclusive classes.

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
