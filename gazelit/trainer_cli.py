"""LightningCLI with one documented meaning of ``--ckpt_path``."""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import lightning as L
import torch
from lightning.fabric.plugins import CheckpointIO
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.utilities import rank_zero_only
from torch import Tensor

from gazelit import lineage
from gazelit.data.datamodule import GazeDataModule
from gazelit.errors import InputError
from gazelit.files import read_json
from gazelit.metrics.calibration import fit_temperature, negative_log_likelihood
from gazelit.stages import Stage
from gazelit.stages.callbacks import WANDB_FILE, PredictionWriter, RunRecord
from gazelit.stages.checkpoint_io import AtomicCheckpointIO
from gazelit.stages.checkpointing import EarlyEnd, StageCheckpoint
from gazelit.stages.privacy import withhold_from_wandb

logger = logging.getLogger("gazelit")

#: Names that Lightning resolves itself.
LIGHTNING_CHECKPOINTS = ("last", "best", "hpc")


class GazeTrainer(L.Trainer):
    """The trainer, with the signature of one command more."""

    def calibrate(
        self, model: Stage, out: Path, ckpt_path: str | None = None, weights_only: bool | None = None
    ) -> None:
        """Fits the temperature of a checkpoint's probabilities on the validation split.

        Args:
            model: The stage.
            out: The checkpoint to write: the same weights, with the temperature that `test` and `infer` will use.
            ckpt_path: The checkpoint to calibrate.
            weights_only: As in `test`.

        Raises:
            InputError: The stage has no classifier, the validation split no labels, or there are several processes.
        """
        if "diagnosis" not in model.measures:
            raise InputError(f"stage '{model.name}' has no classifier whose probabilities could be calibrated")
        if self.world_size > 1:
            raise InputError("calibrate runs in one process; set --trainer.devices=1")
        datamodule = cast(GazeDataModule, self.datamodule)  # type: ignore[attr-defined]
        datamodule.predict_split = "val"
        predicted = self.predict(model, datamodule=datamodule, ckpt_path=ckpt_path, weights_only=weights_only)
        batches = cast(list[dict[str, Tensor]], predicted)
        logits = torch.cat([batch["logits"] for batch in batches])
        label = datamodule.labels[torch.cat([batch["index"] for batch in batches])]
        temperature = fit_temperature(logits, label)
        before = negative_log_likelihood(logits, label, torch.ones_like(temperature))
        after = negative_log_likelihood(logits, label, temperature)
        lineage.write_calibrated(
            str(ckpt_path),
            out,
            temperature,
            {"split": "val", "n": len(label), "nll_before": round(before, 6), "nll_after": round(after, 6)},
        )
        text = ", ".join(f"{value:.3f}" for value in (temperature[:1] if datamodule.exclusive else temperature))
        _say(f"temperature {text}: {before:.4f} to {after:.4f} nats on {len(label)} validation cases; wrote {out}")


class GazeCLI(LightningCLI):
    """``gazelit fit|validate|test|predict|calibrate``.

    ``fit --ckpt_path FILE``: a checkpoint of the same stage resumes everything, and options given now win over those
    stored in it; a checkpoint of another stage hands over exactly the components both have, and training starts at
    epoch 0. Which of the two happened is logged. A stock LightningCLI (2.5.5 and later) instead lets the checkpoint's
    hyperparameters, its class included, replace the configuration, and so would run the earlier stage again
    (Lightning pull requests 21116 and 21246, issue 21255).

    Args:
        args: Command-line arguments, the subcommand first.
    """

    def __init__(self, args: Sequence[str]) -> None:
        self._ckpt_path: str | None = None
        withhold_from_wandb()
        super().__init__(
            model_class=Stage,
            datamodule_class=L.LightningDataModule,
            subclass_mode_model=True,
            subclass_mode_data=True,
            trainer_class=GazeTrainer,
            save_config_callback=RunRecord,  # type: ignore[arg-type]
            trainer_defaults={"callbacks": [PredictionWriter(), EarlyEnd()]},
            seed_everything_default=0,
            auto_configure_optimizers=False,
            args=list(args),
        )

    @staticmethod
    def subcommands() -> dict[str, set[str]]:
        """Lightning's, and ``calibrate``."""
        return {**LightningCLI.subcommands(), "calibrate": {"model"}}

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Adds the checkpoint callback that hand-offs and resumes rely on: ``best.ckpt`` and ``last.ckpt``."""
        parser.add_lightning_class_args(StageCheckpoint, "checkpoint")
        parser.set_defaults(
            {
                "checkpoint.filename": "best",
                "checkpoint.monitor": "val/selection",
                "checkpoint.auto_insert_metric_name": False,
                "checkpoint.enable_version_counter": False,
            }
        )
        parser.add_argument(
            "--allow_other_split",
            type=bool,
            default=False,
            help="Take a checkpoint although it, or one it came from, was trained on another split of these data.",
        )
        parser.set_defaults({"data": {"class_path": f"{GazeDataModule.__module__}.{GazeDataModule.__qualname__}"}})

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Parses, and hides the checkpoint from LightningCLI until it can no longer change the configuration."""
        self.config = parser.parse_args(args)
        chosen = self.config[self.config.subcommand]
        self._ckpt_path, chosen.ckpt_path = chosen.ckpt_path, None

    def before_instantiate_classes(self) -> None:
        """Puts the checkpoint back, so that the saved configuration records it, and a resumed run's W&B id."""
        chosen = self.config[self.config.subcommand]
        chosen.ckpt_path = self._ckpt_path
        logger = chosen.trainer.logger
        for one in logger if isinstance(logger, list) else [logger]:
            if self._ckpt_path and str(getattr(one, "class_path", "")).endswith(".WandbLogger"):
                self._keep_wandb_run(one.init_args, chosen.model.class_path)

    def _keep_wandb_run(self, arguments: Any, model: str) -> None:
        """Lets a resumed stage go on as the W&B run it was, unless another is asked for."""
        record = Path(str(self._ckpt_path)).parent.parent / WANDB_FILE
        if not record.is_file() or arguments.get("id") or arguments.get("version"):
            return
        about = read_json(record)
        if about["stage"] == _stage_class(model).name:
            arguments["id"] = about["id"]

    def instantiate_trainer(self, **kwargs: Any) -> L.Trainer:
        """Builds the trainer: checkpoints are written whole and metrics go to CSV, unless configured otherwise."""
        trainer = self._get(self.config_init, "trainer")
        if trainer.get("logger") is None:
            kwargs["logger"] = CSVLogger(trainer.get("default_root_dir") or ".", name="lightning_logs")
        configured = trainer.get("plugins") or []
        plugins = configured if isinstance(configured, list) else [configured]
        if not any(isinstance(plugin, CheckpointIO) for plugin in plugins):
            kwargs["plugins"] = [*plugins, AtomicCheckpointIO()]
        return super().instantiate_trainer(**kwargs)

    def fit(self, model: Stage, ckpt_path: str | None = None, **options: Any) -> None:
        """Trains, after deciding what the checkpoint means."""
        _say(f"stage '{model.name}' ({type(model).__module__}.{type(model).__qualname__})")
        if ckpt_path is not None and ckpt_path not in LIGHTNING_CHECKPOINTS:
            checkpoint = lineage.read_checkpoint(ckpt_path)
            stamp = checkpoint[lineage.STAMP_KEY]
            other_split = self._check_split(ckpt_path, stamp)
            # Without an optimiser's state (weights only, imported) there is nothing to resume, only weights to take.
            if stamp["stage"] == model.name and "optimizer_states" in checkpoint:
                lineage.check_components(ckpt_path, stamp["components"], model.network.specs)
                model.resumes = True
                _say(f"resuming '{model.name}' from {ckpt_path}")
            else:
                _say(str(model.take_over(ckpt_path, other_split)))
                ckpt_path = None
        if model.frozen:
            _say(f"frozen: {', '.join(model.frozen)}")
        self.trainer.fit(model, ckpt_path=ckpt_path, **options)

    def validate(self, model: Stage, ckpt_path: str | None = None, **options: Any) -> None:
        """Evaluates a checkpoint of the configured stage."""
        self.trainer.validate(model, ckpt_path=self._own_checkpoint(model, ckpt_path), **options)

    def test(self, model: Stage, ckpt_path: str | None = None, **options: Any) -> None:
        """Tests a checkpoint of the configured stage."""
        self.trainer.test(model, ckpt_path=self._own_checkpoint(model, ckpt_path), **options)

    def predict(self, model: Stage, ckpt_path: str | None = None, **options: Any) -> None:
        """Predicts with a checkpoint of the configured stage."""
        # Predictions are small and PredictionWriter keeps them; Lightning need not keep them a second time.
        options["return_predictions"] = False
        self.trainer.predict(model, ckpt_path=self._own_checkpoint(model, ckpt_path), **options)

    def calibrate(
        self,
        model: Stage,
        out: Path,
        datamodule: L.LightningDataModule | None = None,
        ckpt_path: str | None = None,
        **options: Any,
    ) -> None:
        """Calibrates a checkpoint of the configured stage."""
        path = self._own_checkpoint(model, ckpt_path)
        # What is predicted here is the validation split, of which no table is wanted.
        callbacks = cast(list[Callback], self.trainer.callbacks)  # type: ignore[attr-defined]
        callbacks[:] = [one for one in callbacks if not isinstance(one, PredictionWriter)]
        self.trainer.datamodule = datamodule  # type: ignore[attr-defined]
        cast(GazeTrainer, self.trainer).calibrate(model, out, path, **options)

    def _own_checkpoint(self, model: Stage, ckpt_path: str | None) -> str:
        if ckpt_path is None:
            raise InputError("--ckpt_path is missing: without it the network would have untrained weights")
        stamp = lineage.read_checkpoint(ckpt_path)[lineage.STAMP_KEY]
        if stamp["stage"] != model.name:
            raise InputError(
                f"{ckpt_path}: written by stage '{stamp['stage']}', but the configuration is of stage '{model.name}'; "
                "give the configuration the checkpoint was trained with (config.yaml beside its checkpoints folder)"
            )
        lineage.check_components(ckpt_path, stamp["components"], model.network.specs)
        self._check_split(ckpt_path, stamp)
        return ckpt_path

    def _check_split(self, ckpt_path: str, stamp: dict[str, Any]) -> bool:
        """Refuses a checkpoint of another split unless it is allowed; returns whether that was made use of."""
        allowed = bool(self._get(self.config, "allow_other_split"))
        data = getattr(self.datamodule, "provenance", {})
        note = lineage.check_split(ckpt_path, stamp, data, allowed)
        if note is not None:
            _say(note)
        return note is not None and allowed


def _stage_class(path: str) -> type[Stage]:
    """The stage class of a configuration, which jsonargparse has imported."""
    module, _, name = path.rpartition(".")
    return cast(type[Stage], getattr(sys.modules[module], name))


@rank_zero_only
def _say(message: str) -> None:
    logger.info(message)
