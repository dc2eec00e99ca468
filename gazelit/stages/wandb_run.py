"""The name of a training in Weights & Biases, and the values that its summary has there."""

from __future__ import annotations

import atexit
import logging
import os
import shlex
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import WandbLogger
from lightning.pytorch.utilities import rank_zero_only

logger = logging.getLogger("gazelit")

#: Seconds in which W&B has to answer; otherwise a run is kept on this machine.
PATIENCE = 10.0
#: Seconds that W&B has at the end of a command to send the rest; ``WANDB_FINISH_TIMEOUT`` has precedence. This is a
#: third of the time that SLURM leaves after SIGTERM. W&B's process gets its limit when it starts; if it is ended
#: earlier, what it has not written to disk is lost.
PATIENCE_AT_END = 10
#: W&B's own variables, which have precedence over the values set here; `gazelit run` sets the first two for its steps.
GROUP_VARIABLE, NAME_VARIABLE = "WANDB_RUN_GROUP", "WANDB_NAME"


def identity(stage: str, name: str | None, seed: Any, given: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of ``wandb.init`` that say which run it is.

    Args:
        stage: Name of the stage, which is the job type.
        name: Name of the run (``--name``). The part before its last ``/`` is the group.
        seed: Of the run.
        given: Arguments that are configured already; they stay.
    """
    group, _, _ = (name or "").rpartition("/")
    about: dict[str, Any] = {"job_type": stage}
    # A sweep gives each of its runs a name; here all of them would get the same one.
    called = name or (None if "WANDB_SWEEP_ID" in os.environ else f"{stage}, seed {seed}")
    if called and NAME_VARIABLE not in os.environ:
        about["name"] = called
    if group and GROUP_VARIABLE not in os.environ:
        about["group"] = group
    return {key: value for key, value in about.items() if given.get(key) is None}


def kept_here(given: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of W&B's logger that keep a run on this machine if W&B cannot be reached, and say so.

    ``wandb.init`` waits 90 s for an answer and then fails, so that no training would begin. If W&B becomes unreachable
    later, it waits at the end without a limit (wandb 0.31); :data:`PATIENCE_AT_END` sets one.

    Args:
        given: What is configured already.
    """
    modes = os.environ.get("WANDB_MODE"), given.get("mode")
    if given.get("offline") or any(mode not in (None, "online") for mode in modes):
        return {}
    # Checkpoints are sent at the end and may take longer than any limit.
    if not given.get("log_model"):
        os.environ.setdefault("WANDB_FINISH_TIMEOUT", str(PATIENCE_AT_END))
        os.environ.setdefault("WANDB_FINISH_TIMEOUT_RAISES", "true")
    address = os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")
    try:
        urllib.request.urlopen(address, timeout=PATIENCE).close()
    except urllib.error.HTTPError:
        # It answers.
        return {}
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", error)
        _say(f"W&B does not answer at {address} ({reason}): the run is kept on this machine")
        return {"offline": True, **({"log_model": False} if given.get("log_model") else {})}
    return {}


def finish_at_exit(run: Any) -> None:
    """Ends a W&B run with the command; if W&B does not take all of it in time, says where it is kept.

    Args:
        run: What ``wandb.init`` returned.
    """
    if run.offline:
        _say(f"the W&B run is kept in {run.settings.sync_dir}, and {_sent_by(run)} sends it")
    # It runs before W&B's own function, which was registered earlier, and has the command's exit code, which W&B
    # records.
    atexit.register(_finish, run)


def _finish(run: Any) -> None:
    try:
        run.finish()
    except TimeoutError:
        _say(
            f"W&B did not take all of this run within {run.settings.finish_timeout:g} s: it is whole in "
            f"{run.settings.sync_dir}, and {_sent_by(run)} sends it"
        )


def _sent_by(run: Any) -> str:
    """The command that sends a run that is kept."""
    # Without the option, W&B would leave out runs that were not begun offline.
    option = "" if run.offline else "--include-online "
    return f"`wandb sync {option}{shlex.quote(run.settings.sync_dir)}`"


@rank_zero_only
def _say(message: str) -> None:
    logger.warning("%s", message)


def tags(provenance: Mapping[str, Any], components: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Of a run: where its films come from, whether they are synthetic, and its encoder.

    Args:
        provenance: Of the data, as :attr:`gazelit.data.datamodule.GazeDataModule.provenance`.
        components: Of the network, as :attr:`gazelit.models.network.Network.specs`.
    """
    found = [provenance.get("source"), "synthetic" if provenance.get("synthetic") else None]
    found.append(components.get("encoder", {}).get("name"))
    # W&B takes tags of up to 64 characters.
    return [str(tag)[:64] for tag in found if tag]


def summarise_best(trainer: L.Trainer, rows: Sequence[Mapping[str, Any]]) -> None:
    """Writes the validation values of ``best.ckpt`` into the summary of W&B runs; W&B itself keeps the last ones.

    Args:
        trainer: The trainer, whose checkpoint callback has decided.
        rows: What was logged, by epoch, with the column ``epoch``.
    """
    checkpoint = trainer.checkpoint_callback
    if not isinstance(checkpoint, ModelCheckpoint) or checkpoint.best_model_score is None:
        return
    runs = [logger.experiment for logger in trainer.loggers if isinstance(logger, WandbLogger)]
    score, monitor = float(checkpoint.best_model_score), str(checkpoint.monitor)
    best = [row for row in rows if row.get(monitor) and float(row[monitor]) == score]
    if best:
        values = {key: float(value) for key, value in best[0].items() if key.startswith("val/") and value}
        for run in runs:
            run.summary.update({**values, "best/epoch": int(best[0]["epoch"])})
