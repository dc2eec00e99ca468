"""The trainer of the command line."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any, Literal, TypeAlias, cast

import lightning as L
import torch
from lightning.fabric.connector import _PRECISION_INPUT
from lightning.pytorch.callbacks import Callback, ProgressBar, RichProgressBar
from lightning.pytorch.utilities import rank_zero_only
from torch import Tensor

from gazelit import processors
from gazelit.checkpoints import stamps
from gazelit.data.datamodule import GazeDataModule
from gazelit.errors import InputError
from gazelit.metrics.calibration import fit_temperature, negative_log_likelihood
from gazelit.models.network import Network
from gazelit.stages import Stage

logger = logging.getLogger("gazelit")


@rank_zero_only
def say(message: str) -> None:
    """Shows a message to the user, once for all processes."""
    logger.info(message)


Precision: TypeAlias = _PRECISION_INPUT | Literal["auto"] | None


def chosen_precision(precision: Precision, accelerator: Any) -> _PRECISION_INPUT | None:
    """The precision of ``auto``: ``bf16-mixed`` if the device multiplies bfloat16 itself, else ``32-true``.

    Args:
        precision: Precision of Lightning, which stays, or ``auto``.
        accelerator: Accelerator of Lightning; with ``cpu`` a GPU does not count.

    Raises:
        InputError: The batches, gaze positions among them, would be of another type than float32.
    """
    processors.check_precision(str(precision))
    if precision != "auto":
        return precision
    return "bf16-mixed" if processors.has_bfloat16(accelerator != "cpu") else "32-true"


class StageProgress(RichProgressBar):
    """Lightning's progress bar without the logger's version number, which is the same for all runs here."""

    def get_metrics(self, trainer: L.Trainer, pl_module: L.LightningModule) -> dict[str, Any]:
        """The logged values that are shown."""
        items: dict[str, Any] = super().get_metrics(trainer, pl_module)
        items.pop("v_num", None)
        return items


class GazeTrainer(L.Trainer):
    """The trainer, with a further command, ``auto`` as a precision, and :class:`StageProgress`.

    Args:
        precision: As Lightning's; ``auto`` is ``bf16-mixed`` where the device multiplies bfloat16 itself, ``32-true``
            elsewhere.
    """

    # One of Lightning's options has another type, and two are checked; jsonargparse finds the rest by the keywords.
    def __init__(
        self,
        *args: Any,
        precision: Precision = None,
        callbacks: list[Callback] | Callback | None = None,
        enable_progress_bar: bool | None = None,
        **kwargs: Any,
    ) -> None:
        given = callbacks if isinstance(callbacks, list) else [callbacks] if callbacks else []
        if enable_progress_bar is not False and not any(isinstance(callback, ProgressBar) for callback in given):
            given = [*given, StageProgress()]
        super().__init__(
            *args,
            precision=chosen_precision(precision, kwargs.get("accelerator")),
            callbacks=given,
            enable_progress_bar=enable_progress_bar,
            **kwargs,
        )

    def calibrate(
        self, model: Stage, out: Path, ckpt_path: str | None = None, weights_only: bool | None = None
    ) -> None:
        """Fits the temperature of a checkpoint's probabilities on the validation split.

        Args:
            model: The stage.
            out: The checkpoint to write: the same weights, with the temperature that `test` and `infer` will use.
            ckpt_path: The checkpoint to calibrate.
            weights_only: As for `test`.

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
        stamps.write_calibrated(
            str(ckpt_path),
            out,
            temperature,
            {"split": "val", "n": len(label), "nll_before": round(before, 6), "nll_after": round(after, 6)},
        )
        text = ", ".join(f"{value:.3f}" for value in (temperature[:1] if datamodule.exclusive else temperature))
        say(f"temperature {text}: {before:.4f} to {after:.4f} nats on {len(label)} validation cases; wrote {out}")


def described_network(network: Network) -> str:
    """The network's components with their numbers of parameters."""
    counts = {name: sum(part.numel() for part in network.get_submodule(name).parameters()) for name in network.specs}
    trained = {
        name: sum(part.numel() for part in network.get_submodule(name).parameters() if part.requires_grad)
        for name, specification in network.specs.items()
        if "lora" in specification
    }
    parts = ", ".join(
        f"{name} {count:,}" + (f" ({trained[name]:,} of them trained)" if name in trained else "")
        for name, count in counts.items()
    )
    return f"{type(network).__name__} of {sum(counts.values()):,} parameters: {parts}"
