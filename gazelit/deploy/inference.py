"""Reading radiographs with a trained model: class probabilities and the predicted saliency map of each film."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, cast, overload

import numpy as np
import torch
from torch import Tensor

from gazelit.checkpoints import stamps
from gazelit.data.images.dicom import MAX_PIXELS
from gazelit.data.images.film_intake import Film, FilmIntake
from gazelit.data.images.geometry import Letterbox
from gazelit.deploy.checks import check_classes, check_size, to_device
from gazelit.deploy.film_regions import FilmRegions, on_film
from gazelit.deploy.guards import Guards
from gazelit.deploy.map_warnings import map_warnings
from gazelit.deploy.passes import OUTPUTS, Pass, mean_of, run, spread_of
from gazelit.deploy.preparing import Preparation, Prepared
from gazelit.deploy.reading import Reading
from gazelit.deploy.scanpaths import ExpectedScanpath, expected_scanpaths
from gazelit.errors import InputError
from gazelit.files import sha256_file
from gazelit.models.network import Network, rebuild
from gazelit.models.scanpath_net import ScanpathNetwork
from gazelit.models.weights import check_fit

_CPU = torch.device("cpu")


@dataclass(frozen=True)
class LoadedModel:
    """A trained network with the record of its checkpoint.

    Attributes:
        network: In evaluation mode.
        stamp: The checkpoint's stamp (see :mod:`gazelit.checkpoints.stamps`).
        sha256: Of the checkpoint file.
        temperature: (K,) divisors of the logits; empty without a classifier.
        name: Its name in messages: its file.
        device: Where the network is.
        max_pixels: Films that claim more are refused.
        members: Further networks, each with its temperature; the reading is the mean with this network.
        dropout_passes: How often each network is run with its dropout on; 0 runs it once without.
        guards: Guards for films unlike those of the training, and prediction sets; None without.
        readers: For a model of scanpaths, the readers whose expected paths are given besides that of an unknown one.
            None gives no path; paths take as long as several readings.
    """

    network: Network
    stamp: dict[str, Any]
    sha256: str
    temperature: Tensor
    name: str = "the model"
    device: torch.device = _CPU
    max_pixels: int = MAX_PIXELS
    members: tuple[tuple[Network, Tensor], ...] = ()
    dropout_passes: int = 0
    guards: Guards | None = None
    readers: tuple[str, ...] | None = None

    @property
    def size(self) -> tuple[int, int]:
        """Working resolution (H, W) the network was trained at."""
        height, width = self.stamp["data"]["size"]
        return int(height), int(width)

    @property
    def class_names(self) -> tuple[str, ...]:
        """The classes of the classifier; empty without one."""
        return tuple(self.stamp["data"].get("class_names") or ()) if self.network.classes else ()

    @property
    def outputs(self) -> frozenset[str]:
        """Which of classifier and saliency head the network has, by its components."""
        return frozenset(name for name in getattr(self.network, "specs", {}) if name.endswith(("classifier", "head")))

    @property
    def is_of_simulated_films(self) -> bool:
        """Whether it was trained on simulated films."""
        return bool(self.stamp["data"].get("synthetic", False))

    @property
    def is_exclusive(self) -> bool:
        """Whether exactly one class of each film is true; otherwise labels are independent."""
        return bool(self.stamp["data"].get("exclusive", True))

    @property
    def notice(self) -> str:
        """What the model must not be used for."""
        if self.is_of_simulated_films:
            return "the model was trained on SYNTHETIC data: its output says nothing about any patient"
        return "research software, not a medical device: not for clinical use"

    # A path is a sequence of strings, too; the first signature that fits counts.
    @overload
    def predict(  # type: ignore[overload-overlap]
        self, film: Film, *, bits: int | None = None
    ) -> Reading: ...

    @overload
    def predict(self, film: Sequence[Film], *, bits: int | None = None, batch_size: int = 8) -> list[Reading]: ...

    def predict(
        self, film: Film | Sequence[Film], *, bits: int | None = None, batch_size: int = 8
    ) -> Reading | list[Reading]:
        """Reads one film, or a list of films in batches.

        Files and bytes are decoded in another process, so that a malformed film cannot end this one; the process is
        kept for the next film. The result of a single film is what ``gazelit infer`` writes; in a batch the last digits
        of a float32 may differ.

        Args:
            film: The path of a DICOM, PNG or JPEG file; its bytes; a PIL picture of 8 or 16 bits; or an array, bright
                where tissue is dense, (H, W) or (H, W, 3) of three equal channels: uint8, uint16 with ``bits``, or
                float in [0, 1]. Or a list of these.
            bits: Of uint16 arrays: white is 2 ** bits − 1.
            batch_size: Number of films of a list that the network sees together.

        Raises:
            InputError: A film cannot be read, or the model predicts nothing of a film.
        """
        if not isinstance(film, (list, tuple)):
            (reading,) = self.read([self._intake.read(cast(Film, film), bits)])
            assert isinstance(reading, Reading)
            return reading
        readings = []
        for reading in self.predict_each(film, bits=bits, batch_size=batch_size):
            if isinstance(reading, InputError):
                raise reading
            readings.append(reading)
        return readings

    def predict_each(
        self, films: Iterable[Film], *, bits: int | None = None, batch_size: int = 8
    ) -> Iterator[Reading | InputError]:
        """Reads any number of films one after the other, also after films that cannot be read.

        Args:
            films: See :meth:`predict`.
            bits: See :meth:`predict`.
            batch_size: Number of films that the network sees together.

        Yields:
            The reading of each film, or the error why it could not be read, in the order of the films.

        Raises:
            InputError: ``batch_size`` is below 1, or the model predicts nothing of a film.
        """
        if batch_size < 1:
            raise InputError(f"batch_size: must be at least 1, not {batch_size}")
        waiting: list[Prepared | InputError] = []
        for film in self._intake.read_each(films, bits):
            waiting.append(film)
            if len(waiting) == batch_size:
                yield from self.read(waiting)
                waiting = []
        yield from self.read(waiting)

    @cached_property
    def _intake(self) -> FilmIntake[Prepared]:
        return FilmIntake(Preparation(self.size), self.max_pixels)

    def read(self, films: Sequence[Prepared | InputError]) -> list[Reading | InputError]:
        """Runs the network on those of a batch that could be decoded.

        Args:
            films: The result of :class:`gazelit.deploy.preparing.Preparation` for each film, or why it could not be
                read.

        Returns:
            The reading of each film, or the error, in their order.

        Raises:
            InputError: The model predicts nothing of a film, or its outputs are not finite.
        """
        sound = [film for film in films if isinstance(film, Prepared)]
        if not sound:
            return [film for film in films if isinstance(film, InputError)]
        images = torch.from_numpy(np.stack([film.image for film in sound]))[:, None]
        passes = self.passes(images)
        boxes = [film.record.box for film in sound]
        gaze = self._expected_gaze(images, boxes)
        readings = iter(
            [
                replace(self._reading(film, [batch.row(row) for batch in passes]), scanpaths=paths, regions=regions)
                for row, (film, (paths, regions)) in enumerate(zip(sound, gaze, strict=True))
            ]
        )
        return [film if isinstance(film, InputError) else next(readings) for film in films]

    @torch.inference_mode()
    def _expected_gaze(
        self, images: Tensor, boxes: Sequence[Letterbox]
    ) -> list[tuple[tuple[ExpectedScanpath, ...], FilmRegions | None]]:
        """The expected scanpaths and the learned regions of each film of a batch; none unless readers are asked for."""
        network, readers = self.network, self.readers
        if readers is None or not isinstance(network, ScanpathNetwork):
            return [((), None)] * len(boxes)
        features = network.film_features(images.to(self.device))
        regions = network.regions(features)
        return [
            (
                expected_scanpaths(network, features[row : row + 1], box, readers),
                on_film(regions, row, network.map_stride, box),
            )
            for row, box in enumerate(boxes)
        ]

    def passes(self, images: Tensor) -> list[Pass]:
        """The outputs of each network, or of each of its passes with dropout, for a batch.

        Args:
            images: (B, 1, H, W) float32 in [0, 1] at working resolution.

        Raises:
            InputError: The model predicts nothing of a film, or its outputs are not finite.
        """
        images = images.to(self.device)
        found = []
        for network, temperature in ((self.network, self.temperature), *self.members):
            for outputs in run(network, images, self.dropout_passes):
                outputs = {name: outputs[name].float().cpu() for name in OUTPUTS if name in outputs}
                if not outputs:
                    raise InputError(
                        f"{self.name}: stage {self.stamp['stage']} predicts neither classes nor a saliency map of a "
                        "film; give a checkpoint of a stage with a classifier or a saliency head, such as the joint "
                        "fine-tuning"
                    )
                if not all(output.isfinite().all() for output in outputs.values()):
                    raise InputError(f"{self.name}: its outputs are not finite; give a checkpoint of a sound training")
                found.append(Pass.of(outputs, temperature, self.is_exclusive))
        return found

    def _reading(self, film: Prepared, passes: Sequence[Pass]) -> Reading:
        box, warnings = film.record.box, list(film.record.warnings)
        together = mean_of(passes)
        probabilities: dict[str, float] = {}
        if together.probabilities is not None:
            names = self.stamp["data"]["class_names"]
            probabilities = {
                name: round(float(value), 6) for name, value in zip(names, together.probabilities, strict=True)
            }
        density = None if together.density is None else together.density.view(self.size).numpy()
        if density is not None:
            warnings += map_warnings(density, box)
        prediction_set = None
        if self.guards is not None:
            warnings += self.guards.warnings(film.image, box, self.is_of_simulated_films)
            prediction_set = self.guards.prediction_set(probabilities, self.is_exclusive)
        return Reading(
            probabilities,
            tuple(warnings),
            self.notice,
            film.record,
            spread_of(passes, list(probabilities), self.is_exclusive, box) if len(passes) > 1 else None,
            prediction_set,
            density,
        )


def load_model(
    ckpt: str | os.PathLike[str], device: str | torch.device = "cpu", max_pixels: int = MAX_PIXELS
) -> LoadedModel:
    """Rebuilds the network of a checkpoint, without its training code and without fetching pretrained weights.

    Args:
        ckpt: A checkpoint of ``gazelit fit``, or the ``.safetensors`` of ``gazelit export-weights``.
        device: Device of the network, such as ``cuda``.
        max_pixels: Refuse films that claim more pixels.

    Raises:
        InputError: The file is no gazelit checkpoint or does not say at what size it was trained, or there is no such
            device.
    """
    checkpoint = stamps.read_checkpoint(ckpt)
    stamp = checkpoint[stamps.STAMP_KEY]
    check_size(stamp["data"], ckpt)
    network = rebuild(stamp["network"], str(ckpt))
    state = stamps.network_state(checkpoint)
    check_fit(state, network.state_dict(), f"{ckpt}: its network")
    network.load_state_dict(state, strict=True)
    classes = network.classes or 0
    temperature = checkpoint["state_dict"].get("temperature", torch.ones(classes))
    check_classes(stamp["data"], classes, temperature, ckpt)
    target = to_device(network, device)
    fitted = checkpoint.get(stamps.GUARDS_KEY)
    guards = (
        None if fitted is None else Guards.from_primitives(fitted, str(ckpt), stamp["data"].get("class_names") or ())
    )
    return LoadedModel(
        network.eval(), stamp, sha256_file(ckpt), temperature, str(ckpt), target, max_pixels, guards=guards
    )
