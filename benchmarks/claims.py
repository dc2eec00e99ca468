"""Do gaze, stages and contrastive pretraining help? On synthetic films, as ``docs/claims.md`` asks.

Every claim is a run folder of ``gazelit run``, so that the same command goes on after an end at any moment. The rates
are tuned first, on other training cases than the claims', by the same rule for every arm. The tables are written to
``claims.md`` and ``claims.csv`` from whatever is finished.

    python benchmarks/claims.py --out runs/claims [--claims goal goal2x a b c] [--size reduced|full] [--seeds 5]
    python benchmarks/claims.py --out runs/claims --report
"""

from __future__ import annotations

import argparse
import csv
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
import yaml
from numpy.typing import NDArray
from torch.utils.flop_counter import FlopCounterMode

from gazelit.checkpoints import stamps
from gazelit.data.store.store import Store
from gazelit.evaluation.crossed import crossed_difference
from gazelit.evaluation.explainable import Oracles
from gazelit.evaluation.scores import ORACLE_GAIN, share_of
from gazelit.evaluation.statistics import (
    Estimate,
    Floats,
    Statistic,
    auroc_of,
    average_of,
    bootstrap_weights,
    drawn,
    mean_of,
    percentile,
)
from gazelit.models.network import rebuild
from gazelit.reporting.collect import with_oracle
from gazelit.reporting.folders import read_run
from gazelit.reporting.tables import DASH, Table, with_interval

CLASSES = ["Normal", "CHF", "pneumonia"]
COHORT_SEED, TUNING_SEED, TUNING_CASES = 11, 1000, 120
RATES = ("1.0e-3", "2.0e-3", "4.0e-3")
TEST, VALIDATION, POOL = 1200, 120, 2120
#: Shares of the passes that contrastive pretraining and saliency warm-up take where an arm has them.
CONTRASTIVE, SALIENCY = 0.25, 0.25


@dataclass(frozen=True)
class Size:
    """How large an experiment is.

    Attributes:
        passes: Over the training cases, of the claims at 1×.
        cases: By claim, the numbers of training cases.
        budgets: Of claim (b), as multiples of ``passes``.
        resolution: Height and width of the working images.
    """

    passes: int
    cases: Mapping[str, Sequence[int]]
    budgets: Sequence[int]
    resolution: str = "[96,64]"


SIZES = {
    "reduced": Size(24, {"goal": [240], "a": [120], "b": [120], "c": [30, 120]}, [1, 2]),
    "full": Size(
        40, {"goal": [240], "a": [30, 60, 120, 240, 960], "b": [120, 960], "c": [30, 60, 120]}, [1, 2, 4], "[160,128]"
    ),
}

#: The options of ``configs/cooperative.yaml``.
GAZE_POOLED = [
    "--model.network.classifier_pooling=[gaze]",
    "--model.network.classifier_concentration=true",
    "--model.teacher_forcing=true",
]
ATTENTION = "--model.auxiliary=[{class_path: gazelit.losses.AttentionConsistencyLoss, init_args: {classes: [1, 2]}}]"


@dataclass(frozen=True)
class Arm:
    """What is trained: the configuration, its options, and which arm's rate it has."""

    config: str
    options: Sequence[str] = ()
    rate_of: str | None = None


ARMS: dict[str, Arm] = {
    "image_only": Arm("supervised"),
    "joint": Arm("stage3"),
    "cooperative": Arm("stage3", GAZE_POOLED),
    "attention": Arm("supervised", [ATTENTION]),
    "saliency_only": Arm("stage2", ["--model.frozen=[]"]),
    "shuffled": Arm("stage3", [*GAZE_POOLED, "--data.gaze.control=shuffled"], "cooperative"),
    "centre": Arm("stage3", [*GAZE_POOLED, "--data.gaze.control=centre"], "cooperative"),
}
CLAIMS = ["goal", "goal2x", "a", "b", "c"]
#: Arms of the goal.
GOAL = ("image_only", "cooperative", "shuffled", "saliency_only")
#: What a claim asks of an arm beside another: (arm, less).
QUESTIONS: dict[str, list[tuple[str, str]]] = {
    "goal": [("cooperative", "image_only"), ("cooperative", "shuffled"), ("cooperative", "saliency_only")],
    "a": [
        ("cooperative", "shuffled"),
        ("cooperative", "image_only"),
        ("cooperative", "joint"),
        ("cooperative", "centre"),
        ("attention", "image_only"),
        ("joint", "image_only"),
    ],
    "b": [
        ("staged", "none"),
        ("contrastive", "none"),
        ("warm_up", "none"),
        ("encoder_rate", "staged"),
        ("classifier_only", "staged"),
    ],
    "c": [(f"{name}_{kind}", f"none_{kind}") for kind in ("probe", "tuned")
          for name in ("triplet", "supcon", "simclr", "gaze_similarity")],
}  # fmt: skip


@dataclass
class Plan:
    """A run of `gazelit run`: stages, arms, and the store they read."""

    store: str
    stages: list[dict[str, Any]] = field(default_factory=list)
    arms: dict[str, str] = field(default_factory=dict)

    def add(self, name: str, config: str, passes: int, rate: str, options: Sequence[str], after: str | None) -> None:
        """A stage of so many passes over its training cases."""
        overrides = [
            f"--trainer.max_epochs={passes}",
            f"--model.lr_scheduler.T_max={passes}",
            f"--model.optimizer.lr={rate}",
            *options,
        ]
        self.stages.append(
            {"name": name, "config": f"presets/quick/{config}.yaml", "after": after, "overrides": overrides}
        )


class Experiment:
    """The cohort, the tuned rates and the runs of all claims in one folder.

    Args:
        out: The folder.
        size: How large the experiment is.
        seeds: Number of seeds of every arm.
    """

    def __init__(self, out: Path, size: Size, seeds: int) -> None:
        self.out, self.size, self.seeds = out, size, seeds

    def prepare(self) -> None:
        """Makes cohort, stores and split, unless they are there."""
        cohort = self.out / "cohort"
        if not cohort.is_dir():
            options = ["--difficulty=hard", "--format=manifest", f"--cases={POOL + VALIDATION + TEST}"]
            gazelit("synth", *options, f"--seed={COHORT_SEED}", "--max_side=128", f"--out={cohort}")
        images = pd.read_csv(cohort / "manifest" / "images.csv")
        patients = images["patient_id"].drop_duplicates().tolist()
        counts = images.groupby("patient_id").size()[patients].cumsum()
        bounds = [int((counts <= limit).sum()) for limit in (POOL, POOL + VALIDATION)]
        part = dict.fromkeys(patients[: bounds[0]], "train") | dict.fromkeys(patients[bounds[0] : bounds[1]], "val")
        split = images["patient_id"].map(part).fillna("test")
        pd.DataFrame({"image_id": images["image_id"], "split": split}).to_csv(self.out / "split.csv", index=False)
        masked = self.out / "finding_mask.csv"
        finding_points(cohort).to_csv(masked, index=False)
        for store, gaze in (("store", cohort / "manifest" / "gaze.csv"), ("store-mask", masked)):
            if not (self.out / store).is_dir():
                tables = [f"--source.images={cohort / 'manifest' / 'images.csv'}", f"--source.gaze={gaze}"]
                labels = [f"--source.labels=[{','.join(CLASSES)}]", "--source.coordinates=normalised"]
                options = [f"--size={self.size.resolution}", "--require_gaze=false", f"--out={self.out / store}"]
                gazelit("prepare", "--source=Manifest", *tables, *labels, *options)

    def common(self, cases: int | None) -> list[str]:
        """Options of all stages of a run."""
        drawn = "null" if cases is None else str(cases)
        return [
            f"--data.split.file={(self.out / 'split.csv').resolve()}",
            f"--data.split.train_cases={drawn}",
            "--data.loader.num_workers=0",
            # The law is one of fixations: a wide Gaussian blurs away what a map could say of them (docs/metrics.md).
            "--data.gaze.sigma=0.5",
            "--trainer.check_val_every_n_epoch=3",
        ]

    def rate(self, arm: str) -> str:
        """The tuned rate of an arm; training cases and seed are no claim's."""
        name = ARMS[arm].rate_of or arm
        file = self.out / "rates.yaml"
        rates = yaml.safe_load(file.read_text(encoding="utf-8")) if file.is_file() else {}
        if name not in rates:
            reached = {rate: self.tuned(name, rate) for rate in RATES}
            rates[name] = max(reached, key=lambda rate: reached[rate])
            file.write_text(yaml.safe_dump(rates), encoding="utf-8")
        return str(rates[name])

    def tuned(self, name: str, rate: str) -> float:
        """What an arm reaches on validation with a rate."""
        arm = ARMS[name]
        folder = self.out / "tuning" / name / f"rate_{rate}"
        passes = self.size.passes
        if not (folder / "epochs.csv").is_file() or last_value(folder, "epoch") < passes - 1:
            plan = Plan("store")
            plan.add(name, arm.config, passes, rate, arm.options, None)
            options = [*self.common(TUNING_CASES), *plan.stages[0]["overrides"]]
            options += [f"--seed_everything={TUNING_SEED}", f"--data.seed={TUNING_SEED}"]
            options += [f"--data.store={self.out / 'store'}", f"--checkpoint.dirpath={folder / 'checkpoints'}"]
            gazelit("fit", f"--config=presets/quick/{arm.config}.yaml", *options)
        return last_value(folder, CRITERION[arm.config])

    def run(self, name: str, plan: Plan, cases: int | None, seed: int = 0, seeds: int | None = None) -> Path:
        """Runs a plan, or goes on with it."""
        pipeline = {
            "stages": plan.stages,
            "arms": plan.arms,
            "seed": seed,
            "seeds": self.seeds if seeds is None else seeds,
            # Nothing is selected: at these sizes a validation split is too small to choose by.
            "checkpoint": "last",
            "overrides": self.common(cases),
        }
        file = self.out / f"{name}.yaml"
        file.write_text(yaml.safe_dump(pipeline, sort_keys=False), encoding="utf-8")
        folder = self.out / "runs" / name
        folder.mkdir(parents=True, exist_ok=True)
        # All runs have the same test films, whose oracle takes a minute or two.
        (self.out / "oracle").mkdir(exist_ok=True)
        if not (folder / "oracle").exists():
            (folder / "oracle").symlink_to((self.out / "oracle").resolve(), target_is_directory=True)
        gazelit("run", file, f"--store={self.out / plan.store}", f"--out={folder}")
        return folder

    def arms(
        self,
        names: Sequence[str],
        store: str = "store",
        called: Mapping[str, str] | None = None,
        passes: int | None = None,
    ) -> Plan:
        """A plan of arms that are trained in one stage each."""
        plan = Plan(store)
        for name in names:
            arm = ARMS[name]
            label = (called or {}).get(name, name)
            plan.add(label, arm.config, passes or self.size.passes, self.rate(name), arm.options, None)
            plan.arms[label] = label
        return plan

    def goal(self) -> None:
        """The best cooperative recipe at 240 films beside what it has to beat."""
        for cases in self.size.cases["goal"]:
            self.run(f"goal-{cases}", self.arms(GOAL), cases)

    def goal2x(self) -> None:
        """The same in twice the passes."""
        for cases in self.size.cases["goal"]:
            self.run(f"goal-{cases}-2x", self.arms(GOAL, passes=2 * self.size.passes), cases)

    def a(self) -> None:
        """Gaze helps."""
        names = ["image_only", "joint", "cooperative", "shuffled", "attention", "centre"]
        for cases in self.size.cases["a"]:
            plan = self.arms(names)
            # The same model once more with the reader's gaze at test: an upper bound, under columns of its own.
            plan.stages[names.index("cooperative")]["overrides"].append("--model.gaze_at_test=true")
            self.run(f"a-{cases}", plan, cases)
            mask = self.arms(["cooperative"], "store-mask", {"cooperative": "finding_mask"})
            self.run(f"a-{cases}-mask", mask, cases)

    def b(self) -> None:
        """Stages help: contrastive pretraining and saliency warm-up, each there or not, in as many passes."""
        rate = {name: self.rate(name) for name in ("cooperative", "saliency_only")}
        for cases in self.size.cases["b"]:
            for budget in self.size.budgets:
                total = budget * self.size.passes
                first, second = round(CONTRASTIVE * total), round(SALIENCY * total)
                plan = Plan("store")
                joint = ("stage3", GAZE_POOLED)
                plan.add("stage1", "stage1", first, rate["cooperative"], [], None)
                plan.add("stage2", "stage2", second, rate["saliency_only"], [], "stage1")
                plan.add("stage2_alone", "stage2", second, rate["saliency_only"], ["--model.frozen=[]"], None)
                rest = total - first - second
                slow = [*GAZE_POOLED, f"--model.learning_rates={{encoder: {float(rate['cooperative']) / 10:g}}}"]
                frozen = [*GAZE_POOLED, "--model.frozen=[encoder,saliency_encoder,decoder,saliency_head]"]
                for name, options, passes, after in (
                    ("none", joint[1], total, None),
                    ("contrastive", joint[1], total - first, "stage1"),
                    ("warm_up", joint[1], total - second, "stage2_alone"),
                    ("staged", joint[1], rest, "stage2"),
                    ("encoder_rate", slow, rest, "stage2"),
                    ("classifier_only", frozen, rest, "stage2"),
                ):
                    plan.add(name, joint[0], passes, rate["cooperative"], options, after)
                    plan.arms[name] = name
                self.run(f"b-{cases}-{budget}x", plan, cases)

    def c(self) -> None:
        """Contrastive pretraining helps, by a linear probe and after fine-tuning."""
        rate = self.rate("image_only")
        pairing = "--model.pairing=gazelit.losses."
        loss = "--model.loss=gazelit.losses.contrastive."
        everything = ["--data.split.train_cases=null", "--data.loader.batch_size=64"]
        pretrained: dict[str, tuple[int, list[str]]] = {
            "triplet": (self.size.passes, [f"{loss}BatchAllTripletLoss"]),
            "supcon": (self.size.passes, [f"{loss}SupervisedContrastiveLoss", f"{pairing}SameClass"]),
            "simclr": (8, [f"{loss}NTXentLoss", f"{pairing}SameImage", "--data.augmentation.views=2", *everything]),
            "gaze_similarity": (8, [f"{loss}SupervisedContrastiveLoss", f"{pairing}GazeSimilarity", *everything]),
        }
        for cases in self.size.cases["c"]:
            plan = Plan("store")
            for name, (passes, options) in pretrained.items():
                plan.add(name, "stage1", passes, rate, options, None)
            for name in ("none", *pretrained):
                after = None if name == "none" else name
                plan.add(f"{name}_probe", "supervised", self.size.passes, "1.0e-2", ["--model.frozen=[encoder]"], after)
                plan.add(f"{name}_tuned", "supervised", self.size.passes, rate, [], after)
                plan.arms |= {f"{name}_{kind}": f"{name}_{kind}" for kind in ("probe", "tuned")}
            self.run(f"c-{cases}", plan, cases)


#: What a rate is tuned by, on validation at the last pass, the greatest being the best.
CRITERION = {"supervised": "val/auroc_macro", "stage3": "val/auroc_macro", "stage2": "val/cc"}


def last_value(stage: Path, name: str) -> float:
    """A stage's last value of a metric, by its curve."""
    with (stage / "epochs.csv").open(newline="", encoding="utf-8") as file:
        values = [row[name] for row in csv.DictReader(file) if row.get(name)]
    return float(values[-1])


def finding_points(cohort: Path) -> pd.DataFrame:
    """Gaze of a reader who knows the findings and looks at nothing else: points all over each; none on normal films."""
    items = pd.read_csv(cohort / "truth" / "items.csv")
    size = pd.read_csv(cohort / "truth" / "cases.csv").set_index("image_id")[["width", "height"]]
    items = items[items["finding"] == 1].join(size, on="image_id")
    rng = np.random.default_rng(COHORT_SEED)
    rows = []
    for item in items.itertuples():
        angle, reach = rng.uniform(0, 2 * np.pi, 24), np.sqrt(rng.uniform(0, 1, 24)) * item.radius
        x = np.clip((item.x + 0.5 + reach * np.cos(angle)) / item.width, 0, 1)
        y = np.clip((item.y + 0.5 + reach * np.sin(angle)) / item.height, 0, 1)
        rows.append(pd.DataFrame({"image_id": item.image_id, "x": x, "y": y}))
    points = pd.concat(rows, ignore_index=True)
    points["reading_id"] = points["image_id"] + "-mask"
    order = points.groupby("image_id").cumcount()
    # Degrees are those of the readers: the tables of the cohort say so for every row.
    degrees = pd.read_csv(cohort / "manifest" / "gaze.csv").drop_duplicates("image_id").set_index("image_id")
    return points.assign(t=0.25 * order, duration=0.25, kind="fixation").join(
        degrees[["ppd_x", "ppd_y"]], on="image_id"
    )


class Judged:
    """A finished run: by arm and seed, its statistics of the test cases.

    Args:
        folder: The run.
        subtle: By image, whether a pneumonia is one that readers can be expected to miss.
    """

    def __init__(self, folder: Path, subtle: Mapping[str, bool]) -> None:
        results = with_oracle(read_run(folder).results, Oracles(folder))
        self.arms = list(dict.fromkeys(result.arm for result in results))
        first = results[0].predictions
        self.cases, self.patients = len(first), first["patient"].nunique()
        self.weights = bootstrap_weights(first["patient"].to_numpy())
        store = Store.open(yaml.safe_load((folder / "run.json").read_text(encoding="utf-8"))["store"])
        is_subtle = np.array([subtle.get(image, False) for image in store.cases["image_id"]])
        self.values: dict[tuple[str, str], Floats] = {}
        self.draws: dict[tuple[str, str], Floats] = {}
        self.compute = {
            arm: training_compute(folder, next(result.stages for result in results if result.arm == arm))
            for arm in self.arms
        }
        self.seeds = {arm: sorted(result.seed for result in results if result.arm == arm) for arm in self.arms}
        everyone = np.ones((1, self.cases))
        for arm in self.arms:
            tables = {result.seed: result.predictions for result in results if result.arm == arm}
            each = [statistics(tables[seed], is_subtle) for seed in self.seeds[arm]]
            for name in each[0]:
                self.values[arm, name] = np.array([found[name](everyone)[0] for found in each])
                self.draws[arm, name] = np.stack([drawn(found[name], self.weights) for found in each])

    def estimate(self, arm: str, name: str) -> Estimate | None:
        """The mean over seeds, with its interval over patients."""
        if (arm, name) not in self.values:
            return None
        return percentile(float(self.values[arm, name].mean()), self.draws[arm, name].mean(axis=0))

    def difference(self, arm: str, name: str, less: str, less_name: str | None = None) -> Estimate | None:
        """An arm less another, or less another statistic, over patients and seeds."""
        keys = (arm, name), (less, less_name or name)
        if not all(key in self.values for key in keys):
            return None
        values, draws = ([table[key] for key in keys] for table in (self.values, self.draws))
        paired = self.seeds[arm] == self.seeds[less]
        return crossed_difference((values[0], values[1]), (draws[0], draws[1]), self.patients, paired)


def statistics(table: pd.DataFrame, is_subtle: NDArray[np.bool_]) -> dict[str, Statistic]:
    """What the claims are judged by; ``docs/claims.md`` says which is whose primary."""
    found: dict[str, Statistic] = {}
    rows = table["index"].to_numpy()
    if "p_Normal" in table:
        chance = table[[f"p_{name}" for name in CLASSES]].to_numpy(np.float64)
        label = table["label"].to_numpy()
        found["macro AUC"] = average_of([auroc_of(chance[:, k], label == k) for k in range(len(CLASSES))])
        found["abnormal against Normal"] = auroc_of(1 - chance[:, 0], label != 0)
        odds = np.log(np.maximum(chance[:, 2], 1e-12)) - np.log(np.maximum(chance[:, 0], 1e-12))
        of_subtle = (label == 0) | ((label == 2) & is_subtle[rows])
        found["subtle pneumonia against Normal"] = among(of_subtle, auroc_of(odds[of_subtle], label[of_subtle] == 2))
        if "with_gaze_p_Normal" in table:
            chance = table[[f"with_gaze_p_{name}" for name in CLASSES]].to_numpy(np.float64)
            found["macro AUC, gaze at test"] = average_of([auroc_of(chance[:, k], label == k) for k in range(3)])
        if "map_peak" in table:
            peak = table["map_peak"].to_numpy(np.float64)
            found[PEAK] = among(of_subtle, auroc_of(peak[of_subtle], label[of_subtle] == 2))
    if "cc" in table:
        found["CC"] = mean_of(table["cc"].to_numpy(np.float64))
        found["explainable share"] = share_of(table["ig"].to_numpy(float), table[ORACLE_GAIN].to_numpy(float))
    return found


def among(rows: NDArray[np.bool_], statistic: Statistic) -> Statistic:
    """A statistic of some of the cases, as one of all cases' weights."""
    return lambda weights: statistic(weights[:, rows])


PEAK = "the same by the peak of the map"


def write_tables(out: Path) -> None:
    """Writes ``claims.md`` and ``claims.csv`` from the runs that are finished."""
    truth = pd.read_csv(out / "cohort" / "truth" / "items.csv")
    found = truth[truth["kind"].isin(["consolidation", "nodule"])]
    subtle = dict(zip(found["image_id"], found["subtle"] == 1, strict=True))
    lines = ["# The claims on synthetic films", ""]
    rows: list[dict[str, object]] = []

    def note(run: str, what: str, metric: str, estimate: Estimate) -> None:
        of_run = {"run": run, "what": what, "metric": metric}
        rows.append(of_run | {part: getattr(estimate, part) for part in ("value", "low", "high", "p", "seeds")})

    for folder in sorted((out / "runs").glob("*")):
        if not (folder / "run.json").is_file() or folder.name.startswith("tuning"):
            continue
        judged = Judged(folder, subtle)
        names = list(dict.fromkeys(name for _, name in judged.values))
        seeds = ", ".join(map(str, judged.seeds[judged.arms[0]]))
        lines += [
            f"## {folder.name}",
            "",
            f"{judged.cases:,} test films of {judged.patients:,} patients; seeds {seeds}.",
            "",
        ]
        arms: list[list[object]] = []
        for arm in judged.arms:
            cells = []
            for name in names:
                estimate = judged.estimate(arm, name)
                cells.append(with_interval(estimate))
                if estimate is not None:
                    note(folder.name, arm, name, estimate)
            arms.append([arm, *cells, f"{judged.compute[arm]:.1f}"])
        lines += Table(["arm", *names, "training (10¹² operations)"], arms).markdown()
        questions = QUESTIONS[folder.name.split("-")[0]]
        asked = [(arm, less) for arm, less in questions if {arm, less} <= set(judged.arms)]
        differences: list[list[object]] = []
        for arm, less in asked:
            cells = []
            for name in names:
                estimate = judged.difference(arm, name, less)
                cells.append(DASH if estimate is None else difference_text(estimate))
                if estimate is not None:
                    note(folder.name, f"{arm} less {less}", name, estimate)
            differences.append([arm, less, *cells])
        if differences:
            lines += ["", *Table(["arm", "less", *names], differences).markdown()]
        for arm in judged.arms:
            estimate = judged.difference(arm, "subtle pneumonia against Normal", arm, PEAK)
            if estimate is not None:
                text = f"Classifier less peak of the map, subtle pneumonia, {arm}: {difference_text(estimate)}."
                lines += ["", text]
                note(folder.name, arm, "classifier less peak", estimate)
        lines.append("")
    (out / "claims.md").write_text("\n".join(lines), encoding="utf-8")
    pd.DataFrame(rows).to_csv(out / "claims.csv", index=False)


def training_compute(run: Path, stages: Sequence[str]) -> float:
    """Floating-point operations of a training, all its stages together, in units of 10¹².

    Convolutions and matrix products of the forward pass (torch's own count) for every film of every step; three times
    for what is trained, because the backward pass costs twice as much, and once for what is frozen.
    """
    total = 0.0
    for stage in stages:
        folder = run / stage
        config = yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8"))
        stamp = stamps.read_checkpoint(folder / "checkpoints" / "last.ckpt")[stamps.STAMP_KEY]
        network = rebuild(stamp["network"]).eval()
        frozen = config["model"]["init_args"].get("frozen") or []
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            network(torch.zeros(1, 1, *stamp["data"]["size"]))
        counts = counter.get_flop_counts()
        name = type(network).__name__
        kept = sum(sum(counts.get(f"{name}.{part}", {}).values()) for part in frozen)
        each = 3 * sum(counts["Global"].values()) - 2 * kept
        data = config["data"]["init_args"]
        total += each * last_value(folder, "step") * data["loader"]["batch_size"] * data["augmentation"]["views"]
    return total / 1e12


def difference_text(estimate: Estimate) -> str:
    """A difference with its interval over patients and seeds."""
    return f"{estimate.value:+.3f} ({estimate.low:+.3f} to {estimate.high:+.3f})"


def gazelit(*arguments: object) -> None:
    """Runs a command of gazelit."""
    subprocess.run([sys.executable, "-m", "gazelit", *map(str, arguments)], check=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--claims", nargs="+", choices=CLAIMS, default=CLAIMS)
    parser.add_argument("--size", choices=list(SIZES), default="reduced")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--report", action="store_true", help="write the tables of what is finished, and train nothing")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    if not options.report:
        experiment = Experiment(options.out, SIZES[options.size], options.seeds)
        experiment.prepare()
        for claim in options.claims:
            getattr(experiment, claim)()
    write_tables(options.out)


if __name__ == "__main__":
    main()
