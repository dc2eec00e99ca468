"""Exported graphs in int8, and the loss of quality on the test split."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from gazelit.data.dataset import collate
from gazelit.data.gaze.heatmap import fixation_counts
from gazelit.data.gaze_data import GazeData
from gazelit.data.splits.identity import identity
from gazelit.density import log_density
from gazelit.deploy.engines import Exported, engine
from gazelit.deploy.graph import IMAGE
from gazelit.deploy.inference import LoadedModel
from gazelit.evaluation.scores import case_statistics
from gazelit.evaluation.statistics import bootstrap_weights, drawn, percentile
from gazelit.metrics.calibration import probabilities
from gazelit.metrics.map_values import saliency_values

#: Metrics that are compared between float32 and int8.
METRICS = {"auroc_macro": "macro AUC", "cc": "CC", "nss": "NSS"}


def quantise(plain: Path, data: GazeData, films: int) -> Path:
    """Quantises weights and activations of an ONNX graph to 8 bits, with ranges measured on training films.

    Args:
        plain: The graph in float32.
        data: See :func:`gazelit.deploy.training_data.training_data`.
        films: Number of films, drawn evenly from the training split.

    Returns:
        The quantised graph, beside the plain one.
    """
    quantization = engine("onnxruntime.quantization")
    preparation = engine("onnxruntime.quantization.shape_inference")
    prepared, out = plain.with_name("prepared.onnx"), plain.with_name("int8.onnx")
    preparation.quant_pre_process(str(plain), str(prepared), skip_symbolic_shape=True)
    quantization.quantize_static(
        str(prepared),
        str(out),
        _Films(data, films),
        quant_format=quantization.QuantFormat.QDQ,
        per_channel=True,
        activation_type=quantization.QuantType.QUInt8,
        weight_type=quantization.QuantType.QInt8,
        calibration_providers=["CPUExecutionProvider"],
        op_types_to_quantize=["Conv", "Gemm", "MatMul"],
    )
    return out


class _Films:
    """Training films, as the quantiser asks for them (onnxruntime's ``CalibrationDataReader``)."""

    def __init__(self, data: GazeData, films: int) -> None:
        self._images = self._drawn(data, films)

    def get_next(self) -> dict[str, NDArray[np.float32]] | None:
        """The next film, (1, 1, H, W); None after the last."""
        image = next(self._images, None)
        return None if image is None else {IMAGE: image}

    @staticmethod
    def _drawn(data: GazeData, films: int) -> Iterator[NDArray[np.float32]]:
        dataset = data.dataset("train")
        for number in np.unique(np.linspace(0, len(dataset) - 1, films).round().astype(int)):
            batch = data.render(collate([dataset[0, int(number)]]))
            yield batch["image"].numpy()


def cost(model: LoadedModel, exported: Exported, data: GazeData) -> dict[str, Any]:
    """Measures what a quantised network loses on the test split, with intervals over patients.

    Args:
        model: The network in float32.
        exported: The network in int8.
        data: See :func:`gazelit.deploy.training_data.training_data`.

    Returns:
        ``on``, ``films``, ``patients``, and ``metrics``: by row ``metric``, ``float32``, ``int8``, ``change``, and the
        change's 95 % interval ``low`` to ``high``, bootstrapped over patients.
    """
    tables = {
        "float32": _values(model.network, model, data),
        "int8": _values(exported.network, model, data),
    }
    weights = bootstrap_weights(tables["int8"]["patient"].to_numpy())
    everyone = np.ones((1, weights.cases))
    names = list(model.class_names)
    statistics = {precision: case_statistics(table, names) for precision, table in tables.items()}
    rows = []
    for key, metric in METRICS.items():
        if key not in statistics["int8"]:
            continue
        before, after = (statistics[precision][key] for precision in tables)
        change = float(after(everyone)[0] - before(everyone)[0])
        interval = percentile(change, drawn(after, weights) - drawn(before, weights))
        rows.append(
            {
                "metric": metric,
                "float32": float(before(everyone)[0]),
                "int8": float(after(everyone)[0]),
                "change": change,
                "low": interval.low,
                "high": interval.high,
            }
        )
    provenance = data.provenance
    return {
        "on": f"test split of {provenance['source']}{' (SYNTHETIC)' if provenance['synthetic'] else ''}",
        "split_sha256": provenance["split_sha256"],
        "films": len(tables["int8"]),
        "patients": int(tables["int8"]["patient"].nunique()),
        "metrics": rows,
    }


def _values(network: Callable[[Tensor], Mapping[str, Tensor]], model: LoadedModel, data: GazeData) -> pd.DataFrame:
    """A row for each test film: ``patient``, its label, probabilities and the map metrics."""
    names, exclusive = model.class_names, model.is_exclusive
    patients = identity(data.store.cases["patient_id"]).to_numpy()
    tables = []
    for raw in data.loader("test"):
        batch = data.render(raw)
        with torch.inference_mode():
            outputs = network(batch["image"])
        columns: dict[str, Any] = {"patient": patients[batch["index"].numpy()]}
        if "logits" in outputs:
            scores = probabilities(outputs["logits"], model.temperature, exclusive)
            columns |= {f"p_{name}": scores[:, column].numpy() for column, name in enumerate(names)}
            labels = batch["label"]
            if labels.ndim > 1:
                columns |= {f"y_{name}": labels[:, column].numpy() for column, name in enumerate(names)}
            else:
                columns["label"] = labels.numpy()
        if "saliency_logits" in outputs:
            maps = log_density(outputs["saliency_logits"]).exp()[:, 0]
            target = batch["heatmap"][:, 0]
            counts = fixation_counts(batch["points"], (target.shape[1], target.shape[2]))
            values = saliency_values(maps, target, counts, batch["valid_mask"][:, 0])
            columns |= {key: values[key].numpy() for key in ("cc", "nss")}
        tables.append(pd.DataFrame(columns))
    return pd.concat(tables, ignore_index=True)
