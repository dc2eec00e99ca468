"""Supervised fine-tuning of the diagnosis encoder, between stages 1 and 2; and the single-task classifier."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from torch import Tensor

from gazelit.losses.auxiliary import AuxiliaryLoss, auxiliary_modules
from gazelit.losses.diagnosis import DiagnosisLoss
from gazelit.losses.objective import Objective
from gazelit.models.network import Network
from gazelit.stages.base import Batch, Outputs, Stage


class SupervisedFinetuning(Stage):
    """Trains an encoder with a classifier, without gaze.

    The reference implementation of Qiu, Rivaz and Xiao 2025 has such a training between contrastive pretraining and
    saliency warm-up. By itself it is the baseline that knows nothing of gaze.

    Args:
        network: Gives ``{"logits": (B, K)}``, such as
            :class:`gazelit.models.classification_net.ClassificationNetwork`.
        diagnosis_loss: As in :class:`gazelit.stages.joint.JointFinetuning`.
        auxiliary: Objectives beside the diagnosis, as in :class:`gazelit.stages.joint.JointFinetuning`.
        options: See :class:`Stage`.
    """

    name: ClassVar[str] = "supervised"
    measures: ClassVar[tuple[str, ...]] = ("diagnosis",)
    trains: ClassVar[str] = "logits"
    injected: ClassVar[tuple[str, ...]] = (*Stage.injected, "diagnosis_loss", "auxiliary")

    def __init__(
        self,
        network: Network,
        diagnosis_loss: Objective | None = None,
        auxiliary: Sequence[AuxiliaryLoss] = (),
        **options: Any,
    ) -> None:
        super().__init__(network, **options)
        self.auxiliary = auxiliary_modules(auxiliary)
        self.diagnosis_loss = diagnosis_loss if diagnosis_loss is not None else DiagnosisLoss()

    def _step(self, batch: Batch) -> tuple[Tensor, Outputs, dict[str, Tensor]]:
        outputs = self(batch["image"])
        loss = self.diagnosis_loss(outputs, batch)
        total, parts = self._with_auxiliary(loss, outputs, batch)
        return total, outputs, {"diagnosis_loss": loss.detach(), **parts} if parts else {}

    def _objectives(self) -> dict[str, Objective]:
        return {"diagnosis": self.diagnosis_loss}
