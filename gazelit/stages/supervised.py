"""Supervised fine-tuning of the diagnosis encoder, between stages 1 and 2; and the single-task classifier."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor

from gazelit.errors import InputError
from gazelit.losses.auxiliary import AuxiliaryLoss, auxiliary_modules
from gazelit.losses.diagnosis import DiagnosisLoss
from gazelit.losses.objective import Objective
from gazelit.models.network import Network
from gazelit.stages.base import Batch, Outputs, Stage
from gazelit.stages.feature_cache import StoredFeatures


class SupervisedFinetuning(Stage):
    """Trains an encoder with a classifier, without gaze.

    The reference implementation of Qiu, Rivaz and Xiao 2025 has such a training between contrastive pretraining and
    saliency warm-up. By itself it is the baseline without gaze.

    Args:
        network: Gives ``{"logits": (B, K)}``, such as
            :class:`gazelit.models.classification_net.ClassificationNetwork`.
        diagnosis_loss: As in :class:`gazelit.stages.joint.JointFinetuning`.
        auxiliary: Further objectives, as in :class:`gazelit.stages.joint.JointFinetuning`.
        features: Folder of ``gazelit embed``. Its embeddings replace films and a frozen encoder: the training is then a
            probe of that encoder.
        options: See :class:`Stage`.

    Raises:
        InputError: ``features`` is given together with objectives that need maps.
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
        features: str | None = None,
        **options: Any,
    ) -> None:
        super().__init__(network, **options)
        self.auxiliary = auxiliary_modules(auxiliary)
        if features is not None and auxiliary:
            raise InputError("features: objectives beside the diagnosis need films; leave out auxiliary")
        self.features = features
        self._stored: StoredFeatures | None = None
        self.diagnosis_loss = diagnosis_loss if diagnosis_loss is not None else DiagnosisLoss()

    @property
    def reads_features_alone(self) -> bool:
        """Whether the stage needs no film."""
        return self.features is not None and self.trainer.state.fn == TrainerFn.FITTING

    def on_fit_start(self) -> None:
        """Opens the features, once the frozen weights are final.

        Raises:
            InputError: The features are of another store, encoder or weights, or images are augmented.
        """
        super().on_fit_start()
        if self.features is not None:
            self._stored = StoredFeatures(self.features, "pooled", self, self._gaze_data)

    def on_fit_end(self) -> None:
        """Runs the encoder again from now on, because films may change."""
        if self._stored is not None:
            self._stored.rows, self._stored = None, None

    def _step(self, batch: Batch) -> tuple[Tensor, Outputs, dict[str, Tensor]]:
        if self._stored is not None:
            self._stored.rows = batch["index"]
        outputs = self(batch["image"])
        loss = self.diagnosis_loss(outputs, batch)
        total, parts = self._with_auxiliary(loss, outputs, batch)
        return total, outputs, {"diagnosis_loss": loss.detach(), **parts} if parts else {}

    def _objectives(self) -> dict[str, Objective]:
        return {"diagnosis": self.diagnosis_loss}
