"""gazelit beside what people would run instead: the paper's own code, a Lightning tutorial's way, pysaliency.

    python benchmarks/against.py [--reference DIR] [--films 64] [--rounds 3] [--json build/against.json]

``--reference`` is a checkout of the paper's reference implementation (github HealthX-Lab/CXRGazeLearn); without it its
rows are left out. It runs as it is, in a process of its own; what today's libraries no longer have (``np.Inf``, an
argument of a scheduler) or it imports without using is put beside it, and weights are random, as everywhere here.

The same simulated films of EGD-CXR's sizes for all; float32 on one thread; CPU seconds of the process that does it and
its workers, without imports and the making of the network, in rounds that alternate the ways. The published 320 × 256
of stage 1 and 640 × 512 of stage 3 would take hours; here they are at 160 × 128 and 96 × 64, what the reference makes
of its ``downsample`` 20 and 40. Batches of stage 3 are of 8, not 6, so that all take the same number of films.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import types
import warnings
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from measure import Ratio, cpu_seconds, machine

HERE = Path(__file__)
GAZELIT, REFERENCE, TUTORIAL, PYSALIENCY = "gazelit", "reference", "decoded and blurred per item", "pysaliency"
BFLOAT16 = "gazelit, bfloat16"
METRICS = "seven metrics of predicted maps"
#: By workload: its ways, the first of which the others are compared with.
WAYS = {
    "preparing films": [GAZELIT, REFERENCE],
    "an epoch of stage 1": [GAZELIT, REFERENCE, TUTORIAL],
    "an epoch of stage 3": [GAZELIT, BFLOAT16, REFERENCE, TUTORIAL],
    "an epoch of stage 3's data alone": [GAZELIT, REFERENCE, TUTORIAL],
    METRICS: [GAZELIT, PYSALIENCY],
}
#: By stage: the reference's ``downsample``, the size that it comes to, the batch.
STAGES = {"1": (20, (160, 128), 32), "3": (40, (96, 64), 8)}
CLASSES = ["Normal", "CHF", "pneumonia"]
#: Metrics whose definitions are the same in pysaliency: its AUC counts fixated pixels among the others as well.
SAME_DEFINITION = ("cc", "kld", "sim", "nss", "ig")
#: Films that are simulated; the rest are copies under ids of their own, which nothing that is measured notices.
SIMULATED = 8
SIGMA, KERNEL = 75.5, 501


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--reference", type=Path, help="a checkout of the reference implementation")
    parser.add_argument("--films", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--only", nargs="+", choices=list(WAYS), default=list(WAYS))
    parser.add_argument("--json", type=Path, default=Path("build/against.json"))
    parser.add_argument("--worker", nargs=3, metavar=("WORKLOAD", "WAY", "FOLDER"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    reference = options.reference.resolve() if options.reference else None
    if options.worker:
        workload, way, folder = options.worker
        run_one(workload, way, Path(folder), reference)
        return
    with tempfile.TemporaryDirectory() as folder:
        if set(options.only) != {METRICS}:
            make_material(Path(folder), options.films, reference)
        found = measure(options.only, Path(folder), reference, options.rounds)
    options.json.parent.mkdir(parents=True, exist_ok=True)
    about = {"machine": machine(), "films": options.films, "workloads": found}
    options.json.write_text(json.dumps(about, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def measure(workloads: list[str], folder: Path, reference: Path | None, rounds: int) -> dict[str, Any]:
    """Each workload in alternating rounds, a process for each way; prints a row as it is known."""
    found: dict[str, Any] = {}
    print("| workload | way | gazelit is times faster | CPU seconds | peak MB | load |\n|---|---|---|---|---|---|")
    for workload in workloads:
        ways = [way for way in WAYS[workload] if way != REFERENCE or reference]
        runs: dict[str, list[dict[str, Any]]] = {way: [] for way in ways}
        for _ in range(rounds):
            for way in ways:
                runs[way].append(in_process(workload, way, folder, reference))
        row: dict[str, Any] = {"against": GAZELIT, "load": os.getloadavg()[0], "ways": {}}
        for way in ways:
            each = [compared["cpu"] / own["cpu"] for own, compared in zip(runs[GAZELIT], runs[way], strict=True)]
            ratio = Ratio(statistics.median(each), min(each), max(each), rounds)
            seconds = statistics.median(run["cpu"] for run in runs[way])
            peak = max(run["mb"] for run in runs[way])
            values = [runs[name][0].get("values") for name in (GAZELIT, way)]
            if way != GAZELIT and all(values):
                row["difference"] = max(abs(values[0][name] - values[1][name]) for name in SAME_DEFINITION)
            row["ways"][way] = {"ratio": asdict(ratio), "seconds": seconds, "mb": peak, "runs": runs[way]}
            spread = f"{ratio.median:.2f} ({ratio.low:.2f} to {ratio.high:.2f})"
            print(f"| {workload} | {way} | {spread} | {seconds:.2f} | {peak:.0f} | {row['load']:.1f} |", flush=True)
        found[workload] = row
    return found


def in_process(workload: str, way: str, folder: Path, reference: Path | None) -> dict[str, Any]:
    """CPU and wall seconds and peak memory of one run."""
    given = ["--reference", str(reference)] if reference else []
    command = [sys.executable, str(HERE), *given, "--worker", workload, way, str(folder)]
    process = subprocess.run(command, capture_output=True, text=True, check=False)
    if process.returncode:
        sys.exit(f"{workload}, {way}: {process.stderr[-3000:]}")
    result: dict[str, Any] = json.loads(process.stdout.splitlines()[-1])
    return result


def run_one(workload: str, way: str, folder: Path, reference: Path | None) -> None:
    """Does it once in this process, and prints what it cost."""
    import torch

    torch.set_num_threads(1)
    torch.manual_seed(0)
    # What is written on the way goes when the measurement ends.
    tempfile.tempdir = str(folder)
    # The reference's code is of other versions of its libraries; what they say of it is not about what is measured.
    warnings.simplefilter("ignore")
    call = PREPARED_CALLS[workload](way, folder, reference)
    results: list[Any] = []
    start = time.perf_counter()
    cpu = cpu_seconds(lambda: results.append(call()))
    wall = time.perf_counter() - start
    peak = max(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)) / 1024
    values = {"values": results[0]} if isinstance(results[0], dict) else {}
    print(json.dumps({"cpu": cpu, "wall": wall, "mb": peak, **values}))


def make_material(folder: Path, films: int, reference: Path | None) -> None:
    """Films and gaze, and what each way has made of them before it trains."""
    from gazelit.synthetic.cohort import write_cohort

    write_cohort(folder / "cohort", cases=SIMULATED, seed=0)
    for mask in (folder / "cohort").rglob("mediastinum.png"):
        # The dataset has both spellings; the reference reads one of them.
        mask.with_name("mediastanum.png").symlink_to(mask)
    copies = -(-films // SIMULATED)
    multiply(folder / "cohort", folder / "films", copies + 1)
    for downsample, size in {(downsample, size) for downsample, size, _ in STAGES.values()}:
        prepare_ours(folder / "films", folder / f"store-{downsample}", size)
        if reference:
            command = [sys.executable, str(HERE), "--reference", str(reference)]
            subprocess.run([*command, "--worker", "material", str(downsample), str(folder)], check=True)
            made = folder / f"reference-{downsample}" / "Train"
            # Its loader of validation films is made, if never used, and may not be empty.
            shutil.copy(next(made.iterdir()), made.with_name("Valid"))
            for file in list(made.iterdir()):
                for copy in range(1, copies):
                    shutil.copy(file, file.with_stem(f"{file.stem}-{copy}"))


def multiply(cohort: Path, out: Path, copies: int) -> None:
    """The films and gaze of a cohort under so many ids each."""
    import pandas as pd

    tables, images = out / "egd-cxr", out / "mimic-cxr"
    tables.mkdir(parents=True)
    shutil.copy(cohort / "egd-cxr" / "SYNTHETIC.json", tables)
    for name, column in {"master_sheet": "dicom_id", "eye_gaze": "DICOM_ID", "fixations": "DICOM_ID"}.items():
        table = pd.read_csv(cohort / "egd-cxr" / f"{name}.csv", dtype=str, keep_default_na=False)
        # Between films the tracker was calibrated, under ids of no film.
        table = table[table[column].str.len() == 44]
        parts = [table.assign(**{column: f"{copy:08x}" + table[column].str[8:]}) for copy in range(copies)]
        if name == "master_sheet":
            for copy, part in enumerate(parts):
                part["path"] = [f"files/p10/p10000000/s50000000/{film}.dcm" for film in part["dicom_id"]]
                part["patient_id"] = [f"{10000000 + copy * len(part) + row}" for row in range(len(part))]
                part["study_id"] = part["patient_id"]
                for old, new in zip(table["path"], part["path"], strict=True):
                    (images / new).parent.mkdir(parents=True, exist_ok=True)
                    (images / new).symlink_to(cohort / "mimic-cxr" / old)
            films = pd.concat(parts)["dicom_id"]
            # Another copy, because no split may be empty.
            split = ["train"] * (len(films) - len(table)) + (["val", "test"] * len(table))[: len(table)]
            pd.DataFrame({"image_id": films, "split": split}).to_csv(out / "split.csv", index=False)
        pd.concat(parts).to_csv(tables / f"{name}.csv", index=False)


def prepare_ours(cohort: Path, out: Path, size: tuple[int, int]) -> None:
    from gazelit.data.sources import EGDCXR
    from gazelit.data.store.prepare import prepare

    prepare(EGDCXR(str(cohort / "egd-cxr"), str(cohort / "mimic-cxr")), out, size, workers=1)


def prepare_by_reference(cohort: Path, out: Path, downsample: int) -> None:
    """As the reference's ``save_all`` does with each film, all of them into ``Train``."""
    import hzhu_data_raw

    (out / "Train").mkdir(parents=True)
    (out / "Valid").mkdir()
    films = hzhu_data_raw.MasterDataHandle(str(cohort / "egd-cxr"), str(cohort / "mimic-cxr"), blur=KERNEL - 1)
    for number in range(len(films)):
        film = films[number]
        films.process(data=film, downsample=downsample)
        films.save(data=film, path=str(out / "Train"), downsample=downsample)


def preparing(way: str, folder: Path, reference: Path | None) -> Callable[[], object]:
    """Both make a film at 640 × 512 with its masks; the reference its map as well, which gazelit draws in training."""
    out = Path(tempfile.mkdtemp(dir=folder)) / "made"
    if way == REFERENCE:
        enter(reference, "Data")
        return lambda: prepare_by_reference(folder / "cohort", out, 5)
    import gazelit.data.sources  # noqa: F401

    return lambda: prepare_ours(folder / "cohort", out, (640, 512))


def material(way: str, folder: Path, reference: Path | None) -> Callable[[], object]:
    """What the reference trains on."""
    enter(reference, "Data")
    return lambda: prepare_by_reference(folder / "cohort", folder / f"reference-{way}", int(way))


def stage(number: str, way: str, folder: Path, reference: Path | None) -> Callable[[], object]:
    """One epoch of training, from reading the tables on."""
    downsample, size, batch = STAGES[number]
    if way == REFERENCE:
        learn = reference_training(reference, number, folder / f"reference-{downsample}", batch)
        return lambda: learn.train_iterate(learn.dataAll("Train"))
    import lightning as L

    precision: Any = "bf16-mixed" if way == BFLOAT16 else "32-true"
    trainer = L.Trainer(
        max_epochs=1, limit_val_batches=0, accelerator="cpu", precision=precision, default_root_dir=folder,
        logger=False, enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    if way == TUTORIAL:
        module = tutorial_module(number)
        return lambda: trainer.fit(module, tutorial_loader(number, folder, size, batch))
    from gazelit.stages import ContrastivePretraining, JointFinetuning

    published = (ContrastivePretraining if number == "1" else JointFinetuning)(network(number))
    return lambda: trainer.fit(published, our_data(folder, downsample, batch))


def data_alone(way: str, folder: Path, reference: Path | None) -> Callable[[], object]:
    """Every batch of an epoch of stage 3, with its maps, and nothing learned from it."""
    downsample, size, batch = STAGES["3"]
    if way == REFERENCE:
        enter(reference, "Module")
        loader = reference_loader(folder / f"reference-{downsample}", batch)("Train")

        def reference_targets() -> None:
            for given in loader:
                target = given["gaze"].unsqueeze(1)
                target / target.sum(dim=(-2, -1), keepdim=True)

        return reference_targets
    if way == TUTORIAL:
        return lambda: list(tutorial_loader("3", folder, size, batch))

    def ours() -> None:
        module = our_data(folder, downsample, batch)
        module.setup("fit")
        for given in module.train_dataloader():
            module.render(given)

    return ours


def network(number: str) -> Any:
    """The published network, with random weights."""
    from gazelit.models import DualEncoderUNet, EncoderSpec
    from gazelit.models.contrastive_net import ContrastiveNetwork

    encoder = EncoderSpec("paper-densenet201")
    return ContrastiveNetwork(encoder) if number == "1" else DualEncoderUNet(encoder, EncoderSpec("res-se"))


def our_data(folder: Path, downsample: int, batch: int) -> Any:
    """The published stages' data (``data/egd-cxr.yaml``), every film in the training split."""
    from gazelit.data.datamodule import GazeDataModule
    from gazelit.data.options import AugmentationOptions, GazeOptions, LoaderOptions, SplitOptions

    return GazeDataModule(
        str(folder / f"store-{downsample}"),
        gaze=GazeOptions(kind="sample", weight="count", sigma=SIGMA, sigma_unit="image_px"),
        split=SplitOptions(file=str(folder / "films" / "split.csv"), allow_empty=True),
        loader=LoaderOptions(batch_size=batch, num_workers=0),
        augmentation=AugmentationOptions(enabled=False),
    )


def enter(reference: Path | None, part: str) -> None:
    """Lets a folder of the reference be imported, with what has gone from its libraries since."""
    import numpy as np
    import torch
    import torchvision

    assert reference is not None
    os.chdir(tempfile.mkdtemp())
    sys.path.insert(0, str(reference / part))
    unused = {
        "classy_vision.generic.distributed_util": [
            "convert_to_distributed_tensor", "convert_to_normal_tensor", "is_distributed_training_run",
        ],
        "torch.utils.tensorboard": ["SummaryWriter"],
    }  # fmt: skip
    for name, attributes in unused.items():
        parts = name.split(".")
        for length in range(1, len(parts) + 1):
            sys.modules.setdefault(".".join(parts[:length]), types.ModuleType(".".join(parts[:length])))
        for attribute in attributes:
            setattr(sys.modules[name], attribute, None)
    vars(np)["Inf"] = np.inf
    plain = torchvision.models.densenet201
    torchvision.models.densenet201 = lambda pretrained: plain()
    scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau
    torch.optim.lr_scheduler.ReduceLROnPlateau = (  # type: ignore[misc]
        lambda *given, verbose, **named: scheduler(*given, **named)
    )


def reference_loader(data: Path, batch: int) -> Any:
    """Its loader: one worker, which is what it takes of two threads; of one it takes none, and its options fail."""
    import hzhu_data
    import torch

    torch.set_num_threads(2)
    loader = hzhu_data.DataMaster(path=str(data), batch_size=batch)
    torch.set_num_threads(1)
    return loader


def reference_training(reference: Path | None, number: str, data: Path, batch: int) -> Any:
    """Its training as its ``RUN.py`` sets it up: folder ``CL`` for stage 1, ``Module`` for stage 3."""
    enter(reference, {"1": "CL", "3": "Module"}[number])
    import hzhu_learn
    import hzhu_MTL_UNet
    import torch
    from torch import nn

    device = torch.device("cpu")
    net = hzhu_MTL_UNet.MTL_UNet_preset(device, {"class": 3, "image": 1}, {"class": 0.0, "image": None})
    learn = hzhu_learn.NetLearn(
        net=net,
        dataAll=reference_loader(data, batch),
        criterion={"class": nn.CrossEntropyLoss(), "saliency": nn.KLDivLoss(reduction="batchmean")},
        optimizer_dict={"optimizer": torch.optim.Adam, "param": {}, "name": "Adam"},
        lr=1e-4, lr_min=1e-8, lr_factor=0.1, epoch_max=1, duration_max=1e9, patience_reduce_lr=40,
        patience_early_stop=83, device=device, metrics={}, name="NET", path=tempfile.mkdtemp(),
    )  # fmt: skip
    # As its train() does before the first epoch.
    learn.scaler = torch.cuda.amp.GradScaler()
    learn.triplet_loss = nn.TripletMarginLoss(margin=1.0, p=2)
    return learn


def tutorial_loader(number: str, folder: Path, size: tuple[int, int], batch: int) -> Any:
    """Each film decoded, and for stage 3 its samples blurred at full size, when it is asked for."""
    import cv2
    import numpy as np
    import pandas as pd
    import pydicom
    import torch
    from torch.utils.data import DataLoader, Dataset

    class Films(Dataset):  # type: ignore[type-arg]
        def __init__(self, root: Path) -> None:
            self.root = root
            split = pd.read_csv(root / "split.csv")
            sheet = pd.read_csv(root / "egd-cxr" / "master_sheet.csv")
            self.sheet = sheet[sheet["dicom_id"].isin(split.loc[split["split"] == "train", "image_id"])]
            self.gaze = dict(list(pd.read_csv(root / "egd-cxr" / "eye_gaze.csv").groupby("DICOM_ID")))

        def __len__(self) -> int:
            return len(self.sheet)

        def __getitem__(self, row: int) -> tuple[Any, ...]:
            case = self.sheet.iloc[row]
            pixels = pydicom.dcmread(self.root / "mimic-cxr" / case["path"]).pixel_array.astype(np.float32)
            image = torch.from_numpy(cv2.resize(pixels / pixels.max(), size[::-1], interpolation=cv2.INTER_AREA))[None]
            label = int(np.argmax(case[CLASSES].to_numpy(float)))
            if number == "1":
                return image, label
            counts = np.zeros(pixels.shape, np.float32)
            x, y = (self.gaze[case["dicom_id"]][f"{axis}_ORIGINAL"].to_numpy(int) for axis in "XY")
            inside = (x >= 0) & (y >= 0) & (x < pixels.shape[1]) & (y < pixels.shape[0])
            np.add.at(counts, (y[inside], x[inside]), 1)
            blurred = cv2.GaussianBlur(counts, (KERNEL, KERNEL), SIGMA)
            heatmap = cv2.resize(blurred, size[::-1], interpolation=cv2.INTER_AREA)
            return image, label, torch.from_numpy(heatmap / heatmap.sum())[None]

    return DataLoader(Films(folder / "films"), batch, shuffle=True)


def tutorial_module(number: str) -> Any:
    """A training step as tutorials write one, with gazelit's network and a library's triplet loss."""
    import lightning as L
    import torch
    import torch.nn.functional as F
    from pytorch_metric_learning.losses import TripletMarginLoss

    class Module(L.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.network = network(number)
            self.triplets = TripletMarginLoss(margin=1.0)

        def training_step(self, batch: Any, _: int) -> Any:
            outputs = self.network(batch[0])
            if number == "1":
                return self.triplets(outputs["embedding"], batch[1])
            predicted = F.log_softmax(outputs["saliency_logits"].flatten(1), 1)
            saliency = F.kl_div(predicted, batch[2].flatten(1), reduction="batchmean")
            return F.cross_entropy(outputs["logits"], batch[1]) + saliency

        def configure_optimizers(self) -> Any:
            return torch.optim.Adam(self.parameters(), lr=1e-4)

    return Module()


def evaluation(way: str, folder: Path, reference: Path | None) -> Callable[[], object]:
    """CC, KLD, SIM, NSS, AUC, shuffled AUC and information gain of 16 predicted maps at 640 × 512."""
    import torch

    from gazelit.data.gaze.heatmap import fixation_counts, fixation_density
    from gazelit.density import CentreBias

    generator = torch.Generator().manual_seed(0)
    height, width, films = 640, 512, 16
    points = torch.rand(films, 45, 3, generator=generator) * torch.tensor([width - 1.0, height - 1.0, 0.0])
    points[..., :2].round_()
    points[..., 2] = 1
    target, counts = fixation_density(points, (height, width), 15.0), fixation_counts(points, (height, width))
    prediction = fixation_density(points + 20 * torch.rand(points.shape, generator=generator), (height, width), 30.0)
    prediction = prediction * (1 + 1e-3 * torch.rand(prediction.shape, generator=generator)) + 1e-7
    prediction /= prediction.sum((1, 2), keepdim=True)
    bias = CentreBias(fixation_density(points.flatten(0, 1), (height, width), 25.0) + 1e-7, counts.sum(0))
    return (our_metrics if way == GAZELIT else their_metrics)(prediction, target, counts, points, bias)


def our_metrics(prediction: Any, target: Any, counts: Any, points: Any, bias: Any) -> Callable[[], object]:
    from gazelit.metrics.catalogue import MAP_METRICS, Maps

    def compute() -> dict[str, float]:
        maps = Maps(prediction, target, counts, None, bias)
        names = ("cc", "kld", "sim", "nss", "auc_judd", "sauc", "ig")
        return {name: float(MAP_METRICS[name].compute(maps).mean()) for name in names}

    compute()  # Compiles, or loads what was compiled.
    return compute


def their_metrics(prediction: Any, target: Any, counts: Any, points: Any, bias: Any) -> Callable[[], object]:
    """By pysaliency's models of stimuli and fixations, as its documentation does."""
    import numpy as np
    import pysaliency

    # Gone from NumPy 2.4, and pysaliency 0.2.22 calls it.
    vars(np).setdefault("trapz", np.trapezoid)
    films = len(prediction)
    stimuli = pysaliency.Stimuli([np.full((*prediction.shape[1:], 3), number, np.uint8) for number in range(films)])
    x, y = (points[..., axis].flatten().numpy().astype(int) for axis in (0, 1))
    fixations = pysaliency.Fixations.create_without_history(x, y, np.repeat(np.arange(films), points.shape[1]))

    class Given(pysaliency.Model):
        def __init__(self, maps: Any) -> None:
            super().__init__(caching=False)
            self.log_densities = maps.double().log().numpy()

        def _log_density(self, stimulus: Any) -> Any:
            given = self.log_densities[int(stimulus[0, 0, 0]) % len(self.log_densities)]
            return given - np.logaddexp.reduce(given, axis=None)

    model, truth, centre = Given(prediction), Given(target), Given(bias.density[None])
    maps, gold = pysaliency.DensitySaliencyMapModel(model), pysaliency.DensitySaliencyMapModel(truth)

    def compute() -> dict[str, float]:
        values = {
            "cc": maps.CC(stimuli, gold),
            "kld": np.mean(model.kl_divergences(stimuli, truth)),
            "sim": maps.SIM(stimuli, gold),
            "nss": maps.NSS(stimuli, fixations, average="image"),
            "auc_judd": maps.AUC(stimuli, fixations, average="image"),
            "sauc": maps.AUC(stimuli, fixations, nonfixations="shuffled", average="image"),
            "ig": model.information_gain(stimuli, fixations, centre, average="image"),
        }
        return {name: float(value) for name, value in values.items()}

    return compute


PREPARED_CALLS: dict[str, Callable[[str, Path, Path | None], Callable[[], object]]] = {
    "material": material,
    "preparing films": preparing,
    "an epoch of stage 1": functools.partial(stage, "1"),
    "an epoch of stage 3": functools.partial(stage, "3"),
    "an epoch of stage 3's data alone": data_alone,
    METRICS: evaluation,
}


if __name__ == "__main__":
    main()
