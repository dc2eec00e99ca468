"""Exported networks with the interface of a network, for any engine."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from gazelit import trust
from gazelit.checkpoints import stamps
from gazelit.deploy.graph import IMAGE, OUTPUTS
from gazelit.deploy.guards import Guards
from gazelit.errors import InputError
from gazelit.files import read_json, sha256_file
from gazelit.models.network import Network

#: By format, the suffix of its file.
SUFFIXES = {"onnx": ".onnx", "torch-export": ".pt2", "openvino": ".xml"}
#: Suffix of the file that describes an exported network: ``best.onnx.json`` for ``best.onnx``.
DESCRIPTION_SUFFIX = ".json"
#: The module whose name lets a ``.pt2`` be read: torch unpickles such files, and that can run code.
TORCH_EXPORT = "torch.export"

#: Runs a graph on (B, 1, H, W) float32 in [0, 1].
Run = Callable[[Tensor], Mapping[str, Tensor]]


@dataclass(frozen=True)
class Exported:
    """An exported network with its description.

    Attributes:
        network: Gives ``logits`` and ``saliency_logits``, as the network that was exported does.
        stamp: Of the checkpoint (:mod:`gazelit.checkpoints.stamps`), with ``exported_from``, the hash of that file.
        temperature: (K,) what divides the logits; empty without a classifier.
        sha256: Of the exported file.
        guards: Those that were fitted to the checkpoint; None without.
    """

    network: ExportedNetwork
    stamp: dict[str, Any]
    temperature: Tensor
    sha256: str
    guards: Guards | None = None


class ExportedNetwork(Network):
    """A graph that another engine runs, as a network with the outputs of the exported one; it cannot be trained.

    Args:
        run: Runs the graph.
        stamp: Of the checkpoint that was exported.
    """

    def __init__(self, run: Run, stamp: Mapping[str, Any]) -> None:
        super().__init__()
        self._run = run
        self.arguments = dict(stamp["network"].get("init_args", {}))
        self.specs = dict(stamp["components"])

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Runs the graph.

        Args:
            x: (B, 1, H, W) float32 in [0, 1], of the size that was exported.

        Returns:
            Those of :data:`gazelit.deploy.graph.OUTPUTS` that the graph has, on the device of ``x``.
        """
        return {name: values.to(x.device) for name, values in self._run(x).items()}


def format_of(path: str | os.PathLike[str]) -> str | None:
    """The format of an exported network by the suffix of its file; None for other files."""
    return next((name for name, suffix in SUFFIXES.items() if Path(path).suffix == suffix), None)


def description_of(path: str | os.PathLike[str]) -> Path:
    """Where the description of an exported network lies."""
    return Path(f"{os.fspath(path)}{DESCRIPTION_SUFFIX}")


def read_exported(path: str | os.PathLike[str], device: torch.device) -> Exported:
    """Opens an exported network.

    Args:
        path: A file of ``gazelit export``: ``.onnx``, ``.pt2`` or ``.xml``, with its description beside it.
        device: Where it runs; engines other than torch take the CPU, ONNX Runtime also CUDA if its build has it.

    Raises:
        InputError: A file is missing, changed or malformed, the engine is not installed, or cannot use the device.
    """
    path = Path(path)
    about = _read_description(path)
    format = format_of(path)
    assert format is not None
    with_engine = {"onnx": _onnx, "torch-export": _torch_export, "openvino": _openvino}[format]
    stamp = {**about[stamps.STAMP_KEY], "exported_from": about["checkpoint_sha256"]}
    network = ExportedNetwork(with_engine(path, device), stamp)
    fitted = about.get(stamps.GUARDS_KEY)
    guards = (
        None
        if fitted is None
        else Guards.from_primitives(fitted, str(description_of(path)), stamp["data"].get("class_names") or ())
    )
    return Exported(network.eval(), stamp, torch.tensor(about["temperature"]), about["files"][path.name], guards)


def engine(module: str, extra: str = "export") -> ModuleType:
    """Imports a library of an optional extra.

    Raises:
        InputError: It is not installed.
    """
    if module.partition(".")[0] == "openvino":
        # openvino's import makes an identifier of this machine and reports to Google Analytics, if its telemetry
        # package is there; without, it uses a stub of its own.
        sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise InputError(
            f"{module} is not installed or cannot be loaded ({error}); install it with pip install 'gazelit[{extra}]'"
        ) from error


def _read_description(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    beside = description_of(path)
    if not beside.is_file():
        raise InputError(f"{beside}: no such file; it describes {path.name}, `gazelit export` writes both")
    about = read_json(beside)
    malformed = f"{beside}: not what `gazelit export` writes"
    if not isinstance(about, dict) or not isinstance(about.get("files"), dict):
        raise InputError(malformed)
    stamps.check_stamp(beside, about.get(stamps.STAMP_KEY))
    temperature, checkpoint = about.get("temperature"), about.get("checkpoint_sha256")
    is_right = isinstance(temperature, list) and all(isinstance(value, float) and value > 0 for value in temperature)
    if not is_right or not isinstance(checkpoint, str) or path.name not in about["files"]:
        raise InputError(malformed)
    for name, expected in about["files"].items():
        # A description may be foreign: it may only name files of this folder.
        file = path.parent / Path(name).name
        if file.name != name or not file.is_file() or sha256_file(file) != expected:
            raise InputError(f"{path}: {file.name} is not the file that {beside.name} describes; export it anew")
    return about


def _onnx(path: Path, device: torch.device) -> Run:
    runtime = engine("onnxruntime")
    providers: list[Any] = ["CPUExecutionProvider"]
    if device.type == "cuda" and "CUDAExecutionProvider" in runtime.get_available_providers():
        providers = [("CUDAExecutionProvider", {"device_id": device.index or 0}), *providers]
    elif device.type != "cpu":
        raise InputError(f"device: this onnxruntime cannot use '{device}'; give cpu, or install onnxruntime-gpu")
    options = runtime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    # 3: errors. A user cannot act on its warnings, such as about a graph that it improves.
    options.log_severity_level = 3
    try:
        session = runtime.InferenceSession(str(path), options, providers=providers)
    except Exception as error:
        # A parser may raise any kind of error for a foreign or broken file.
        raise InputError(f"{path}: onnxruntime cannot read it ({type(error).__name__}); export it anew") from error
    names = [output.name for output in session.get_outputs()]

    def run(x: Tensor) -> Mapping[str, Tensor]:
        values = session.run(names, {IMAGE: x.detach().cpu().numpy()})
        return {name: torch.from_numpy(value) for name, value in zip(names, values, strict=True)}

    return run


def _openvino(path: Path, device: torch.device) -> Run:
    if device.type != "cpu":
        raise InputError(f"device: a model of OpenVINO runs on cpu here, not on '{device}'; export it as onnx")
    openvino = engine("openvino")
    # By default it computes in bfloat16 if the processor can.
    properties = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": torch.get_num_threads()}
    try:
        compiled = openvino.Core().compile_model(str(path), "CPU", properties)
    except Exception as error:
        raise InputError(f"{path}: OpenVINO cannot read it ({type(error).__name__}); export it anew") from error
    names = {output: next(iter(output.get_names() & OUTPUTS.keys())) for output in compiled.outputs}

    def run(x: Tensor) -> Mapping[str, Tensor]:
        # The arrays are the engine's own and would change with the next call.
        results = compiled({IMAGE: x.detach().cpu().numpy()})
        return {name: torch.from_numpy(results[output].copy()) for output, name in names.items()}

    return run


def _torch_export(path: Path, device: torch.device) -> Run:
    if not trust.is_trusted(TORCH_EXPORT):
        raise InputError(
            f"{path}: torch reads .pt2 files by pickle, which can run code; if you know where it comes from, add "
            f"--trust {TORCH_EXPORT}, or export it as onnx"
        )
    try:
        program = torch.export.load(path)
    except Exception as error:
        raise InputError(f"{path}: torch cannot read it ({type(error).__name__}); export it anew") from error
    if device.type != "cpu":
        from torch.export.passes import move_to_device_pass

        program = move_to_device_pass(program, device)
    module = program.module()
    # Not the module itself: as part of a network its evaluation mode would be set, which it refuses.
    return lambda x: module(x)
