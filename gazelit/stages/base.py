"""What every stage shares: one network of named components, one step, metrics by output, the checkpoint's stamp."""

from __future__ import annotations

import os
from abc import abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Literal

import lightning as L
import torch
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from torch.optim.lr_scheduler import ReduceLROnPlateau

from gazelit import lineage
from gazelit.data.heatmap import fixation_counts
from gazelit.errors import InputError
from gazelit.losses.saliency import log_density
from gazelit.metrics import DiagnosisMetrics, ImageMeans, SaliencyMetrics, saliency_values
from gazelit.metrics.calibration import probabilities
from gazelit.metrics.saliency import names_at_test, values_at_test
from gazelit.models.execution import Execution, apply_execution, shard, unreached
from gazelit.models.network import Network
from gazelit.stages.resume import apply_options

Batch = dict[str, Tensor]
Outputs = dict[str, Tensor]


class Stage(L.LightningModule):
    """A training stage: a network, what it is trained on, and which of its components stay as they are.

    A subclass names its stage and implements :meth:`_step`; nothing has to be registered. The network's components
    (see ``docs/architecture.md``) are what stages hand to each other.

    Args:
        network: The network; its direct children are the components.
        optimizer: Makes the optimiser from the trainable parameters; Adam with learning rate 1e-4 unless given.
        lr_scheduler: Makes the learning-rate scheduler, stepped once an epoch.
        frozen: Components that are not trained. Their BatchNorm statistics stay as they are, too.
        learning_rates: Learning rate by component; the others, and what the objective learns, have the optimiser's.
        conventions: Conventions besides gazelit's own that saliency metrics are also told in at test, such as ``mit``
            (``docs/metrics.md``).
        execution: Which components are compiled or recompute their activations, and how maps lie in memory; plain
            unless given.

    Raises:
        InputError: ``frozen`` or ``learning_rates`` names a component the network lacks, a learning rate is negative or
            of a frozen component, or nothing is left to train.
    """

    #: Name in checkpoints, logs and run folders.
    name: ClassVar[str]
    #: What the outputs are measured by: ``diagnosis``, ``saliency``.
    measures: ClassVar[tuple[str, ...]] = ()
    #: Beginning of the names of the outputs that the objective depends on.
    trains: ClassVar[str] = ""
    #: Constructor arguments that are objects; kept out of the checkpoint when the stage is built from Python.
    injected: ClassVar[tuple[str, ...]] = ("network", "optimizer", "lr_scheduler", "execution")

    def __init__(
        self,
        network: Network,
        optimizer: OptimizerCallable = lambda parameters: torch.optim.Adam(parameters, lr=1e-4),
        lr_scheduler: LRSchedulerCallable | None = None,
        frozen: Sequence[str] = (),
        learning_rates: dict[str, float] | None = None,
        conventions: Sequence[Literal["mit", "reference"]] = (),
        execution: Execution | None = None,
    ) -> None:
        super().__init__()
        self._save_primitive_hyperparameters()
        self.network = network
        self.make_optimizer = optimizer
        self.make_lr_scheduler = lr_scheduler
        self.frozen = tuple(frozen)
        self.learning_rates = dict(learning_rates or {})
        self.conventions = tuple(conventions)
        self.execution = execution if execution is not None else Execution()
        #: The hand-off this run started from, see :meth:`take_over`.
        self.hand_off: lineage.HandOff | None = None
        #: Set before a resume: the checkpoint then fills every component, and no pretrained weights are fetched.
        self.resumes = False
        self._parent: dict[str, Any] | None = None
        self._resumed: dict[str, Any] | None = None

        for option, named in (("frozen", self.frozen), ("learning_rates", self.learning_rates)):
            unknown = [component for component in named if component not in network.specs]
            if unknown:
                raise InputError(
                    f"{option}: no component {', '.join(unknown)}; the network has {', '.join(network.specs)}"
                )
        for component, rate in self.learning_rates.items():
            if not rate >= 0 or component in self.frozen:
                raise InputError(f"learning_rates: {component} must be at least 0, and not of a frozen component")
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

    temperature: Tensor

    def _save_primitive_hyperparameters(self) -> None:
        # Under the CLI Lightning stores the parsed configuration, which is primitive; built from Python the arguments
        # are live objects, which a checkpoint read with weights_only=True must not hold.
        self.save_hyperparameters(ignore=list(self.injected), logger=False)
        if "_instantiator" in self.hparams:
            self.save_hyperparameters(logger=False)

    @abstractmethod
    def _step(self, batch: Batch) -> tuple[Tensor, Outputs, dict[str, Tensor]]:
        """Runs the network and its objective on a batch.

        Returns:
            The loss to minimise, the network's outputs, and further scalars to log beside the loss.
        """

    def forward(self, image: Tensor, *arguments: Tensor | None) -> Outputs:
        """Runs the network on images (B, 1, H, W)."""
        if self.execution.channels_last:
            image = image.to(memory_format=torch.channels_last)
        return self.network(image, *arguments)

    def train(self, mode: bool = True) -> Stage:
        """Sets the training mode; frozen components stay in evaluation mode, so BatchNorm statistics cannot drift."""
        super().train(mode)
        for component in self.frozen:
            self.network.get_submodule(component).eval()
        return self

    def prepare_data(self) -> None:
        """Lets one process per node fetch pretrained weights into the cache before all of them load them."""
        self._load_pretrained()

    def setup(self, stage: str) -> None:
        """Makes the metrics and loads the pretrained weights of components that no checkpoint fills."""
        provenance = getattr(self._datamodule, "provenance", {})
        self._exclusive = bool(provenance.get("exclusive", True))
        self.mean_metrics = _per_split(ImageMeans)
        if "diagnosis" in self.measures:
            classes = int(self.network.classes or 0)
            names = provenance.get("class_names") or [str(one) for one in range(classes)]
            if len(names) != classes:
                raise InputError(
                    f"labels: the data have {len(names)}, but the network tells {classes} classes apart; set "
                    f"--model.network.classes={len(names)}, or name other --data.labels"
                )
            self.diagnosis_metrics = _per_split(lambda: DiagnosisMetrics(names, self._exclusive))
        if "saliency" in self.measures:
            at_test = SaliencyMetrics(names_at_test(self.conventions))
            self.saliency_metrics = nn.ModuleDict({"val": SaliencyMetrics(), "test": at_test})
        self._load_pretrained()
        if stage == TrainerFn.FITTING:
            size = tuple(provenance.get("size", (64, 64)))
            for parameter in unreached(self.network, self.trains, size):
                parameter.requires_grad_(False)
            apply_execution(self.network, self.execution, size)

    @property
    def _datamodule(self) -> L.LightningDataModule | None:
        return getattr(self._trainer, "datamodule", None)

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
            InputError: The strategy is told, or by default takes, processes for tensor parallelism.
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
                parameter.register_post_accumulate_grad_hook(_average_gradient)

    def on_fit_start(self) -> None:
        """Forgets the temperature of a calibrated checkpoint: other weights will need another."""
        if "diagnosis" in self.measures:
            self.temperature.fill_(1.0)

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        """Makes a step's random numbers (dropout) a function of seed and step, so that a resumed run repeats them."""
        seed = torch.initial_seed() if (stored := _global_seed()) is None else stored
        torch.manual_seed(((seed * 1_000_003 + self.global_step) * 4_099 + self.global_rank) % 2**63)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """One optimisation step; logs ``train/loss``, the objective's parts and gaze that augmentation moved away."""
        loss, _, parts = self._step(batch)
        size = batch["image"].shape[0]
        self.log("train/loss", loss, on_step=False, on_epoch=True, prog_bar=True, batch_size=size, sync_dist=True)
        moved = batch["points_off_image"].float().mean()
        self.log_dict(
            {f"train/{key}": value for key, value in {**parts, "points_off_image": moved}.items()},
            on_step=False,
            on_epoch=True,
            batch_size=size,
            sync_dist=True,
        )
        return loss

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Logs ``val/loss``, the objective's parts and the metrics."""
        self._evaluate(batch, "val")

    def test_step(self, batch: Batch, batch_idx: int) -> Outputs:
        """Logs the same under ``test/`` and returns per-case values for the prediction table."""
        return self._evaluate(batch, "test")

    def predict_step(self, batch: Batch, batch_idx: int) -> Outputs:
        """Returns per-case predictions."""
        return {"index": batch["index"], **self._predictions(self(batch["image"]))}

    def _evaluate(self, batch: Batch, split: str) -> Outputs:
        loss, outputs, parts = self._step(batch)
        self._metrics("mean", split).update({"loss": loss, **parts}, len(batch["image"]))
        per_case = self._update_metrics(split, batch, outputs)
        return {"index": batch["index"], **self._predictions(outputs), **per_case}

    def _predictions(self, outputs: Outputs) -> Outputs:
        """Per-case predictions for the table: ``logits`` as the network gives them, and ``probabilities``, (B, K)."""
        if "diagnosis" not in self.measures:
            return {}
        logits = outputs["logits"].float()
        return {"logits": logits, "probabilities": probabilities(logits, self.temperature, self._exclusive)}

    def _update_metrics(self, split: str, batch: Batch, outputs: Outputs) -> Outputs:
        """Updates a split's metrics and returns its per-case values, each (B,)."""
        per_case: Outputs = {}
        if "diagnosis" in self.measures:
            self._metrics("diagnosis", split).update(self._predictions(outputs)["probabilities"], batch["label"])
            per_case["label" if self._exclusive else "labels"] = batch["label"]
        if "saliency" in self.measures:
            maps = (
                # A softmax is never zero; float32's is, and a KLD would be infinite.
                log_density(outputs["saliency_logits"]).exp().clamp(min=torch.finfo(torch.float32).tiny)[:, 0],
                batch["heatmap"][:, 0],
                fixation_counts(batch["points"], (batch["image"].shape[-2], batch["image"].shape[-1])),
                batch["valid_mask"][:, 0],
            )
            if split == "test":
                bias = self._datamodule.centre_bias(batch["index"].cpu())  # type: ignore[union-attr]
                values = values_at_test(*maps, bias, self.conventions)
            else:
                values = saliency_values(*maps)
            self._metrics("saliency", split).update(values)
            # σ decides what a map metric means; it is logged beside them.
            seen = batch["has_gaze"]
            sigma = torch.where(seen, batch["sigma_px"], 0.0).sum() / seen.sum().clamp(min=1)
            self._metrics("mean", split).update({"sigma_px": sigma}, int(seen.sum()))
            per_case |= values | {"gaze_points": (batch["points"][..., 2] > 0).sum(1)}
        return per_case

    def _metrics(self, kind: str, split: str) -> Any:
        return getattr(self, f"{kind}_metrics")[split]

    def _log_metrics(self, split: str) -> None:
        for kind in ("mean", *self.measures):
            metrics = self._metrics(kind, split)
            values = {f"{split}/{name}": value.float() for name, value in metrics.compute().items()}
            # compute() has gathered over processes, so that all hold the same value, and so has their mean.
            self.log_dict(values, prog_bar=split == "val" and kind == "mean", sync_dist=True)
            metrics.reset()

    def on_validation_epoch_end(self) -> None:
        """Logs the validation metrics."""
        self._log_metrics("val")

    def on_test_epoch_end(self) -> None:
        """Logs the test metrics."""
        self._log_metrics("test")

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """Builds the optimiser over the trainable parameters only, and the scheduler if there is one."""
        optimizer = self.make_optimizer(self._parameter_groups())
        scheduler = None if self.make_lr_scheduler is None else self.make_lr_scheduler(optimizer)
        if self._resumed is not None:
            apply_options(self._resumed, optimizer, scheduler)
            self._resumed = None
        if scheduler is None:
            return optimizer
        if isinstance(scheduler, ReduceLROnPlateau):
            monitor = getattr(scheduler, "monitor", "val/loss")
            return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "monitor": monitor}}
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler}}

    def _parameter_groups(self) -> list[Any]:
        """What is trained: a group for each component with a learning rate of its own, and one for the rest."""
        groups = []
        apart: set[int] = set()
        for component, rate in self.learning_rates.items():
            parameters = [one for one in self.network.get_submodule(component).parameters() if one.requires_grad]
            groups.append({"params": parameters, "lr": rate})
            apart |= {id(parameter) for parameter in parameters}
        rest = [one for one in self.parameters() if one.requires_grad and id(one) not in apart]
        return [{"params": rest}, *groups] if groups else rest

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Stamps the checkpoint."""
        checkpoint[lineage.STAMP_KEY] = self.stamp()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keeps the ancestry of a resumed run, and lets options given now win over the optimiser's stored ones."""
        if self.trainer.state.fn == TrainerFn.FITTING:
            self._resumed = checkpoint
            if self.trainer.optimizers:
                # Sharded modules are restored when their optimisers are there already.
                configs = self.trainer.lr_scheduler_configs
                apply_options(checkpoint, self.trainer.optimizers[0], configs[0].scheduler if configs else None)
                self._resumed = None
        self._parent = checkpoint.get(lineage.STAMP_KEY, {}).get("parent")

    def stamp(self) -> dict[str, Any]:
        """The stamp of a checkpoint written now."""
        return lineage.make_stamp(
            stage=self.name,
            network=self.network,
            data=getattr(self._datamodule, "provenance", {}),
            seed=_global_seed(),
            parent=self.hand_off.parent if self.hand_off else self._parent,
        )

    def take_over(self, path: str | os.PathLike[str], split_note: str | None = None) -> lineage.HandOff:
        """Takes the shared components from a checkpoint; call it before training.

        Args:
            path: The checkpoint.
            split_note: What is to be known of the split it was trained on; recorded.

        Raises:
            InputError: The checkpoint does not fit; the network is then untouched.
        """
        self.hand_off = lineage.hand_over(path, self.network, self.name, split_note)
        return self.hand_off


def _global_seed() -> int | None:
    # Lightning's own record of seed_everything, which it passes to the processes of a DDP run.
    seed = os.environ.get("PL_GLOBAL_SEED")
    return int(seed) if seed is not None else None


def _average_gradient(parameter: Tensor) -> None:
    if parameter.grad is not None:
        torch.distributed.all_reduce(parameter.grad)
        parameter.grad /= torch.distributed.get_world_size()


def _per_split(make: Callable[[], nn.Module]) -> nn.ModuleDict:
    return nn.ModuleDict({split: make() for split in ("val", "test")})
