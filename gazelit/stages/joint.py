"""Stage 3: joint cooperative fine-tuning of diagnosis and gaze."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from gazelit.errors import InputError
from gazelit.losses.auxiliary import AuxiliaryLoss, auxiliary_modules
from gazelit.losses.diagnosis import DiagnosisLoss
from gazelit.losses.multitask import ReferenceWeighting
from gazelit.losses.objective import Objective
from gazelit.losses.saliency import KLDivergenceLoss, SaliencyLoss, check_side_heads
from gazelit.losses.weighting import TaskWeighting, weigh
from gazelit.models.network import Network
from gazelit.stages.base import Batch, Outputs, Stage
from gazelit.stages.task_schedule import TaskSchedule, leave_out_paused
from gazelit.stages.teacher import TeacherForcing

#: Learning rate of what a weighting learns, see :class:`JointFinetuning`.
WEIGHTING_RATE = 1e-2


class JointFinetuning(Stage):
    """Trains diagnosis and gaze together; each task uses the features of the other.

    Stage 3 of Qiu, Rivaz and Xiao 2025: every component is trained, the classifier from scratch.

    Args:
        network: Gives ``{"logits": (B, K), "saliency_logits": (B, 1, H, W)}``.
        diagnosis_loss: An objective over ``logits`` (B, K); :class:`gazelit.losses.DiagnosisLoss` unless given:
            cross-entropy, or over several labels binary cross-entropy that leaves out unknown ones.
        saliency_loss: As in :class:`gazelit.stages.saliency.SaliencyWarmup`.
        weighting: Takes ``{"diagnosis": loss, "saliency": loss}``, gives the scalar to minimise; the reference
            implementation's uncertainty weighting unless given. Its own parameters are trained, too; ``learning_rates``
            may name it. Its σ has the rate 1e-2 unless given, so that the balance is found within the first epochs,
            whatever the network's rate. Adam moves log σ by at most the rate in a step. With a network's 1e-4 a
            training could end before the balance is found.
        schedule: When each task is trained; both in every step unless given.
        teacher_forcing: Whether a classifier that pools by gaze is given the reader's gaze in training: for all films,
            or for a share that changes from epoch to epoch (:class:`gazelit.stages.teacher.TeacherForcing`).
        gaze_at_test: Whether a classifier that pools by gaze is validated and tested a second time, with the reader's
            gaze: its performance if an eye tracker were at hand. These metrics have ``with_gaze/`` in their names, and
            the predictions have columns of their own. No checkpoint is selected by them unless configured.
        auxiliary: Further objectives, added in training to the output of ``weighting``, such as
            :class:`gazelit.losses.AttentionConsistencyLoss`.
        options: See :class:`Stage`.

    Raises:
        InputError: ``teacher_forcing`` or ``gaze_at_test`` is set, but the network does not pool by gaze; ``schedule``
            names unknown tasks, or separates tasks that ``weighting`` has to compare; or the network has side heads
            that ``saliency_loss`` does not train.
    """

    name: ClassVar[str] = "joint"
    measures: ClassVar[tuple[str, ...]] = ("diagnosis", "saliency")
    learned_parts: ClassVar[tuple[str, ...]] = ("weighting",)
    injected: ClassVar[tuple[str, ...]] = (
        *Stage.injected, "diagnosis_loss", "saliency_loss", "weighting", "schedule", "teacher_forcing", "auxiliary"
    )  # fmt: skip

    def __init__(
        self,
        network: Network,
        diagnosis_loss: Objective | None = None,
        saliency_loss: SaliencyLoss | None = None,
        weighting: TaskWeighting | None = None,
        schedule: TaskSchedule | None = None,
        teacher_forcing: bool | TeacherForcing = False,
        gaze_at_test: bool = False,
        auxiliary: Sequence[AuxiliaryLoss] = (),
        **options: Any,
    ) -> None:
        super().__init__(network, **options)
        for option, value in (("teacher_forcing", teacher_forcing), ("gaze_at_test", gaze_at_test)):
            if value and not network.pools_by_gaze:
                raise InputError(f"{option}: the classifier does not pool by gaze; set classifier_pooling: gaze")
        self.gaze_at_test = gaze_at_test
        self.diagnosis_loss = diagnosis_loss if diagnosis_loss is not None else DiagnosisLoss()
        self.saliency_loss = saliency_loss if saliency_loss is not None else KLDivergenceLoss()
        check_side_heads(self.saliency_loss, network.side_head_count)
        self.weighting = weighting if weighting is not None else ReferenceWeighting()
        self.learning_rates.setdefault("weighting", WEIGHTING_RATE)
        self.schedule = schedule if schedule is not None else TaskSchedule()
        self.schedule.check(self.measures, type(self.weighting).__name__ if self.weighting.compares_tasks else None)
        self.auxiliary = auxiliary_modules(auxiliary)
        self.teacher = TeacherForcing() if teacher_forcing is True else teacher_forcing or None

    def _step(self, batch: Batch) -> tuple[Tensor, Outputs, dict[str, Tensor]]:
        attention = None
        if self.teacher is not None and self.training:
            attention = self.teacher.attention(batch["heatmap"], self.current_epoch)
        outputs = self(batch["image"], *([] if attention is None else [attention]))
        losses = {task: objective(outputs, batch) for task, objective in self._objectives().items()}
        logged = {f"{task}_loss": loss.detach() for task, loss in losses.items()}
        if self.training:
            total = weigh(self.weighting, losses, self._trained(), self._active_tasks())
        else:
            total = self.weighting(losses)
        total, parts = self._with_auxiliary(total, outputs, batch)
        return total, outputs, {**logged, **parts}

    def _objectives(self) -> dict[str, Objective]:
        return {"diagnosis": self.diagnosis_loss, "saliency": self.saliency_loss}

    def _trained(self) -> list[nn.Parameter]:
        return [parameter for parameter in self.parameters() if parameter.requires_grad]

    def _active_tasks(self) -> list[str]:
        return self.schedule.active(self.measures, self.current_epoch, self.global_step)

    def on_fit_start(self) -> None:
        """Checks the whole schedule, so that it does not fail in a later epoch.

        Raises:
            InputError: In one of the epochs no task is trained.
        """
        super().on_fit_start()
        for epoch in range(self.trainer.max_epochs or 0):
            self.schedule.active(self.measures, epoch, 0)

    def on_train_epoch_start(self) -> None:
        """Begins an epoch of the weighting; here, because checkpoints are written before an epoch's end."""
        super().on_train_epoch_start()
        self.weighting.begin_epoch(self._trained())

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Checks the step's losses and gradients, and leaves out parameters that only a paused task trains."""
        super().on_before_optimizer_step(optimizer)
        if len(self._active_tasks()) < len(self.measures):
            leave_out_paused(self.parameters())

    def _epoch_values(self) -> dict[str, Tensor]:
        taught = {}
        if self.teacher is not None:
            taught["teacher_forcing"] = torch.tensor(self.teacher.share(self.current_epoch))
        return {**super()._epoch_values(), **self.weighting.learned(), **taught}

    def _with_selection(self, means: dict[str, Tensor]) -> dict[str, Tensor]:
        losses = {task: means.get(f"{task}_loss", torch.zeros((), device=self.device)) for task in self.measures}
        if "loss" in means:
            # If targets are missing, the batches' weighted sums are no mean over images; the weighted sum of the means
            # is.
            means["loss"] = self.weighting({task: loss.float() for task, loss in losses.items()})
        return super()._with_selection(means)
