"""``gazelit export``: writes a trained network as a file for other engines, and reports how much it differs."""

from __future__ import annotations

import logging
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from gazelit import __version__
from gazelit.checkpoints import stamps
from gazelit.data.gaze_data import GazeData
from gazelit.deploy.engines import SUFFIXES, TORCH_EXPORT, description_of, engine, read_exported
from gazelit.deploy.graph import IMAGE, OUTPUTS, InferenceGraph, outputs_of, preprocessing, traced
from gazelit.deploy.inference import LoadedModel, load_model
from gazelit.deploy.training_data import training_data
from gazelit.errors import InputError, first_line
from gazelit.files import atomic_path, sha256_file, write_json
from gazelit.models.adapters import merged
from gazelit.release.parity import compare, shortfall, synthetic_films, working_images
from gazelit.release.quantisation import cost, quantise
from gazelit.trust import trust, trust_until_end

logger = logging.getLogger("gazelit")

Format = Literal["onnx", "torch-export", "openvino"]
Precision = Literal["float32", "int8"]
#: Of ONNX: 20 is what ONNX Runtime 1.17 (January 2024) and OpenVINO 2024 read, and holds all that the networks need.
OPSET = 20


@dataclass(frozen=True)
class _Target:
    """The files to write, and the folder in which they are made."""

    format: Format
    path: Path
    folder: Path

    @property
    def made(self) -> Path:
        return self.folder / self.path.name

    @property
    def files(self) -> list[str]:
        """Names of the files, first the file that is opened."""
        return [self.path.name, *([self.path.with_suffix(".bin").name] if self.format == "openvino" else [])]


def export(
    ckpt: str,
    format: Format,
    out: Path | None = None,
    precision: Precision = "float32",
    stage_config: Path | None = None,
    films: int = 128,
    overwrite: bool = False,
) -> None:
    """Writes a trained network as a graph of ONNX, torch.export or OpenVINO that takes batches of any size.

    Temperature and softmax are in the graph. The preprocessing of a film is not: it is described in ``OUT.json``. That
    file also has hashes, the checkpoint's stamp, and the difference of the written file from the trained network: on
    six synthetic films for float32, on the test split for int8. A float32 file that differs by more than 1e-4 in a
    probability, or whose maps have a CC below 0.9999, is not written. ``gazelit infer`` takes the file as a checkpoint.

    Args:
        ckpt: A checkpoint of ``gazelit fit``, or another file with weights that ``gazelit infer`` takes.
        format: ``onnx``; ``torch-export``, a ``.pt2`` that PyTorch reads; or ``openvino``, ``.xml`` and ``.bin``.
        out: The file to write; beside the checkpoint and under its name unless given.
        precision: ``int8`` quantises weights and activations of an ``onnx`` or ``openvino`` graph.
        stage_config: For int8, the ``config.yaml`` of the training, whose training films give the ranges of activations
            and whose test films measure the loss; the file beside the checkpoint's folder unless given.
        films: For int8, how many training films the ranges are taken from.
        overwrite: Replaces existing files.

    Raises:
        InputError: The checkpoint cannot be used, the format's libraries are not installed, the file is there already
            or has another suffix, or the graph does not give what the network gives.
    """
    target = _target_of(ckpt, format, out, precision, overwrite)
    if precision == "int8" and format == "torch-export":
        raise InputError("precision: int8 goes with --format onnx or openvino; torch-export has float32")
    if films < 1:
        raise InputError(f"films: the ranges of int8 need at least one, not {films}")
    for module in {"onnx": ("onnx", "onnxscript", "onnxruntime"), "openvino": ("onnx", "onnxscript", "openvino")}.get(
        format, ()
    ):
        engine(module)
    model = load_model(ckpt)
    data = training_data({model.name: model.stamp}, stage_config) if precision == "int8" else None
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{target.stem}-") as folder:
        making = _Target(format, target, Path(folder))
        about = _make(model, making, data, films)
        for name in reversed(making.files):
            with atomic_path(target.with_name(name)) as temporary:
                (making.folder / name).replace(temporary)
        write_json(description_of(target), about)
    for line in _summary(about):
        logger.info("%s: %s", target, line)


def _target_of(ckpt: str, format: Format, out: Path | None, precision: Precision, overwrite: bool) -> Path:
    source = Path(ckpt)
    ending = "" if precision == "float32" else f"-{precision}"
    target = out if out is not None else source.with_name(f"{source.stem}{ending}{SUFFIXES[format]}")
    if target.suffix != SUFFIXES[format]:
        raise InputError(f"out: {target} must end in {SUFFIXES[format]} for --format {format}")
    present = [file for file in (target, description_of(target)) if file.exists()]
    if present and not overwrite:
        raise InputError(f"{present[0]}: is there already; choose another --out, or replace it with --overwrite true")
    return target


def _make(model: LoadedModel, target: _Target, data: GazeData | None, films: int) -> dict[str, Any]:
    """Writes the files into the target's folder, reads them back and compares; returns their description.

    With data the graph is quantised.
    """
    precision: Precision = "float32" if data is None else "int8"
    graph = InferenceGraph(merged(model.network), model.temperature, model.is_exclusive).eval()
    started = time.perf_counter()
    try:
        program = traced(graph, model.size)
    except Exception as error:
        # The tracer raises errors of any kind for a network that it cannot trace; it can trace all of gazelit's.
        reason = first_line(error)
        raise InputError(f"{model.name}: torch.export cannot trace its network for any batch ({reason})") from error
    outputs = outputs_of(program)
    if not outputs:
        raise InputError(f"{model.name}: stage {model.stamp['stage']} predicts neither classes nor a saliency map")
    logger.info("traced in %.0f s; writing %s", time.perf_counter() - started, target.format)
    if target.format == "torch-export":
        torch.export.save(program, target.made)
    else:
        plain = target.folder / "float32.onnx"
        _write_onnx(program, outputs, plain, model)
        if data is not None:
            plain = quantise(plain, data, films)
        if target.format == "onnx":
            plain.replace(target.made)
        else:
            _write_openvino(plain, target.made)
    about = _description(model, graph, outputs, target, precision)
    write_json(description_of(target.made), about)
    with trust_until_end():
        # The file was written above, so it is trusted.
        trust(TORCH_EXPORT)
        exported = read_exported(target.made, torch.device("cpu"))
    if data is not None:
        return about | {"cost": cost(model, exported, data)}
    images = working_images(synthetic_films(model.size), model.size)
    trained = InferenceGraph(model.network, model.temperature, model.is_exclusive).eval()
    parity = compare(trained, exported.network, images)
    problem = shortfall(parity)
    if problem is not None:
        raise InputError(f"{target.path}: not written, because {problem}; report it with the network's configuration")
    return about | {"parity": {"on": "synthetic films", **parity}}


def _write_onnx(program: torch.export.ExportedProgram, outputs: list[str], path: Path, model: LoadedModel) -> None:
    written = torch.onnx.export(
        program, opset_version=OPSET, input_names=[IMAGE], output_names=outputs, external_data=False, verbose=False
    )
    assert written is not None
    onnx = engine("onnx")
    proto = written.model_proto
    size = ", ".join(map(str, model.size))
    texts = {
        "gazelit": __version__,
        "notice": model.notice,
        "classes": ", ".join(model.class_names),
        "preprocessing": f"working size (H, W): {size}. " + "; ".join(preprocessing(model.size)["steps"]),
    }
    onnx.helper.set_model_props(proto, texts)
    onnx.save(proto, path)


def _write_openvino(plain: Path, path: Path) -> None:
    openvino = engine("openvino")
    # The runtime reads the file, because openvino.convert_model would report its use to OpenVINO's makers.
    openvino.save_model(openvino.Core().read_model(str(plain)), str(path), compress_to_fp16=False)


def _description(
    model: LoadedModel, graph: InferenceGraph, outputs: list[str], target: _Target, precision: Precision
) -> dict[str, Any]:
    libraries = {"onnx": ("onnx", "onnxscript", "onnxruntime"), "openvino": ("onnx", "openvino")}
    versions = {name: _version(name) for name in ("torch", *libraries.get(target.format, ()))}
    return {
        "format": target.format,
        "precision": precision,
        "files": {name: sha256_file(target.folder / name) for name in target.files},
        "checkpoint_sha256": model.sha256,
        "input": {"name": IMAGE, "shape": ["batch", 1, *model.size], "dtype": "float32"},
        "preprocessing": preprocessing(model.size),
        "outputs": {name: OUTPUTS[name] for name in outputs},
        "classes": list(model.class_names),
        "exclusive": graph.exclusive,
        "temperature": [float(value) for value in model.temperature],
        "notice": model.notice,
        "versions": {"gazelit": __version__, **versions},
        stamps.STAMP_KEY: model.stamp,
        **({} if model.guards is None else {stamps.GUARDS_KEY: model.guards.to_primitives()}),
    }


def _version(module: str) -> str:
    return str(engine(module).__version__)


def _summary(about: Mapping[str, Any]) -> list[str]:
    """The description of the file as lines of text."""
    if "parity" in about:
        parity = about["parity"]
        parts = [f"{name} {value:.1e}" for name, value in parity["largest_difference"].items()]
        least = f"; least CC of maps {parity['least_cc']:.7f}" if "least_cc" in parity else ""
        return [f"largest differences from the checkpoint over {parity['images']} films: {', '.join(parts)}{least}"]
    rows: Sequence[Mapping[str, Any]] = about["cost"]["metrics"]
    return [
        f"{row['metric']} {row['float32']:.4f} in float32, {row['int8']:.4f} in int8: change "
        f"{row['change']:+.4f} ({row['low']:+.4f} to {row['high']:+.4f})"
        for row in rows
    ]
