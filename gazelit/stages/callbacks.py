"""The files that every run writes: its configuration, its curve per epoch, and its predictions per case."""

from __future__ import annotations

import csv
import json
import os
from contextlib import ExitStack
from pathlib import Path
from typing import Any, cast

import lightning as L
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import torch
import yaml
from jsonargparse import ArgumentParser, Namespace
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from lightning.pytorch.loggers import WandbLogger
from torch import Tensor

from gazelit.configs import CONFIG_FILE, EPOCHS_FILE, METRICS_FILE, PREDICTIONS_FILE, TEST_FILE
from gazelit.files import atomic_path, read_rows, sha256_file, write_json
from gazelit.metrics.catalogue import WITH_GAZE
from gazelit.metrics.custom import described
from gazelit.models.network import Network
from gazelit.stages import wandb_run
from gazelit.stages.privacy import without_paths

WANDB_FILE = "wandb.json"


def run_folder(trainer: L.Trainer) -> Path:
    """The folder of a run: the parent of its checkpoints, or the logger's folder where none are written.

    Every process must call it, because the logger's folder is broadcast.
    """
    checkpoint = trainer.checkpoint_callback
    if trainer.state.fn == "fit" and isinstance(checkpoint, ModelCheckpoint) and checkpoint.dirpath:
        return Path(checkpoint.dirpath).parent
    # W&B's logger has one folder for all runs; the results of one would replace those of another.
    is_shared = trainer.state.fn != "fit" and any(isinstance(logger, WandbLogger) for logger in trainer.loggers)
    if is_shared and trainer.default_root_dir != os.getcwd():
        return Path(trainer.default_root_dir)
    return Path(trainer.log_dir or trainer.default_root_dir)


class RunRecord(Callback):
    """Writes ``config.yaml`` and ``epochs.csv`` beside the checkpoints, whichever logger is used.

    Lightning's own callback writes the configuration to ``trainer.log_dir``, which is the same folder for all runs of
    the W&B logger. A resumed run must continue the curve; loggers that start a new version do not.

    Args:
        parser: The parser that made the configuration.
        config: The parsed configuration.
    """

    def __init__(self, parser: ArgumentParser, config: Namespace) -> None:
        self.parser = parser
        self.config = config

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Has W&B runs end with the command."""
        for logger in trainer.loggers:
            if trainer.is_global_zero and isinstance(logger, WandbLogger):
                wandb_run.finish_at_exit(logger.experiment)

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Writes the configuration; loggers, which may upload, get it without paths."""
        folder = run_folder(trainer)
        if not trainer.is_global_zero:
            return
        # It has been checked when it was read.
        text = self.parser.dump(self.config, skip_none=False, skip_link_targets=False, skip_validation=True)
        with atomic_path(folder / CONFIG_FILE) as temporary:
            temporary.write_text(text, encoding="utf-8")
        shown = yaml.safe_load(text)
        if not self.config.get("log_paths"):
            shown = without_paths(shown)
        for logger in trainer.loggers:
            logger.log_hyperparams(shown)
            if isinstance(logger, WandbLogger):
                # So that a resumed run goes on as the same W&B run.
                write_json(folder / WANDB_FILE, {"id": logger.experiment.id, "stage": pl_module.name})
                provenance = getattr(trainer.datamodule, "provenance", {})  # type: ignore[attr-defined]
                found = wandb_run.tags(provenance, cast(Network, pl_module.network).specs)
                logger.experiment.tags = (*(logger.experiment.tags or ()), *found)

    def on_fit_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Logs the hashes of the checkpoints; ``gazelit lineage`` names checkpoints by them."""
        checkpoint = trainer.checkpoint_callback
        if not trainer.is_global_zero or not isinstance(checkpoint, ModelCheckpoint):
            return
        paths = [Path(path) for path in (checkpoint.best_model_path, checkpoint.last_model_path) if path]
        hashes = {path.name: sha256_file(path) for path in paths if path.is_file()}
        for logger in trainer.loggers:
            logger.log_hyperparams({"checkpoints": hashes})

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Summarises the epochs so far. The best one is known only now, because checkpoints are written last."""
        folder = run_folder(trainer)
        if trainer.is_global_zero and any(isinstance(logger, WandbLogger) for logger in trainer.loggers):
            wandb_run.summarise_best(trainer, read_rows(folder / EPOCHS_FILE))

    on_train_end = on_train_epoch_start

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Adds the epoch's row; rows of epochs that a resumed run repeats are replaced."""
        path = run_folder(trainer) / EPOCHS_FILE
        if not trainer.is_global_zero:
            return
        values = {key: float(value) for key, value in trainer.callback_metrics.items()}
        row: dict[str, Any] = {"epoch": trainer.current_epoch, "step": trainer.global_step, **values}
        kept: list[dict[str, Any]] = [old for old in read_rows(path) if int(old["epoch"]) < trainer.current_epoch]
        columns = list(dict.fromkeys(key for written in [*kept, row] for key in written))
        with atomic_path(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, columns)
            writer.writeheader()
            writer.writerows([*kept, row])


class PredictionWriter(Callback):
    """Writes per-case predictions of ``test`` and ``predict`` as Parquet, with ``metrics.json``.

    In one process rows are written as they come, so that memory does not grow with the number of cases; several
    processes' rows are gathered at the end. Case ids are looked up in the data module, so that they never pass through
    a logger. For metrics from outside the package, the table's ``attrs["metrics"]`` holds the names that reports use.
    """

    #: Cases that are written at a time.
    rows = 4096

    def __init__(self) -> None:
        self._batches: list[dict[str, Tensor]] = []
        self._writer: pq.ParquetWriter | None = None
        self._open = ExitStack()

    def on_test_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Discards the predictions of an earlier run."""
        self._batches, self._writer, self._open = [], None, ExitStack()

    def on_test_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Keeps the small per-case values of a batch."""
        if not outputs:
            return
        self._batches.append({key: value.detach().cpu() for key, value in outputs.items()})
        if trainer.world_size == 1 and sum(len(part["index"]) for part in self._batches) >= self.rows:
            self._flush(trainer, run_folder(trainer))

    on_predict_start = on_test_start
    on_predict_batch_end = on_test_batch_end

    def on_test_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Completes the table; writes the metrics and the checkpoint that they are of."""
        folder = run_folder(trainer)
        self._finish(trainer, folder)
        if trainer.is_global_zero:
            metrics = {key: float(value) for key, value in sorted(trainer.callback_metrics.items())}
            write_json(folder / METRICS_FILE, metrics)
            if trainer.ckpt_path:
                tested = Path(str(trainer.ckpt_path)).resolve()
                write_json(folder / TEST_FILE, {"checkpoint": str(tested), "sha256": sha256_file(tested)})

    def on_predict_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Completes the table."""
        self._finish(trainer, run_folder(trainer))

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        """Removes an incomplete table."""
        self._open.__exit__(type(exception), exception, exception.__traceback__)

    def _table(self, trainer: L.Trainer) -> pd.DataFrame:
        datamodule = trainer.datamodule  # type: ignore[attr-defined]
        table = prediction_table(self._batches, datamodule.class_names, datamodule.image_ids)
        if custom := described(getattr(trainer.lightning_module, "custom_metrics", ())):
            table.attrs["metrics"] = custom
        return table

    def _flush(self, trainer: L.Trainer, folder: Path) -> None:
        table = self._table(trainer)
        rows = pa.Table.from_pandas(table, preserve_index=False)
        if table.attrs:
            # As pandas itself writes and reads them.
            rows = rows.replace_schema_metadata({**rows.schema.metadata, "PANDAS_ATTRS": json.dumps(table.attrs)})
        if self._writer is None:
            temporary = self._open.enter_context(atomic_path(folder / PREDICTIONS_FILE))
            self._writer = self._open.enter_context(pq.ParquetWriter(temporary, rows.schema))
        self._writer.write_table(rows)
        self._batches = []

    def _finish(self, trainer: L.Trainer, folder: Path) -> None:
        if trainer.world_size > 1:
            tables: list[pd.DataFrame | None] = [None] * trainer.world_size
            # A process without a case has no table.
            torch.distributed.all_gather_object(tables, self._table(trainer) if self._batches else None)
            if trainer.is_global_zero:
                whole = pd.concat([table for table in tables if table is not None]).sort_values("index")
                with atomic_path(folder / PREDICTIONS_FILE) as temporary:
                    whole.to_parquet(temporary, index=False)
            return
        if self._batches:
            self._flush(trainer, folder)
        self._open.close()


def prediction_table(batches: list[dict[str, Tensor]], class_names: list[str], image_ids: Any) -> pd.DataFrame:
    """One row a case, with every per-case value.

    Columns are ``index``, ``image_id``, ``p_<class>``, ``logit_<class>``, of several labels ``y_<class>``, NaN where a
    label is unknown, and of predictions that saw the reader's gaze ``with_gaze_p_<class>`` and
    ``with_gaze_logit_<class>``.

    Args:
        batches: Per batch, tensors (B,) by column name, and ``probabilities``, ``logits`` and ``labels`` (B, K), the
            first two also with ``with_gaze_`` before them.
        class_names: Names of the K classes.
        image_ids: Image id by index.
    """
    columns: dict[str, Any] = {key: torch.cat([batch[key] for batch in batches]).numpy() for key in batches[0]}
    by_class = {
        "p": columns.pop("probabilities", None),
        "logit": columns.pop("logits", None),
        "y": columns.pop("labels", None),
        f"{WITH_GAZE}_p": columns.pop(f"{WITH_GAZE}_probabilities", None),
        f"{WITH_GAZE}_logit": columns.pop(f"{WITH_GAZE}_logits", None),
    }
    table = pd.DataFrame(columns)
    table.insert(1, "image_id", [image_ids[int(index)] for index in table["index"]])
    for kind, values in by_class.items():
        if values is not None:
            for position, name in enumerate(class_names):
                table[f"{kind}_{name}"] = values[:, position]
    return table
