"""Reading radiographs with a trained model: class probabilities and the predicted saliency map of each film."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, cast, overload

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from gazelit import __version__
from gazelit.checkpoints import stamps
from gazelit.data.images.dicom import MAX_PIXELS, Radiograph
from gazelit.data.images.film_intake import Film, FilmIntake
from gazelit.data.images.film_warnings import film_warnings
from gazelit.data.images.geometry import Letterbox
from gazelit.deploy.overlay import draw_overlay, shrunk
from gazelit.errors import InputError
from gazelit.files import atomic_path, sha256_file, write_json
from gazelit.metrics.calibration import probabilities as probabilities_of
from gazelit.models.network import Network, rebuild
from gazelit.models.weights import check_fit

logger = logging.getLogger("gazelit")

_CPU = torch.device("cpu")
_LARGEST_SIDE = 16_384


@dataclass(frozen=True, eq=False)
class Reading:
    """What a model says of one radiograph.

    Attributes:
        probabilities: By class name; empty for a network without a classifier.
        warnings: What makes the reading doubtful (:func:`gazelit.data.images.film_warnings.film_warnings`); each a
            line that begins with its kind, such as ``lateral:``.
        notice: What the model may not be used for.
        shape: Height and width of the film.
    """

    probabilities: dict[str, float]
    warnings: tuple[str, ...]
    notice: str
    shape: tuple[int, int]
    _thumbnail: NDArray[np.float32]
    _density: NDArray[np.float32] | None
    _letterbox: Letterbox

    def __repr__(self) -> str:
        return f"Reading(probabilities={self.probabilities}, warnings={self.warnings}, shape={self.shape})"

    @cached_property
    def saliency(self) -> NDArray[np.float32] | None:
        """(H, W) float32 on the pixels of the film, sums to 1; None without a saliency head."""
        if self._density is None:
            return None
        restored = np.clip(self._letterbox.restore(self._density), 0, None)
        density: NDArray[np.float32] = (restored / restored.sum(dtype=np.float64)).astype(np.float32)
        return density

    def overlay(self) -> Image.Image:
        """The film with the map over it, a colour bar, and a line on its strength (:mod:`gazelit.deploy.overlay`).

        Raises:
            InputError: The network has no saliency head.
        """
        if self._density is None:
            raise InputError("overlay: the model predicts no saliency map; load one with a saliency head")
        box = self._letterbox
        inner = self._density[box.top : box.top + box.inner[0], box.left : box.left + box.inner[1]]
        return draw_overlay(self._thumbnail, inner)


@dataclass(frozen=True)
class _Prepared:
    """What is kept of a film, whose pixels may be a hundred times as many, until the network sees its batch."""

    box: Letterbox
    image: NDArray[np.float32]
    warnings: tuple[str, ...]
    thumbnail: NDArray[np.float32]


@dataclass(frozen=True)
class LoadedModel:
    """A trained network with what its checkpoint says of it.

    Attributes:
        network: In evaluation mode.
        stamp: The checkpoint's stamp (see :mod:`gazelit.checkpoints.stamps`).
        sha256: Of the checkpoint file.
        temperature: (K,) what divides the logits; empty without a classifier.
        name: What messages call it: its file.
        device: Where the network is.
        max_pixels: Films that claim more are refused.
    """

    network: Network
    stamp: dict[str, Any]
    sha256: str
    temperature: Tensor
    name: str = "the model"
    device: torch.device = _CPU
    max_pixels: int = MAX_PIXELS

    @property
    def size(self) -> tuple[int, int]:
        """Working resolution (H, W) the network was trained at."""
        height, width = self.stamp["data"]["size"]
        return int(height), int(width)

    @property
    def class_names(self) -> tuple[str, ...]:
        """What the classifier tells apart; empty without one."""
        return tuple(self.stamp["data"].get("class_names") or ()) if self.network.classes else ()

    @property
    def notice(self) -> str:
        """What the model may not be used for."""
        if self.stamp["data"].get("synthetic", False):
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

        Files and bytes are decoded in a process of its own, which a malformed film cannot take along; it is kept for
        the next film. The result of a single film is what ``gazelit infer`` writes; in a batch the last digits of a
        float32 may differ.

        Args:
            film: The path of a DICOM, PNG or JPEG file; its bytes; a PIL picture of 8 or 16 bits; or an array, bright
                where tissue is dense, (H, W) or (H, W, 3) of three equal channels: uint8, uint16 with ``bits``, or
                float in [0, 1]. Or a list of these.
            bits: Of uint16 arrays: white is 2 ** bits − 1.
            batch_size: How many films of a list the network sees together.

        Raises:
            InputError: A film cannot be read, or the model predicts nothing of a film.
        """
        if not isinstance(film, (list, tuple)):
            (reading,) = self._read([self._prepared(self._intake.read(cast(Film, film), bits))])
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
        """Reads any number of films one after the other, past those that cannot be read.

        Args:
            films: See :meth:`predict`.
            bits: See :meth:`predict`.
            batch_size: How many films the network sees together.

        Yields:
            The reading of each film, or the error that says why there is none, in the order of the films.

        Raises:
            InputError: ``batch_size`` is below 1, or the model predicts nothing of a film.
        """
        if batch_size < 1:
            raise InputError(f"batch_size: must be at least 1, not {batch_size}")
        waiting: list[_Prepared | InputError] = []
        for film in self._intake.read_each(films, bits):
            waiting.append(film if isinstance(film, InputError) else self._prepared(film))
            if len(waiting) == batch_size:
                yield from self._read(waiting)
                waiting = []
        yield from self._read(waiting)

    @cached_property
    def _intake(self) -> FilmIntake:
        return FilmIntake(self.max_pixels)

    def _prepared(self, film: Radiograph) -> _Prepared:
        box = Letterbox.fit(film.pixels.shape[0], film.pixels.shape[1], self.size)
        return _Prepared(box, box.apply(film.pixels), film_warnings(film, self.size), shrunk(film.pixels))

    def _read(self, films: Sequence[_Prepared | InputError]) -> Iterator[Reading | InputError]:
        """Runs the network on those of a batch that could be decoded."""
        images = [film.image for film in films if isinstance(film, _Prepared)]
        if images:
            with torch.inference_mode():
                outputs = self.network(torch.from_numpy(np.stack(images))[:, None].to(self.device))
            outputs = {name: outputs[name].float().cpu() for name in ("logits", "saliency_logits") if name in outputs}
            if not outputs:
                raise InputError(
                    f"{self.name}: stage {self.stamp['stage']} predicts neither classes nor a saliency map of a film; "
                    "give a checkpoint of a stage with a classifier or a saliency head, such as the joint fine-tuning"
                )
            if not all(output.isfinite().all() for output in outputs.values()):
                raise InputError(f"{self.name}: its outputs are not finite; give a checkpoint of a sound training")
        row = 0
        for film in films:
            if isinstance(film, InputError):
                yield film
            else:
                yield self._reading(film, {name: output[row] for name, output in outputs.items()})
                row += 1

    def _reading(self, film: _Prepared, outputs: dict[str, Tensor]) -> Reading:
        probabilities: dict[str, float] = {}
        if "logits" in outputs:
            exclusive = self.stamp["data"].get("exclusive", True)
            values = probabilities_of(outputs["logits"][None], self.temperature, exclusive)[0]
            names = self.stamp["data"]["class_names"]
            probabilities = {name: round(float(value), 6) for name, value in zip(names, values, strict=True)}
        density = None
        if "saliency_logits" in outputs:
            density = outputs["saliency_logits"][0].flatten().softmax(0).view(self.size).numpy()
        shape = (film.box.height, film.box.width)
        return Reading(probabilities, film.warnings, self.notice, shape, film.thumbnail, density, film.box)


def load_model(
    ckpt: str | os.PathLike[str], device: str | torch.device = "cpu", max_pixels: int = MAX_PIXELS
) -> LoadedModel:
    """Rebuilds the network of a checkpoint, without its training code and without fetching pretrained weights.

    Args:
        ckpt: A checkpoint of ``gazelit fit``, or the ``.safetensors`` of ``gazelit export-weights``.
        device: Where the network is to be, such as ``cuda``.
        max_pixels: Refuse films that claim more pixels.

    Raises:
        InputError: The file is no gazelit checkpoint or does not say at what size it was trained, or there is no such
            device.
    """
    checkpoint = stamps.read_checkpoint(ckpt)
    stamp = checkpoint[stamps.STAMP_KEY]
    _check_size(stamp["data"], ckpt)
    network = rebuild(stamp["network"], str(ckpt))
    state = stamps.network_state(checkpoint)
    check_fit(state, network.state_dict(), f"{ckpt}: its network")
    network.load_state_dict(state, strict=True)
    classes = network.classes or 0
    temperature = checkpoint["state_dict"].get("temperature", torch.ones(classes))
    names = stamp["data"].get("class_names")
    if classes and (not isinstance(names, list) or len(names) != classes or temperature.shape != (classes,)):
        raise InputError(f"{ckpt}: its stamp does not name the {classes} classes of its network; train it anew")
    try:
        target = torch.device(device)
        network.to(target)
    except (RuntimeError, AssertionError, TypeError) as error:
        raise InputError(f"device: '{device}' cannot be used here; give cpu, cuda or cuda:1") from error
    return LoadedModel(network.eval(), stamp, sha256_file(ckpt), temperature, str(ckpt), target, max_pixels)


def _check_size(data: dict[str, Any], ckpt: str | os.PathLike[str]) -> None:
    if "size" not in data:
        raise InputError(f"{ckpt}: does not record the size of its training images; train it with a GazeDataModule")
    size = data["size"]
    if (
        not isinstance(size, (list, tuple))
        or len(size) != 2
        or not all(isinstance(side, int) and 1 <= side <= _LARGEST_SIDE for side in size)
    ):
        raise InputError(f"{ckpt}: its stamp is malformed (the size of its training images)")


def infer(
    files: list[str],
    ckpt: Path,
    out: Path,
    overwrite: bool = False,
    max_pixels: int = MAX_PIXELS,
    device: str = "cpu",
) -> None:
    """Reads DICOM, PNG or JPEG files with a trained model.

    Writes, per file, ``<name>.json`` (class probabilities, warnings and where the model comes from),
    ``<name>_saliency.npy`` (float32 density on the image's own pixels, sums to 1) and ``<name>_overlay.png``. Films are
    decoded in a process of its own; one that cannot be read, crashes the decoder or hangs is named at the end, after
    the others were read.

    Args:
        files: DICOM, PNG or JPEG files. Of files of the same name, the second is ``<name>_2`` and so on.
        ckpt: A checkpoint written by ``gazelit fit``.
        out: Folder for the results.
        overwrite: Replace results of the same names in ``out``, rather than refuse to begin.
        max_pixels: Refuse films that claim more pixels.
        device: Where the network runs, such as ``cuda``.

    Raises:
        InputError: The checkpoint cannot be used or predicts nothing of a film, results are there already, or a file
            could not be read (after the others were).
    """
    names = _result_names(files)
    present = [name for name in names if (out / f"{name}.json").exists()]
    if present and not overwrite:
        raise InputError(
            f"{out}: holds {len(present)} of the {len(names)} results already; "
            "choose another --out, or replace them with --overwrite true"
        )
    model = load_model(ckpt, device, max_pixels)
    logger.info(model.notice)
    failures: list[str] = []
    # One by one, so that a film's result does not depend on the others.
    for path, name, reading in zip(files, names, model.predict_each(files, batch_size=1), strict=True):
        if isinstance(reading, InputError):
            failures.append(str(reading))
            continue
        _write_result(model, path, reading, out / name)
        summary = ", ".join(f"{label} {value:.3f}" for label, value in reading.probabilities.items())
        logger.info("%s: %s", name, summary or "saliency map written")
        for warning in reading.warnings:
            logger.warning("%s: warning: %s", name, warning)
    if failures:
        raise InputError(f"{len(failures)} of {len(files)} files could not be read: " + "; ".join(failures))


def _write_result(model: LoadedModel, path: str, reading: Reading, stem: Path) -> None:
    """Writes the files of one result, the JSON file that names the others last."""
    result = {
        "file": Path(path).name,
        "height": reading.shape[0],
        "width": reading.shape[1],
        "probabilities": reading.probabilities,
        "warnings": list(reading.warnings),
        "notice": reading.notice,
        "model": {
            "checkpoint_sha256": model.sha256,
            "stage": model.stamp["stage"],
            "trained_on_synthetic_data": bool(model.stamp["data"].get("synthetic", False)),
            "gazelit": __version__,
        },
    }
    if reading.saliency is not None:
        saliency, picture = (stem.with_name(f"{stem.name}_{end}") for end in ("saliency.npy", "overlay.png"))
        with atomic_path(saliency) as temporary:
            np.save(temporary, reading.saliency)
        with atomic_path(picture) as temporary:
            reading.overlay().save(temporary)
        result |= {"saliency": saliency.name, "overlay": picture.name}
    write_json(stem.with_name(f"{stem.name}.json"), result)


def _result_names(files: list[str]) -> list[str]:
    """A name for each file's results, no two the same, also where the file system knows no capitals."""
    stems = [Path(path).stem for path in files]
    # A name that a file has of its own is never given to a namesake of another.
    taken = {stem.casefold() for stem in stems}
    seen: set[str] = set()
    names = []
    for stem in stems:
        name, number = stem, 2
        while name.casefold() in seen or (name != stem and name.casefold() in taken):
            name, number = f"{stem}_{number}", number + 1
        seen.add(name.casefold())
        names.append(name)
    return names
