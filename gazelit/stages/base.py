"""What every stage shares: one network of named components, one training step, the checkpoint's stamp."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal, cast

import torch
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from torch.optim.lr_scheduler import ReduceLROnPlateau
from torchmetrics import Metric

from gazelit.checkpoints import formats, handoff, stamps, teachers
from gazelit.errors import InputError
from gazelit.losses.auxiliary import AuxiliaryLoss
from gazelit.metrics.custom import check_metrics
from gazelit.models.adapters import keep_statistics
from gazelit.models.execution import Execution, apply_execution, freeze_all_but, layers_of, reached, shard
from gazelit.models.network import Network
from gazelit.models.untrained import left_untrained
from gazelit.stages import unfinished_epoch
from gazelit.stages.evaluation import Batch, EvaluatedModule, Outputs
from gazelit.stages.nonfinite import OnNonFinite, StepGuard, check_checkpoint
from gazelit.stages.optimisation import average_gradient, global_seed, parameter_groups, scale_rates, seed_batch
from gazelit.stages.resume import apply_options


class Stage(EvaluatedModule):
    """A training stage: a network, what it is trained on, and which of its components stay as they are.

    A subclass names its stage and implements :meth:`_step`; nothing has to be registered. The network's components
    (see ``docs/architecture.md``) are what stages hand to each other. Many arguments, because each is an option of a
    configuration (``--model.frozen``).

    Args:
        network: The network; its direct children are the components.
        optimizer: Makes the optimiser from the trainable parameters; Adam with learning rate 1e-4 unless given.
        lr_scheduler: Makes the learning-rate scheduler, stepped once an epoch.
        frozen: Components that are not trained. Their BatchNorm statistics stay as they are, too.
        learning_rates: Learning rate by component, or by a part of the objective that the stage names; the others have
            the optimiser's.
        layer_decay: By component, the learning rate of each of its layers over that of the next layer towards the
            output, such as 0.75 for a pretrained transformer (Clark et al., ELECTRA, 2020).
        conventions: Further conventions, besides gazelit's own, by which saliency metrics are computed at test, such as
            ``mit`` (``docs/metrics.md``).
        metrics: Further metrics of validation and test, each a ``torchmetrics.Metric`` that takes ``update(outputs,
            batch)``, such as a :class:`gazelit.metrics.CaseMetric` (``docs/extending.md``).
        execution: Which components are compiled or recompute their activations, and how maps lie in memory; plain
            unless given.
        on_nonfinite: What a loss or gradient that is not finite does: ``stop`` the training at that step, or ``skip``
            the step.
        max_skipped: How many steps of an epoch may be skipped.

    Raises:
        InputError: ``frozen``, ``learning_rates`` or ``layer_decay`` names a component the network lacks; a learning
            rate is negative or of a frozen component; nothing is left to train; two metrics have one name; an option is
            impossible.
    """

    #: Beginning of the names of the outputs that the objective depends on.
    trains: ClassVar[str] = ""
    #: Parts of the objective that ``learning_rates`` may name besides the network's components.
    learned_parts: ClassVar[tuple[str, ...]] = ()
    #: Whether batches must have the gaze as sequences (``events``, ``reading``, ``reader``, ``finding``).
    needs_events: ClassVar[bool] = False
    #: Constructor arguments that are objects; kept out of the checkpoint when the stage is built from Python.
    injected: ClassVar[tuple[str, ...]] = ("network", "optimizer", "lr_scheduler", "metrics", "execution")

    def __init__(
        self,
        network: Network,
        optimizer: OptimizerCallable = lambda parameters: torch.optim.Adam(parameters, lr=1e-4),
        lr_scheduler: LRSchedulerCallable | None = None,
        frozen: Sequence[str] = (),
        learning_rates: dict[str, float] | None = None,
        layer_decay: dict[str, float] | None = None,
        conventions: Sequence[Literal["mit", "reference"]] = (),
        metrics: Sequence[Metric] = (),
        execution: Execution | None = None,
        on_nonfinite: OnNonFinite = "stop",
        max_skipped: int = 10,
    ) -> None:
        super().__init__()
        self._save_primitive_hyperparameters()
        self.network = network
        self.make_optimizer = optimizer
        self.make_lr_scheduler = lr_scheduler
        self.frozen = tuple(frozen)
        self.learning_rates = dict(learning_rates or {})
        self.layer_decay = dict(layer_decay or {})
        self.conventions = tuple(conventions)
        check_metrics(metrics)
        self.custom_metrics = tuple(metrics)
        self.execution = execution if execution is not None else Execution()
        self.guard = StepGuard(on_nonfinite, max_skipped)
        self.auxiliary = nn.ModuleList()
        #: The hand-off this run started from, see :meth:`take_over`.
        self.hand_off: handoff.HandOff | None = None
        #: Set before a resume: the checkpoint then fills every component, and no pretrained weights are fetched.
        self.resumes = False
        self._teachers: list[dict[str, Any]] | None = None
        #: The stamp of a resumed checkpoint.
        self._former: dict[str, Any] = {}
        self._untrained: dict[str, list[str]] = {}
        self._resumed: dict[str, Any] | None = None
        self._unfinished: dict[str, Any] | None = None
        self._pending_metrics: dict[str | None, float] = {}
        #: Whether an epoch's batches are over, but schedules that follow a metric have not been stepped.
        self._schedules_pending = False
        #: The epoch's further training values, once its batches are over.
        self._epoch_log: dict[str, Tensor] = {}

        rated = (*network.specs, *self.learned_parts)
        for option, named, known in (
            ("frozen", self.frozen, tuple(network.specs)),
            ("learning_rates", self.learning_rates, rated),
            ("layer_decay", self.layer_decay, tuple(network.specs)),
        ):
            unknown = [component for component in named if component not in known]
            if unknown:
                raise InputError(f"{option}: no component {', '.join(unknown)}; the network has {', '.join(known)}")
        for component, rate in self.learning_rates.items():
            if not rate >= 0 or component in self.frozen:
                raise InputError(f"learning_rates: {component} must be at least 0, and not of a frozen component")
        for component, decay in self.layer_decay.items():
            if not 0 < decay <= 1 or component in self.frozen:
                raise InputError(
                    f"layer_decay: {component} must be above 0 and at most 1, and not of a frozen component"
                )
        for component in self.frozen:
            # Lightning keeps the mode a module has at the start of fit, and does not call train() itself.
            network.get_submodule(component).requires_grad_(False).eval()
        if not any(parameter.requires_grad for parameter in self.network.parameters()):
            raise InputError("frozen: every component is frozen, so there is nothing to train")
        if "diagnosis" in self.measures:
            if network.classes is None:
                raise InputError(f"network: stage '{self.name}' needs a classifier; set its classes")
            #: Divides the logits of what is predicted; 1 until `gazelit calibrate` has fitted it.
            self.register_buffer("temperature", torch.ones(network.classes))

    def _save_primitive_hyperparameters(self) -> None:
        # Under the CLI Lightning stores the parsed configuration, which is primitive; built from Python the arguments
        # are live objects, which a checkpoint read with weights_only=True must not hold.
        self.save_hyperparameters(ignore=list(self.injected), logger=False)
        if "_instantiator" in self.hparams:
            self.save_hyperparameters(logger=False)

    def forward(self, image: Tensor, *arguments: Any) -> Outputs:
        """Runs the network on images (B, 1, H, W)."""
        if self.execution.channels_last:
            image = image.to(memory_format=torch.channels_last)
        return self.network(image, *arguments)

    def train(self, mode: bool = True) -> Stage:
        """Sets the training mode; frozen components stay in evaluation mode, so BatchNorm statistics cannot drift."""
        super().train(mode)
        keep_statistics(self.network)
        for component in self.frozen:
            self.network.get_submodule(component).eval()
        return self

    def prepare_data(self) -> None:
        """Lets one process per node fetch pretrained weights into the cache before all of them load them."""
        self._load_pretrained()

    def setup(self, stage: str) -> None:
        """Makes the metrics and loads the pretrained weights of components that no checkpoint fills."""
        self._make_metrics()
        self._load_pretrained()
        if stage == TrainerFn.FITTING:
            if self._teachers is None:
                self.take_teachers(getattr(self._datamodule, "provenance", {}))
            size = tuple(getattr(self._datamodule, "provenance", {}).get("size", (64, 64)))
            trained = reached(self.network, self.trains, size)
            if not self.resumes:
                before = {} if self.hand_off is None else self.hand_off.untrained
                self._untrained = left_untrained(self.network, self.frozen, trained, before)
            freeze_all_but(trained, self.network)
            apply_execution(self.network, self.execution, size)

    def _load_pretrained(self) -> None:
        if self.trainer.state.fn != TrainerFn.FITTING or self.resumes:
            return
        handed_over = self.hand_off.loaded if self.hand_off else ()
        for component in self.network.specs:
            if component not in handed_over:
                self.network.load_pretrained(component)

    def configure_model(self) -> None:
        """Shards the components over processes under Lightning's ``ModelParallelStrategy`` (FSDP2).

        Raises:
            InputError: The strategy has processes for tensor parallelism, as configured or by its default.
        """
        if self.device_mesh is not None and not isinstance(self.network, FSDPModule):
            if self.device_mesh["tensor_parallel"].size() > 1:
                # Lightning's default on one node; every process would train on its own share alone.
                raise InputError(
                    "ModelParallelStrategy: networks are sharded over data-parallel processes; set "
                    "--trainer.strategy.tensor_parallel_size=1 and --trainer.strategy.data_parallel_size=PROCESSES"
                )
            shard(self.network, self.device_mesh["data_parallel"])
            for parameter in set(self.parameters()) - set(self.network.parameters()):
                # What the objective learns is a few numbers: every process holds them and they agree on the gradient.
                parameter.register_post_accumulate_grad_hook(average_gradient)

    def on_fit_start(self) -> None:
        """Forgets the temperature of a calibrated checkpoint: other weights will need another."""
        if "diagnosis" in self.measures:
            self.temperature.fill_(1.0)

    def on_train_start(self) -> None:
        """Continues within an epoch if the checkpoint was written within one."""
        if self._unfinished is not None:
            self.resume_epoch(self._unfinished)
            unfinished_epoch.number_batches(self.trainer)
        unfinished_epoch.step_pending(self.trainer, self._pending_metrics)
        self._pending_metrics = {}
        # Those of an epoch whose batches were over when it was interrupted.
        for name, value in self._epoch_log.items():
            self._log_once(f"train/{name}", value)

    def on_train_epoch_end(self) -> None:
        """Has Lightning also step the schedules that follow a metric after a resumed epoch."""
        if self._unfinished is not None:
            self.trainer.fit_loop._restarting = False
            self._unfinished = None

    def on_train_epoch_start(self) -> None:
        """Begins the epoch's count of skipped steps."""
        self._epoch_log = {}
        self.guard.begin_epoch()

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        """Seeds the batch, so that a resumed run draws the same random numbers."""
        unfinished_epoch.note_batch(self.trainer, is_last=batch_idx + 1 >= self.trainer.num_training_batches)
        seed_batch(self.current_epoch, batch_idx, self.global_rank)
        self.guard.begin_batch(self)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Computes a batch's loss; adds it, its parts and the points moved off the image to the epoch's means."""
        loss, _, parts = self._step(batch)
        self.guard.add(batch_idx, batch, loss, parts)
        weights = self._weights(batch, loss, parts)
        # A step that is skipped does not count.
        usable = {name: torch.where(loss.isfinite(), weight, 0.0) for name, weight in weights.items()}
        self.train_means.update({"loss": loss, **parts}, usable)
        moved = batch["points_off_image"].float().mean()
        self.train_means.update({"points_off_image": moved}, len(batch["image"]))
        return loss

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Checks that the losses and gradients of the step are finite.

        Raises:
            NonFiniteError: A loss or gradient is not finite; see ``on_nonfinite``.
        """
        self.guard.check(self, optimizer)

    def on_train_batch_end(self, outputs: Any, batch: Batch, batch_idx: int) -> None:
        """Logs the epoch's values after its last batch, before callbacks use them at the epoch's end."""
        if not self.trainer.is_last_batch and not 0 < self.trainer.max_steps <= self.global_step:
            return
        unfinished_epoch.note_batch(self.trainer, is_last=True)
        self._schedules_pending = self.trainer.is_last_batch
        values = {**self.train_means.compute(), **self._epoch_values()}
        self.train_means.reset()
        self._epoch_log = {name: value.detach().cpu() for name, value in values.items()}
        for name, value in values.items():
            self._log_once(f"train/{name}", value, prog_bar=name == "loss")

    def _epoch_values(self) -> dict[str, Tensor]:
        """The values of a training epoch that are not means over images; equal in all processes."""
        return {"skipped_steps": torch.tensor(float(self.guard.skipped))} if self.guard.skips else {}

    def interrupted_epoch(self) -> dict[str, Any]:
        """The state of an unfinished epoch, which other checkpoints do not hold. Every process must call it."""
        gathered = {"sums": self.train_means.sums(), "skipped_steps": self.guard.skipped}
        return {**gathered, "values": self._epoch_log}

    def resume_epoch(self, gathered: Mapping[str, Any]) -> None:
        """Restores the state that :meth:`interrupted_epoch` returned."""
        self.train_means.restore(gathered["sums"])
        self.guard.skipped = gathered["skipped_steps"]
        self._epoch_log = dict(gathered.get("values", {}))

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """Builds the optimiser over the trainable parameters only, and the scheduler if there is one."""
        optimizer = self.make_optimizer(self._parameter_groups())
        scale_rates(optimizer)
        scheduler = None if self.make_lr_scheduler is None else self.make_lr_scheduler(optimizer)
        if self._resumed is not None:
            apply_options(self._resumed, optimizer, scheduler)
            self._resumed = None
        if scheduler is None:
            return optimizer
        if isinstance(scheduler, ReduceLROnPlateau):
            monitor = getattr(scheduler, "monitor", "val/selection")
            return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "monitor": monitor}}
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler}}

    def lr_scheduler_step(self, scheduler: Any, metric: Any | None) -> None:
        """Steps a schedule; notes when those that follow a metric have been stepped."""
        super().lr_scheduler_step(scheduler, metric)
        self._schedules_pending = self._schedules_pending and metric is None

    def _parameter_groups(self) -> list[Any]:
        """The trained parameters: a group for each part with a learning rate of its own, and one for the rest."""
        parts: dict[str, tuple[nn.Module, float]] = {}
        for name, rate in self.learning_rates.items():
            part = getattr(self, name) if name in self.learned_parts else self.network.get_submodule(name)
            parts[name] = (part, rate)
        size = tuple(getattr(self._datamodule, "provenance", {}).get("size", (64, 64)))
        layers = {name: (layers_of(self.network, name, size), decay) for name, decay in self.layer_decay.items()}
        return parameter_groups(self, parts, layers)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Stamps the checkpoint.

        Raises:
            NonFiniteError: Its weights or the optimiser's state are not finite.
        """
        check_checkpoint(checkpoint, self)
        checkpoint[stamps.STAMP_KEY] = self.stamp()
        if self._trainer is None or unfinished_epoch.UNFINISHED_KEY in checkpoint:
            return
        if unfinished_epoch.is_amid(self.trainer):
            checkpoint[unfinished_epoch.UNFINISHED_KEY] = self.interrupted_epoch()
        elif self._schedules_pending:
            unfinished_epoch.note_metrics(self.trainer, checkpoint)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keeps the ancestry of a resumed run, and replaces the optimiser's stored options by those given now."""
        if self.trainer.state.fn == TrainerFn.FITTING:
            self._resumed = checkpoint
            self._unfinished = checkpoint.get(unfinished_epoch.UNFINISHED_KEY)
            self._pending_metrics = checkpoint.get(unfinished_epoch.METRICS_KEY, {})
            if self.trainer.optimizers:
                # Sharded modules are restored when their optimisers are there already.
                configs = self.trainer.lr_scheduler_configs
                apply_options(checkpoint, self.trainer.optimizers[0], configs[0].scheduler if configs else None)
                self._resumed = None
        if stamps.STAMP_KEY in checkpoint:
            self._former = checkpoint[stamps.STAMP_KEY]
            formats.migrate(self._former, str(self.trainer.ckpt_path or "the checkpoint"))

    def stamp(self) -> dict[str, Any]:
        """The stamp of a checkpoint written now."""
        present = self._teachers or []
        # Teachers of the run before a resume stay recorded, even if the resumed run has others.
        known = {record["sha256"] for record in present}
        former = [record for record in self._former.get("teachers", []) if record["sha256"] not in known]
        return stamps.make_stamp(
            stage=self.name,
            network=self.network,
            data=getattr(self._datamodule, "provenance", {}),
            seed=global_seed(),
            parent=self.hand_off.parent if self.hand_off else self._former.get("parent"),
            teachers=[*present, *former],
            untrained=self._former.get("untrained", self._untrained),
        )

    def take_teachers(self, data: Mapping[str, Any], allowed: bool = False) -> list[str]:
        """Loads the teachers of the auxiliary objectives. Training calls it if it was not called before.

        Args:
            data: Provenance of the data that the stage will be trained on.
            allowed: Whether a teacher is taken that may have seen patients of the test split.

        Returns:
            A line on each teacher: its losses, stage, checkpoint, and the note on its split.

        Raises:
            InputError: See :func:`gazelit.checkpoints.teachers.take_teachers`.
        """
        taught = teachers.taught_losses(cast(Sequence[AuxiliaryLoss], self.auxiliary))
        self._teachers = teachers.take_teachers(taught, data, self.measures, allowed)
        return [
            f"teacher of {', '.join(record['taught'])}: stage '{record['stage']}' (checkpoint {record['sha256'][:12]})"
            + (f"; {record['split_note']}" if record["split_note"] else "")
            for record in self._teachers
        ]

    def take_over(self, path: str | os.PathLike[str], split_note: str | None = None) -> handoff.HandOff:
        """Takes the shared components from a checkpoint; call it before training.

        Args:
            path: The checkpoint.
            split_note: A note on the split that it was trained on; it is recorded in the stamp.

        Raises:
            InputError: The checkpoint does not fit; the network is then untouched.
        """
        self.hand_off = handoff.hand_over(path, self.network, self.name, split_note)
        return self.hand_off
