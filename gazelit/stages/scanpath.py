"""Scanpaths: the likelihood of every fixation given the film and those before it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import torch
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule

from gazelit.errors import InputError
from gazelit.files import atomic_path
from gazelit.losses.objective import Objective
from gazelit.losses.scanpath import FACTORS, ScanpathLikelihood
from gazelit.metrics.means import ImageMeans
from gazelit.metrics.scanpath import conditional_scores
from gazelit.metrics.scanpath.summary import path_scores
from gazelit.models.scanpath_decoding import Readings, sample
from gazelit.models.scanpath_net import ScanpathNetwork
from gazelit.models.sequences import Sequences
from gazelit.stages.base import Batch, Outputs, Stage
from gazelit.stages.callbacks import run_folder
from gazelit.stages.readers import check_readers, numbers_of

#: Of a test: the paths that were drawn, in pixels of the original films.
SCANPATHS_FILE = "scanpaths.parquet"


class Scanpath(Stage):
    """Learns where readers look next, for how long, and when they stop; all steps of a reading in one pass.

    The likelihood comes first. Validation gives nats a fixation. The test gives bits a fixation over the centre bias of
    the training films. Each fixation, also the first, is predicted from the true ones before it. The test also draws
    paths and scores them against each reading of their film; they are those of its reader if the network knows that
    reader. The static map is measured like any saliency map; its information gain is that of fixations that do not
    depend on each other.

    Args:
        network: A :class:`gazelit.models.scanpath_net.ScanpathNetwork`.
        scanpath_loss: The likelihood's weights; 1 each unless given.
        draws: Paths drawn of each reading at test.
        sample_seed: Of these paths.
        options: See :class:`Stage`.

    Raises:
        InputError: ``draws`` is below 0.
    """

    name: ClassVar[str] = "scanpath"
    measures: ClassVar[tuple[str, ...]] = ("scanpath", "saliency")
    injected: ClassVar[tuple[str, ...]] = (*Stage.injected, "scanpath_loss")
    needs_events: ClassVar[bool] = True
    network: ScanpathNetwork

    def __init__(
        self,
        network: ScanpathNetwork,
        scanpath_loss: ScanpathLikelihood | None = None,
        draws: int = 5,
        sample_seed: int = 0,
        **options: Any,
    ) -> None:
        super().__init__(network, **options)
        if draws < 0:
            raise InputError(f"draws: must be at least 0, not {draws}")
        self.scanpath_loss = scanpath_loss if scanpath_loss is not None else ScanpathLikelihood()
        self.draws, self.sample_seed = draws, sample_seed
        self._drawn: list[pd.DataFrame] = []

    def setup(self, stage: str) -> None:
        """Maps the data's readers and findings to the network's.

        Raises:
            InputError: The data's gaze is raw samples, or a training has no reading of the network's readers.
        """
        super().setup(stage)
        data = self._datamodule
        if getattr(data, "provenance", {}).get("gaze_kind") == "sample":
            raise InputError(
                "data.gaze.kind: scanpaths are of fixations, and this is raw samples; set --data.gaze.kind=fixation, "
                "or detected"
            )
        if stage == TrainerFn.FITTING:
            check_readers(self.network.readers, data)
        self._readers = numbers_of(getattr(data, "reader_names", ()), self.network.readers)
        self._findings = numbers_of(getattr(data, "finding_names", ()), self.network.findings)

    def _make_metrics(self) -> None:
        super()._make_metrics()
        self.scanpath_metrics = nn.ModuleDict({split: ImageMeans() for split in ("val", "test")})

    def _sequences(self, batch: Batch) -> Sequences:
        return Sequences.of(batch, self._readers, self._findings, self.network.longest)

    def _step(self, batch: Batch) -> tuple[Tensor, Outputs, dict[str, Tensor]]:
        sequences = self._sequences(batch)
        outputs = self(batch["image"], sequences)
        values = {name: self.scanpath_loss.mean(outputs, name) for name in (*FACTORS, "static")}
        parts = {"scanpath_loss": torch.stack([values[name] for name in FACTORS]).sum()}
        parts |= {f"{name}_loss": value for name, value in values.items()}
        outputs["film"] = sequences.film
        return self.scanpath_loss(outputs, batch), outputs, {name: part.detach() for name, part in parts.items()}

    def _objectives(self) -> dict[str, Objective]:
        return {"scanpath": self.scanpath_loss}

    def _weights(self, batch: Batch, loss: Tensor, parts: dict[str, Tensor]) -> dict[str, Tensor]:
        """Every part's weight: the number of fixations that the network sees."""
        reading = batch["reading"]
        counts = [(reading == number).sum(1) for number in range(int(reading.max()) + 1)] if reading.numel() else []
        seen = torch.stack([loss.new_zeros(()), *(count.clamp(max=self.network.longest).sum() for count in counts)])
        return dict.fromkeys(("loss", *parts), seen.sum())

    def _update_metrics(self, split: str, batch: Batch, outputs: Outputs) -> Outputs:
        per_case = super()._update_metrics(split, batch, outputs)
        height, width = batch["image"].shape[-2:]
        film, valid, films = outputs["film"], outputs["valid"], len(batch["image"])
        over_uniform = (outputs["place"].double() + np.log(height * width)) / np.log(2)
        by_fixation = {"bits_over_uniform": over_uniform}
        if split == "test":
            features = self.network.film_features(batch["image"])
            by_fixation |= self._conditional(batch, outputs, features)
        fixations = torch.zeros(films, device=film.device).index_add_(0, film, valid.sum(1).float())
        values = {}
        for name, value in by_fixation.items():
            total = torch.zeros(films, dtype=torch.float64, device=film.device)
            total.index_add_(0, film, torch.where(valid, value.double(), 0.0).sum(1))
            # A film without a reading has no value.
            values[f"scanpath_{name}"] = total / fixations
        if split == "test":
            per_case["fixations"] = fixations
            values |= self._path_scores(batch, features) if self.draws else {}
            per_case |= values
        self._metrics("scanpath", split).update_each(values)
        return per_case

    def _conditional(self, batch: Batch, outputs: Outputs, features: Tensor) -> dict[str, Tensor]:
        """Bits over the centre bias, conditional NSS and AUC of each fixation: (S, T).

        All densities are conditional on a fixation that is on the film and not on its padding.
        """
        data = self._gaze_data
        bias = data.centre_bias(batch["index"].cpu()).density.double()
        sequences, valid = self._sequences(batch), outputs["valid"].cpu()
        found = {name: torch.zeros(valid.shape, dtype=torch.float64) for name in ("bits", "cnss", "cauc")}
        on_film = batch["valid_mask"].cpu()
        of_one_film = sequences._replace(film=torch.zeros_like(sequences.film))
        for row, film in enumerate(sequences.film.tolist()):
            length = int(valid[row].sum())
            # Reading by reading, of its own film: maps of a whole batch on all pixels take gigabytes.
            reading = Sequences(*(part[row : row + 1] for part in of_one_film))
            density = self.network.next_density(features[film : film + 1], reading)[0, :length].double().cpu()
            positions = sequences.position[row, :length].double().cpu() + 0.5
            base, mask = _on(bias[film], on_film[film, 0]), on_film[film, 0]
            scores = conditional_scores(_on(density, mask), positions, base)
            for name, score in zip(found, scores, strict=True):
                found[name][row, :length] = torch.from_numpy(score.values)
        return {name: values.to(self.device) for name, values in found.items()}

    def _path_scores(self, batch: Batch, features: Tensor) -> Outputs:
        """Scores of drawn paths against each reading: means over draws and a film's readings, (B,) each."""
        sequences = self._sequences(batch)
        height, width = batch["image"].shape[-2:]
        # A seed of its own for each batch: the same films draw the same paths whatever was drawn before.
        seed = self.sample_seed * 1_000_003 + int(batch["index"][0])
        readings = Readings(sequences.film, sequences.reader, sequences.finding)
        drawn = [path.numpy() for path in sample(self.network, features, readings, self.draws, seed)]
        read = [
            torch.cat([sequences.position[row, :length], sequences.duration[row, :length, None]], 1).cpu().numpy()
            for row, length in enumerate(sequences.lengths.tolist())
        ]
        self._keep(batch, sequences, drawn)
        of_path = sequences.film.cpu().repeat_interleave(self.draws).numpy()
        pairs = drawn, [path for path in read for _ in range(self.draws)]
        found = {}
        for name, score in path_scores(*pairs, (width, height)).items():
            mean = pd.Series(score.values).groupby(of_path).mean().reindex(range(len(batch["image"])))
            found[f"scanpath_{name}"] = torch.tensor(mean.to_numpy(np.float64), device=self.device)
        return found

    def _keep(self, batch: Batch, sequences: Sequences, drawn: Sequence[np.ndarray]) -> None:
        """Stores drawn paths, in pixels of the original films."""
        data = self._gaze_data
        for number, path in enumerate(drawn):
            row, draw = divmod(number, self.draws)
            index = int(batch["index"][sequences.film[row]])
            known = int(sequences.reader[row])
            self._drawn.append(
                pd.DataFrame(
                    {
                        "index": index,
                        "image_id": data.image_ids[index],
                        "reader_id": self.network.readers[known - 1] if known else "",
                        "reading": row,
                        "draw": draw,
                        "step": np.arange(len(path)),
                        "duration": path[:, 2],
                    }
                ).assign(**dict(zip("xy", data.to_original(index, path[:, :2]).T, strict=True)))
            )

    def on_test_epoch_start(self) -> None:
        """Discards the paths of an earlier test.

        Raises:
            InputError: The weights are sharded; processes whose paths differ in length would wait for each other.
        """
        if isinstance(self.network, FSDPModule):
            raise InputError("a test of scanpaths needs whole weights; leave out --trainer.strategy")
        self._drawn = []

    def on_test_end(self) -> None:
        """Writes the drawn paths of this process beside the predictions; each process writes a file."""
        if self._drawn:
            name = SCANPATHS_FILE if self.trainer.world_size == 1 else f"{self.global_rank}_{SCANPATHS_FILE}"
            path: Path = run_folder(self.trainer) / name
            with atomic_path(path) as temporary:
                pd.concat(self._drawn, ignore_index=True).to_parquet(temporary, index=False)


def _on(density: Tensor, mask: Tensor) -> Tensor:
    """Logarithm of a density (…, H, W), normalised over the film."""
    # A Gaussian is never zero, but in float32 it can be, and an information gain would then be infinite.
    kept = torch.where(mask, density.clamp(min=torch.finfo(torch.float32).tiny), 0.0)
    return (kept / kept.sum((-2, -1), keepdim=True)).log()
