"""LightningCLI with one documented meaning of ``--ckpt_path``."""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import lightning as L
import pandas as pd
import yaml
from lightning.fabric.plugins import CheckpointIO
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from gazelit import models
from gazelit.checkpoints import handoff, split_guard, stamps
from gazelit.cli import checkpoint_paths, run_name
from gazelit.cli.checks import check_before_work
from gazelit.cli.console import quiet_console
from gazelit.cli.mistakes import ExplainingParser
from gazelit.cli.options import option_values
from gazelit.cli.trainer import GazeTrainer, chosen_precision, described_network, say
from gazelit.configs import CONFIG_FILE
from gazelit.data.datamodule import GazeDataModule
from gazelit.errors import InputError
from gazelit.files import read_json
from gazelit.models.weights import check_fit
from gazelit.parsing import with_bases
from gazelit.stages import Stage, wandb_run
from gazelit.stages.callbacks import (
    METRICS_FILE,
    PREDICTIONS_FILE,
    WANDB_FILE,
    PredictionWriter,
    RunRecord,
    run_folder,
)
from gazelit.stages.checkpoint_io import AtomicCheckpointIO
from gazelit.stages.checkpointing import EarlyEnd, StageCheckpoint, left_behind, sole_training
from gazelit.stages.privacy import withhold_from_wandb
from gazelit.stages.ranks import RankWatch

logger = logging.getLogger("gazelit")

# A class can be named without its path once it is imported.
for _name in models.__all__:
    getattr(models, _name)

#: The exit code of a process that Ctrl-C ended, as shells report it.
INTERRUPTED = 130


class _Parser(ExplainingParser, LightningArgumentParser):
    """Lightning's parser, with one-line errors."""


class GazeCLI(LightningCLI):
    """``gazelit fit|validate|test|predict|calibrate``.

    ``fit --ckpt_path FILE``: a checkpoint of the same stage resumes everything. A checkpoint of another stage hands
    over exactly the components that both have, and training starts at epoch 0. With ``--start_from FILE`` it always
    does. The log says which of these happened. In a stock LightningCLI (2.5.5 and later) the checkpoint's
    hyperparameters, its class included, replace the configuration. It would run the earlier stage again (Lightning pull
    requests 21116 and 21246, issue 21255).

    The other commands read the checkpoint that ``--ckpt_path`` names on the command line, or else
    ``checkpoints/best.ckpt`` beside the given configuration. They never read the one that the saved configuration
    records: that run started from it.

    Args:
        args: Command-line arguments, the subcommand first.
    """

    def __init__(self, args: Sequence[str]) -> None:
        self._ckpt_path: str | None = None
        self._arguments = list(args)
        if not _is_set(self._arguments, "--log_paths"):
            withhold_from_wandb()
        quiet_console()
        super().__init__(
            model_class=Stage,
            datamodule_class=L.LightningDataModule,
            subclass_mode_model=True,
            subclass_mode_data=True,
            trainer_class=GazeTrainer,
            save_config_callback=RunRecord,  # type: ignore[arg-type]
            # Its table is mostly of metrics and losses; one line names the components.
            trainer_defaults={"callbacks": [PredictionWriter(), EarlyEnd()], "enable_model_summary": False},
            seed_everything_default=0,
            auto_configure_optimizers=False,
            parser_class=_Parser,
            parser_kwargs={"prog": "gazelit"},
            args=list(args),
        )

    @staticmethod
    def subcommands() -> dict[str, set[str]]:
        """Lightning's, and ``calibrate``."""
        return {**LightningCLI.subcommands(), "calibrate": {"model"}}

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Adds the checkpoint callback that hand-offs and resumes need, and the watch over several processes."""
        parser.add_lightning_class_args(StageCheckpoint, "checkpoint")
        parser.add_lightning_class_args(RankWatch, "ranks")
        parser.set_defaults(
            {
                "checkpoint.filename": "best",
                "checkpoint.monitor": "val/selection",
                "checkpoint.auto_insert_metric_name": False,
                "checkpoint.enable_version_counter": False,
            }
        )
        parser.add_argument(
            "--name",
            type=str | None,
            default=None,
            help="Name of the run, also in W&B; all its files are in runs/NAME. `gazelit test --name "
            "NAME` then finds it.",
        )
        parser.add_argument(
            "--log_paths",
            type=bool,
            default=False,
            help="Let loggers have paths, and W&B host name, command line and git remote; withheld unless given.",
        )
        parser.add_argument(
            "--start_from",
            type=str | None,
            default=None,
            help="For fit: a checkpoint of any stage, also this one, whose shared components are taken over; training "
            "starts at epoch 0.",
        )
        parser.add_argument(
            "--allow_other_split",
            type=bool,
            default=False,
            help="Take a checkpoint although it, or one it came from, may have seen patients of this test split.",
        )
        parser.set_defaults({"data": {"class_path": f"{GazeDataModule.__module__}.{GazeDataModule.__qualname__}"}})

    def _prepare_subcommand_parser(self, klass: type, subcommand: str, **kwargs: Any) -> LightningArgumentParser:
        # All options of all commands take a quarter of a second; only those of the command that runs are read.
        if subcommand != self._arguments[0]:
            return self.init_parser(**kwargs)
        return super()._prepare_subcommand_parser(klass, subcommand, **kwargs)

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Parses, and hides the checkpoint from LightningCLI until it can no longer change the configuration."""
        for each in (parser, *self._subcommand_parsers.values()):
            cast(_Parser, each).arguments = self._arguments
        self.config = parser.parse_args(with_bases(args))
        chosen = self.config[self.config.subcommand]
        ckpt_path, chosen.ckpt_path = chosen.ckpt_path, None
        if self.config.subcommand == "fit":
            run_name.keep_in_folder(chosen, self._arguments)
            given = [option for option in ("--ckpt_path", "--start_from") if option_values(self._arguments, option)]
            if given == ["--ckpt_path"]:
                chosen.start_from = None
            elif given == ["--start_from"]:
                ckpt_path = None
            if ckpt_path is not None and chosen.start_from is not None:
                raise InputError(
                    "--ckpt_path and --start_from: give one of them; --ckpt_path resumes a checkpoint of this stage, "
                    "--start_from begins a new training from its weights"
                )
            dirpath = chosen.checkpoint.dirpath
            self._ckpt_path = checkpoint_paths.to_resume(ckpt_path, dirpath, self._arguments)
            return
        run_name.keep_results_apart(chosen, self._arguments, self.config.subcommand)
        if option_values(self._arguments, "--start_from"):
            raise InputError(f"--start_from: belongs to fit; {self.config.subcommand} reads --ckpt_path")
        self._ckpt_path = checkpoint_paths.to_read(self._arguments)

    def before_instantiate_classes(self) -> None:
        """Puts the checkpoint back, so that the saved configuration records it, and a resumed run's W&B id."""
        chosen = self.config[self.config.subcommand]
        chosen.ckpt_path = self._ckpt_path
        chosen.trainer.precision = chosen_precision(chosen.trainer.precision, chosen.trainer.accelerator)
        check_before_work(chosen.as_dict(), self.config.subcommand == "fit")
        loggers = chosen.trainer.logger if isinstance(chosen.trainer.logger, list) else [chosen.trainer.logger]
        for logger in loggers:
            if str(getattr(logger, "class_path", "")).endswith(".WandbLogger"):
                self._identify(logger, chosen)

    def _identify(self, logger: Any, chosen: Any) -> None:
        """Sets the identity of the W&B run: its name, or the run that is resumed unless another one is configured."""
        stage = _stage_class(chosen.model.class_path).name
        given = {**logger.init_args.as_dict(), **(logger.get("dict_kwargs") or {})}
        about = wandb_run.identity(stage, chosen.name, chosen.seed_everything, given) | wandb_run.kept_here(given)
        for key, value in about.items():
            logger.init_args[key] = value
        record = Path(str(self._ckpt_path)).parent.parent / WANDB_FILE
        if self._ckpt_path is None or not record.is_file():
            return
        if logger.init_args.get("id") or logger.init_args.get("version"):
            return
        if isinstance(known := read_json(record), dict) and known.get("stage") == stage:
            logger.init_args["id"] = str(known.get("id"))

    def _dump_config(self) -> None:
        # Lightning's, but for a second check of the configuration, which has been checked and takes as long again.
        if not hasattr(self, "config_dump"):
            text = self.parser.dump(self.config, skip_link_targets=False, skip_none=False, skip_validation=True)
            self.config_dump = yaml.safe_load(text)[self.config.subcommand]

    def instantiate_trainer(self, **kwargs: Any) -> L.Trainer:
        """Builds the trainer: checkpoints are written whole and metrics go to CSV, unless configured otherwise."""
        trainer = self._get(self.config_init, "trainer")
        if trainer.get("logger") is None:
            kwargs["logger"] = CSVLogger(trainer.get("default_root_dir") or ".", name="lightning_logs")
        configured = trainer.get("plugins") or []
        plugins = configured if isinstance(configured, list) else [configured]
        if not any(isinstance(plugin, CheckpointIO) for plugin in plugins):
            kwargs["plugins"] = [*plugins, AtomicCheckpointIO()]
        try:
            return super().instantiate_trainer(**kwargs)
        except (MisconfigurationException, TypeError, ValueError) as error:
            raise InputError(f"trainer: {' '.join(str(error).split())}") from error

    def fit(self, model: Stage, ckpt_path: str | None = None, **options: Any) -> None:
        """Trains, after deciding what the checkpoint means."""
        start_from = self._get(self.config, "start_from")
        name = self._get(self.config, "name")
        say(f"stage '{model.name}' ({type(model).__module__}.{type(model).__qualname__})")
        say(described_network(model.network))
        if start_from is not None:
            note = self._check_split(start_from, stamps.read_checkpoint(start_from)[stamps.STAMP_KEY])
            say(str(model.take_over(start_from, note)))
        elif ckpt_path is not None:
            checkpoint = stamps.read_checkpoint(ckpt_path)
            stamp = checkpoint[stamps.STAMP_KEY]
            note = self._check_split(ckpt_path, stamp)
            # Without an optimiser's state (weights only, imported) there is nothing to resume, only weights to take.
            if stamp["stage"] == model.name and "optimizer_states" in checkpoint:
                handoff.check_components(ckpt_path, stamp["components"], model.network.specs)
                model.resumes = True
                say(f"resuming '{model.name}' from {ckpt_path}")
            else:
                say(str(model.take_over(ckpt_path, note)))
                ckpt_path = None
        if name is not None:
            run_name.check_unused(name, model.resumes and run_name.is_of(name, str(ckpt_path)))
        for note in model.take_teachers(getattr(self.datamodule, "provenance", {}), self._allowed):
            say(note)
        if model.frozen:
            say(f"frozen: {', '.join(model.frozen)}")
        try:
            with sole_training(self.trainer):
                self.trainer.fit(model, ckpt_path=ckpt_path, **options)
        except (SystemExit, RuntimeError) as end:
            # Lightning ends with 1 after Ctrl-C, as if the training had failed, or fails to clean up between two loops.
            if not isinstance(end.__context__, KeyboardInterrupt):
                raise
            last = Path(str(self._checkpoint.dirpath)) / checkpoint_paths.LAST
            say(f"interrupted: {left_behind(self.trainer, last)}")
            raise SystemExit(INTERRUPTED) from None
        self._say_what_is_left()

    @property
    def _checkpoint(self) -> StageCheckpoint:
        return cast(StageCheckpoint, self.trainer.checkpoint_callback)

    def _say_what_is_left(self) -> None:
        """Logs the checkpoint of a training, its criterion, and the next commands."""
        kept = self._checkpoint
        if not kept.best_model_path:
            return
        score = "" if kept.best_model_score is None else f" ({kept.monitor} {float(kept.best_model_score):.4g})"
        say(f"best checkpoint: {kept.best_model_path}{score}")
        name = self._get(self.config, "name")
        run = f"--name {name}" if name else f"--config {Path(str(kept.dirpath)).parent / CONFIG_FILE}"
        say(f"test it: gazelit test {run}")
        say(f"hand it over to another stage: gazelit fit --config STAGE.yaml --ckpt_path {kept.best_model_path}")

    def validate(self, model: Stage, ckpt_path: str | None = None, **options: Any) -> None:
        """Evaluates a checkpoint of the configured stage."""
        # Its statistics take a second to import, which training and prediction do not need.
        from gazelit.cli.result_table import show_metrics

        self.trainer.validate(model, ckpt_path=self._loaded(model, ckpt_path), **{**options, "verbose": False})
        if self.trainer.is_global_zero:
            show_metrics(self._metrics(), None, None, self._class_names)

    def test(self, model: Stage, ckpt_path: str | None = None, **options: Any) -> None:
        """Tests a checkpoint of the configured stage."""
        from gazelit.cli.result_table import patients_of, show_metrics

        self.trainer.test(model, ckpt_path=self._loaded(model, ckpt_path), **{**options, "verbose": False})
        folder = run_folder(self.trainer)
        if not self.trainer.is_global_zero:
            return
        path = folder / PREDICTIONS_FILE
        predictions = pd.read_parquet(path) if path.is_file() else None
        rows = None if predictions is None else predictions["index"].to_numpy()
        patients = None if rows is None else patients_of(self.datamodule, rows)
        show_metrics(self._metrics(), predictions, patients, self._class_names)
        say(f"wrote {folder / METRICS_FILE} and {PREDICTIONS_FILE} beside it")
        say(f"report it: gazelit report {folder}")

    def _metrics(self) -> dict[str, float]:
        return {key: float(value) for key, value in self.trainer.callback_metrics.items()}

    @property
    def _class_names(self) -> list[str]:
        return list(getattr(self.datamodule, "class_names", []))

    def predict(self, model: Stage, ckpt_path: str | None = None, **options: Any) -> None:
        """Predicts with a checkpoint of the configured stage."""
        # Predictions are small and PredictionWriter keeps them; Lightning need not keep them a second time.
        options["return_predictions"] = False
        self.trainer.predict(model, ckpt_path=self._loaded(model, ckpt_path), **options)

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
        if Path(path).suffix == stamps.WEIGHTS_SUFFIX:
            raise InputError(f"{path}: calibrate writes the checkpoint anew; give the .ckpt that this came from")
        # The validation split is predicted here; its table is not wanted.
        callbacks = cast(list[Callback], self.trainer.callbacks)  # type: ignore[attr-defined]
        callbacks[:] = [callback for callback in callbacks if not isinstance(callback, PredictionWriter)]
        self.trainer.datamodule = datamodule  # type: ignore[attr-defined]
        cast(GazeTrainer, self.trainer).calibrate(model, out, path, **options)

    def _loaded(self, model: Stage, ckpt_path: str | None) -> str | None:
        """The checkpoint that Lightning loads; None if exported weights are in the model already."""
        path = self._own_checkpoint(model, ckpt_path)
        if Path(path).suffix != stamps.WEIGHTS_SUFFIX:
            return path
        state = stamps.read_checkpoint(path)["state_dict"]
        check_fit(state, model.state_dict(), path)
        model.load_state_dict(state)
        return None

    def _own_checkpoint(self, model: Stage, ckpt_path: str | None) -> str:
        path = str(ckpt_path)
        stamp = stamps.read_checkpoint(path)[stamps.STAMP_KEY]
        if stamp["stage"] != model.name:
            raise InputError(
                f"{path}: written by stage '{stamp['stage']}', but the configuration is of stage '{model.name}'; "
                "give the configuration the checkpoint was trained with (config.yaml beside its checkpoints folder)"
            )
        handoff.check_components(path, stamp["components"], model.network.specs)
        self._check_split(path, stamp)
        return path

    @property
    def _allowed(self) -> bool:
        """Whether checkpoints of another split are accepted."""
        return bool(self._get(self.config, "allow_other_split"))

    def _check_split(self, ckpt_path: str, stamp: dict[str, Any]) -> str | None:
        """Refuses a checkpoint that may have seen the test split unless it is allowed; returns a note on its split."""
        note = split_guard.check_split(ckpt_path, stamp, getattr(self.datamodule, "provenance", {}), self._allowed)
        if note is not None:
            say(f"{ckpt_path}: {note}")
        return note


def _is_set(arguments: Sequence[str], option: str) -> bool:
    values = option_values(arguments, option)
    return bool(values) and values[-1].lower() in ("true", "yes", "1")


def _stage_class(path: str) -> type[Stage]:
    """The stage class of a configuration, which jsonargparse has imported."""
    module, _, name = path.rpartition(".")
    return cast(type[Stage], getattr(sys.modules[module], name))
