"""The model card of a package: a README in the form that the Hugging Face Hub reads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from gazelit.checkpoints.stamps import sources
from gazelit.deploy.inference import LoadedModel
from gazelit.deploy.packages import LARGEST_PROBABILITY_DIFFERENCE, LEAST_CC
from gazelit.evaluation.scores import MAP_METRICS
from gazelit.evaluation.statistics import Estimate
from gazelit.metrics.catalogue import SPECIFICITY
from gazelit.reporting.sections.diagnosis import PROBABILITIES
from gazelit.reporting.tables import DASH, Table, code, number, plain, with_interval

#: The same text as in docs/model-card.md.
INTENDED = (
    "Research on gaze and diagnosis: comparing methods, losses, encoders, splits and readers under one protocol.",
    "**Not intended**: diagnosis, triage, second reading, quality control or teaching with patients; judging how well "
    "a radiologist works; finding out who a reader or a patient is. It is not a medical device, and it has not been "
    "validated as one.",
)
LIMITS = (
    "Gaze is not attention, and attention is not reasoning. A predicted map shows where a reader would look, not why "
    "the classifier decided.",
    "Probabilities are those of the training shares of the classes. Calibrate and check again where shares differ.",
    "Films unlike the training films (lateral views, children, other devices, photographs of films) get an answer all "
    "the same.",
    "Maps are compared at a σ; differences finer than the tracker's error mean nothing.",
    "A single training says little: seeds differ by as much as methods often do.",
)
_GATE = (
    "The weights were trained on data under a data-use agreement. By asking for access you confirm that you keep to "
    "it, that you do not use the model on patients, and that you do not try to find out who a patient or a reader is."
)


def card(model: LoadedModel, title: str, license: str, metrics: Mapping[str, Any] | None, has_onnx: bool) -> str:
    """Writes the card.

    Args:
        model: The model.
        title: Title of the card.
        license: Name of the licence on the Hub.
        metrics: Result of :func:`gazelit.release.tested.tested`; None if the model has no measured metrics.
        has_onnx: Whether the package holds a graph.
    """
    front = yaml.safe_dump(_front(model, license), sort_keys=False, allow_unicode=True, width=1000)
    sections = [
        [f"# {plain(title)}", "", *_banner(model)],
        ["## What it is", "", *_about(model)],
        ["## Intended use", "", *(line for text in INTENDED for line in (text, ""))],
        ["## Limits", "", *(f"- {text}" for text in LIMITS), ""],
        ["## Training data and lineage", "", *_lineage(model)],
        ["## Measured", "", *_measured(metrics)],
        ["## Calibration", "", *_calibration(model)],
        ["## How to run it", "", *_usage(model, has_onnx)],
    ]
    return f"---\n{front}---\n\n" + "\n".join(line for section in sections for line in section)


def _front(model: LoadedModel, license: str) -> dict[str, Any]:
    synthetic = model.is_of_simulated_films
    tags = ["gazelit", "chest-x-ray", "radiology", "eye-tracking", "saliency"]
    front: dict[str, Any] = {
        "library_name": "gazelit",
        "license": license,
        **({"license_name": "as-the-training-data-allow"} if license == "other" else {}),
        **({"pipeline_tag": "image-classification"} if model.class_names else {}),
        "tags": [*tags, *(["synthetic"] if synthetic else [])],
    }
    if synthetic:
        return front
    fields = {"Name": "text", "Affiliation": "text", "I have signed the data-use agreement": "checkbox"}
    return front | {"extra_gated_prompt": _GATE, "extra_gated_fields": fields}


def _banner(model: LoadedModel) -> list[str]:
    if model.is_of_simulated_films:
        return [
            "> **Trained on SYNTHETIC data.** Films and gaze were simulated: what it says of a film says nothing about",
            "> any patient, and its figures say nothing about clinical performance.",
            "",
        ]
    return ["> **Research software, not a medical device: not for clinical use.**", ""]


def _about(model: LoadedModel) -> list[str]:
    height, width = model.size
    outputs = []
    if model.class_names:
        exclusive = " (one of which is true)" if model.is_exclusive else ""
        outputs.append(f"probabilities of {', '.join(map(plain, model.class_names))}{exclusive}")
    if "saliency_head" in model.network.specs:
        outputs.append("a density of where a radiologist looks")
    name = str(model.stamp["network"]["class_path"]).rpartition(".")[2]
    parameters = sum(parameter.numel() for parameter in model.network.parameters())
    return [
        f"From one frontal chest radiograph: {' and '.join(outputs)}. Network {code(name)}, {parameters:,} parameters, "
        f"at {height} × {width} pixels; made with gazelit {plain(model.stamp['version'])}, stage "
        f"{plain(model.stamp['stage'])}. `config.json` says what happens to a film before the network sees it.",
        "",
    ]


def _lineage(model: LoadedModel) -> list[str]:
    rows: list[list[object]] = []
    for number_of_stage, stamp in enumerate(sources({**model.stamp, "sha256": model.sha256})):
        data = stamp["data"]
        counts = data.get("n") or {}
        films = ", ".join(str(counts.get(split, DASH)) for split in ("train", "val", "test"))
        source = f"{plain(data.get('source', 'unknown'))}{' (synthetic)' if data.get('synthetic') else ''}"
        stage = f"{plain(stamp['stage'])}{' (teacher)' if 'taught' in stamp else ''}"
        sha = stamp.get("exported_from", stamp["sha256"]) if number_of_stage == 0 else stamp["sha256"]
        rows.append([stage, code(str(sha)[:16]), source, films, stamp.get("seed")])
    columns = ["stage", "checkpoint (sha256)", "data", "films to train, validate, test", "seed"]
    lines = Table(columns, rows).markdown()
    data = model.stamp["data"]
    if data.get("gaze_kind"):
        lines += [
            "",
            f"Targets: {plain(data['gaze_kind'])}s weighted by {plain(data['weight'])}, σ = {data['sigma']:g} "
            f"{plain(data['sigma_unit'])}.",
        ]
    return [
        *lines,
        "",
        "Newest first. `lineage.json` has settings, splits and versions of each; no film, id or gaze.",
        "",
    ]


def _measured(metrics: Mapping[str, Any] | None) -> list[str]:
    if metrics is None:
        return ["Nothing: the package was made without the run that tested the model.", ""]
    data, tested = metrics["data"], metrics["model"]
    kind = " (SYNTHETIC)" if data["synthetic"] else ""
    fold = "" if tested["fold"] is None else f", fold {tested['fold'] + 1}"
    together = metrics.get("trainings")
    lines = [
        f"Test split of {plain(data['source'])}{kind}: {metrics['n']['test']} films of {metrics['patients']} patients "
        f"({metrics['split']}; split sha256 {code(str(data['split_sha256'])[:16])}). Intervals: "
        f"{metrics['intervals']}. This model: seed {tested['seed']}{fold}, tested {tested['times_tested']} time(s). "
        f"{' '.join(metrics['notes'])}",
        "",
    ]
    rows = []
    for key, cells in tested["metrics"].items():
        columns = [_name(key), with_interval(_estimate(cells))]
        if together:
            mean = together["metrics"].get(key)
            columns += [DASH if mean is None else with_interval(_estimate(mean))]
            columns += [number(None if mean is None else mean["sd_over_seeds"])]
        rows.append(columns)
    heads = ["metric", "this model", *(["all trainings", "SD over seeds"] if together else [])]
    lines += Table(heads, rows).markdown()
    if together:
        seeds, folds = ", ".join(map(str, together["seeds"])), together["folds"]
        lines += ["", f"All trainings: seeds {seeds}; {folds} fold(s), {together['cases']} films tested in all."]
    else:
        lines += ["", "One training: what another seed would change is not in the intervals."]
    return [*lines, ""]


def _name(key: str) -> str:
    if key in MAP_METRICS:
        return MAP_METRICS[key][0]
    if key in PROBABILITIES:
        return PROBABILITIES[key]
    if key == "auroc_macro":
        return "macro AUC (one-versus-rest)"
    kind, _, class_name = key.partition("_")
    if kind == "auroc":
        return f"AUC {plain(class_name)}"
    if kind == "sensitivity":
        return f"sensitivity to {plain(class_name)} at a specificity of {SPECIFICITY:g}"
    return plain(key.replace("_", " "))


def _estimate(cells: Mapping[str, Any]) -> Estimate:
    value, low, high = (float("nan") if cells[key] is None else float(cells[key]) for key in ("value", "low", "high"))
    return Estimate(value, low, high)


def _calibration(model: LoadedModel) -> list[str]:
    if not model.class_names:
        return ["The model gives no probabilities.", ""]
    record = model.stamp.get("calibration")
    values = sorted({f"{float(value):.4f}" for value in model.temperature})
    if record is None:
        return [f"None: the probabilities are the network's own (temperature {', '.join(values)}).", ""]
    return [
        f"Temperature {', '.join(values)}, fitted to {record['n']} {plain(record['split'])} films: mean negative "
        f"log-likelihood {record['nll_before']:.4f} before, {record['nll_after']:.4f} nats after. They also selected "
        "the checkpoint, which suits them better than others.",
        "",
    ]


def _usage(model: LoadedModel, has_onnx: bool) -> list[str]:
    lines: Sequence[str] = [
        "```python",
        "import gazelit",
        "",
        'model = gazelit.load("FOLDER")  # this folder, or "hub:owner/name"',
        'reading = model.predict("film.dcm")',
        "print(reading.probabilities, reading.warnings)",
        "```",
        "",
        "On the command line: `gazelit infer film.dcm --ckpt FOLDER --out results`.",
        "",
        f"Loading reads `reference.png`, a synthetic film, and compares with `reference.json`: probabilities to "
        f"{LARGEST_PROBABILITY_DIFFERENCE:g}, the map by a CC of at least {LEAST_CC:g}.",
        "",
    ]
    module = str(model.stamp["network"]["class_path"]).rpartition(".")[0]
    if not module.startswith("gazelit."):
        lines = [
            *lines,
            f"The network is a class of {code(module)}: install it, and call `gazelit.trust.trust({module!r})` before "
            f"loading, or add `--trust {module}`.",
            "",
        ]
    if has_onnx:
        lines = [*lines, "`model.onnx` is the same network for other engines; `model.onnx.json` describes it.", ""]
    return list(lines)
