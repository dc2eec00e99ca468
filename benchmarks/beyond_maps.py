"""Scanpaths, readers and time on synthetic films whose law is known, as ``docs/from-maps-to-scanpaths.md`` asks.

Each part is a run folder of ``gazelit run``, so that the same command goes on after an end at any moment. The tables
are written to ``beyond_maps.md`` and ``beyond_maps.csv`` from whatever is finished.

    python benchmarks/beyond_maps.py --out runs/beyond [--parts scanpaths maps …] [--size full] [--jobs N]
    python benchmarks/beyond_maps.py --out runs/beyond --report
    python benchmarks/beyond_maps.py --out runs/many --size many --parts scanpaths_many [--jobs N]
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml

# Of the benchmark of the claims, which lies beside this one.
from claims import gazelit

from gazelit.data.gaze_data import GazeData
from gazelit.data.saved import saved_data
from gazelit.deploy.inference import load_model
from gazelit.evaluation.compare import Result
from gazelit.evaluation.crossed import crossed_difference
from gazelit.evaluation.scanpaths.of_store import (
    ORACLE,
    ORACLE_OF_READER,
    Yardstick,
    scanpath_yardsticks,
    static_map_yardsticks,
)
from gazelit.evaluation.scores import share_of
from gazelit.evaluation.statistics import Draws, Estimate, Statistic, bootstrap_weights, drawn, mean_of
from gazelit.reporting.folders import read_run
from gazelit.reporting.tables import Table, number
from gazelit.synthetic.search import PANEL, panel_reader

READERS = [panel_reader(number).name for number in range(PANEL)]
COHORT_SEED = 17
#: Who is left out of a training.
LEFT_OUT = "h"
YARDSTICKS = "yardsticks.parquet"


@dataclass(frozen=True)
class Size:
    """How large an experiment is.

    Attributes:
        films: Of the cohort.
        passes: Over the training films, or ``epoch`` of them, of maps; scanpaths have twice as many.
        resolution: Height and width of the working images.
        max_side: Longest side of the simulated films in pixels.
        readings: Of each film, by as many of the panel.
        test_fraction: Share of the films that are tested.
        val_fraction: Share of the films that are validated on.
        epoch: Share of the training films that a pass takes, drawn anew for each.
    """

    films: int
    passes: int
    resolution: str
    max_side: int = 128
    readings: int = 2
    test_fraction: float = 0.25
    val_fraction: float = 0.1
    epoch: float = 1.0


SIZES = {
    "tiny": Size(40, 1, "[64,64]"),
    "reduced": Size(800, 24, "[96,64]"),
    "full": Size(4000, 40, "[160,128]"),
    # The learning rate falls once a pass: two whole passes would end at half of it. All of the panel read each film,
    # which takes a sixth longer than four of them: a film's features are computed once.
    "many": Size(
        25600, 6, "[128,96]", max_side=192, readings=PANEL, test_fraction=1 / 128, val_fraction=1 / 256, epoch=0.25
    ),
}


def common(size: Size) -> list[str]:
    """Options of all stages."""
    # Defaults are not written out, so that folders of earlier runs can be continued.
    fractions = [f"--data.split.val_fraction={size.val_fraction}"] if size.val_fraction != Size.val_fraction else []
    fractions += [f"--trainer.limit_train_batches={size.epoch}"] if size.epoch != Size.epoch else []
    return [
        "--data.loader.num_workers=0",
        "--data.split.method=patient",
        f"--data.split.test_fraction={size.test_fraction}",
        *fractions,
        # The law is one of fixations: a wide Gaussian blurs away what a map could say of them (docs/metrics.md).
        "--data.gaze.sigma=0.5",
        # Labels are not trained on; a class may be missing from a small split.
        "--data.split.allow_empty=true",
    ]


#: At 96 x 64 a fixation is spread over 1.3 pixels, and a stride of 4 would lose a fifth of the oracle's bits.
FINE = "--model.network.map_stride=2"
#: For many films: six levels, the finest at full resolution; films are not changed at random, and a reading's reader is
#: seldom withheld. Muon gets farther than Adam in as many passes (docs/from-maps-to-scanpaths.md).
FOR_MANY_FILMS = (
    "--model.network.encoder.name=res-se",
    "--model.network.encoder.options={widths: [16, 32, 48, 64, 96, 128]}",
    "--model.network.width=64",
    "--model.network.dropout=0",
    "--model.network.unknown_share=0.05",
    "--data.augmentation.enabled=false",
    "--data.loader.batch_size=8",
    "--model.optimizer.class_path=timm.optim.Muon",
    "--model.optimizer.lr=4e-3",
    "--model.optimizer.fallback_lr_scale=0.4",
    "--model.optimizer.nesterov=true",
    "--model.optimizer.betas=[0.9,0.999]",
    "--model.execution.channels_last=true",
    # A fifth of a step, for a minute at the beginning.
    "--model.execution.compile=[encoder,neck,regions]",
    "--trainer.precision=bf16-mixed",
    # Paths are drawn one by one; bits need none.
    "--model.draws=0",
)
NETWORK_OF_READERS = "--model.network.readers=[{}]"


def stages(part: str, passes: int) -> tuple[list[dict[str, Any]], dict[str, str]]:
    """The stages and arms of a part."""

    def stage(name: str, config: str, times: int, *options: str, after: str | None = None) -> dict[str, Any]:
        length = [f"--trainer.max_epochs={times * passes}", f"--model.lr_scheduler.T_max={times * passes}"]
        return {
            "name": name, "config": f"presets/quick/{config}.yaml", "after": after, "overrides": [*length, *options],
        }  # fmt: skip

    everybody, known = (
        NETWORK_OF_READERS.format(",".join(names)) for names in (READERS, [r for r in READERS if r != LEFT_OUT])
    )
    pooled = stage("pooled", "stage2", 1, "--model.frozen=[]")
    without = f"--data.gaze.leave_out={LEFT_OUT}"
    found = {
        "maps": [
            pooled,
            stage("time", "time_resolved", 1, after="pooled"),
            stage("order_drawn_anew", "time_resolved", 1, "--data.gaze.control=order", after="pooled"),
        ],
        "readers": [
            pooled,
            # As many passes as the stage that knows readers has in all.
            stage("pooled_longer", "stage2", 1, "--model.frozen=[]", after="pooled"),
            stage("readers", "reader_conditional", 1, everybody, after="pooled"),
        ],
        "left_out": [
            stage("pooled", "stage2", 1, "--model.frozen=[]", without),
            stage("pooled_longer", "stage2", 1, "--model.frozen=[]", without, after="pooled"),
            stage("readers", "reader_conditional", 1, known, without, after="pooled"),
        ],
        "scanpaths": [
            stage("scanpath", "scanpath", 2, everybody, FINE),
            stage("nobody_known", "scanpath", 2, FINE),
            stage("order_drawn_anew", "scanpath", 2, everybody, FINE, "--data.gaze.control=order"),
        ],
        "scanpaths_many": [stage("many", "scanpath", 2, everybody, FINE, *FOR_MANY_FILMS)],
    }[part]
    # A stage that others begin with is tested where it is an arm of its own.
    first = {"readers": "pooled_longer", "left_out": "pooled_longer"}.get(part)
    arms = [each["name"] for each in found if first is None or each["name"] != "pooled"]
    return found, {name: name for name in arms}


#: The last is of a size of its own, and no part unless it is named.
PARTS = ("scanpaths", "maps", "readers", "left_out", "scanpaths_many")


def prepare(out: Path, size: Size) -> None:
    """Makes cohort and store, unless they are there."""
    cohort = out / "cohort"
    if not cohort.is_dir():
        options = ["--difficulty=hard", "--format=manifest", f"--cases={size.films}", f"--readers={size.readings}"]
        gazelit("synth", *options, f"--seed={COHORT_SEED}", f"--max_side={size.max_side}", f"--out={cohort}")
    if not (out / "store").is_dir():
        tables = [f"--source.{name}={cohort / 'manifest' / f'{name}.csv'}" for name in ("images", "gaze")]
        options = ["--source.coordinates=normalised", "--source.labels=[Normal,CHF,pneumonia]"]
        options += [f"--size={size.resolution}", f"--out={out / 'store'}"]
        gazelit("prepare", "--source=Manifest", *tables, *options)


def train(out: Path, part: str, size: Size, seeds: int, jobs: int, options: Sequence[str] = ()) -> None:
    """Runs a part, or goes on with it; ``jobs`` seeds at the same time, with further ``options`` of every stage."""
    found, arms = stages(part, size.passes)
    pipeline = {"stages": found, "arms": arms, "seeds": seeds, "overrides": [*common(size), *options]}
    file = out / f"{part}.yaml"
    file.write_text(yaml.safe_dump(pipeline, sort_keys=False), encoding="utf-8")
    gazelit("run", file, f"--store={out / 'store'}", f"--out={out / 'runs' / part}", f"--jobs={jobs}")


def yardsticks(result: Result) -> dict[str, pd.DataFrame]:
    """The yardsticks of a model of scanpaths by film; its own are kept beside its test, those of the data once."""
    stage = result.run / result.stages[-1]

    def data() -> GazeData:
        found = saved_data(stage / "config.yaml")
        if found.gaze.control != "true":
            raise SystemExit(f"{result.arm}: its training readings are changed; ask for the yardsticks of another arm")
        return found

    # All seeds and arms have the same split.
    of_data = _kept(result.run / YARDSTICKS, lambda: scanpath_yardsticks(data()))
    of_model = _kept(stage / YARDSTICKS, lambda: static_map_yardsticks(data(), load_model(result.checkpoint).network))
    return {str(name): rows for table in (of_data, of_model) for name, rows in table.groupby("yardstick")}


def _kept(file: Path, make: Callable[[], list[Yardstick]]) -> pd.DataFrame:
    if not file.is_file():
        pd.concat([each.films.assign(yardstick=each.name) for each in make()]).to_parquet(file, index=False)
    return pd.read_parquet(file)


@dataclass(frozen=True)
class Question:
    """What is asked of an arm, by hypothesis.

    Attributes:
        name: What the table calls it.
        arm: Of which arm.
        value: By result, a statistic of its test films.
        less: Another, which is taken off; of the same arm unless ``less_arm`` names another.
        less_arm: See ``less``.
    """

    name: str
    arm: str
    value: Callable[[Result], Statistic]
    less: Callable[[Result], Statistic] | None = None
    less_arm: str | None = None


def column(name: str) -> Callable[[Result], Statistic]:
    """The mean of a column of the predictions."""
    return lambda result: mean_of(result.predictions[name].to_numpy(np.float64))


def of_yardstick(name: str, metric: str) -> Callable[[Result], Statistic]:
    """The mean of a yardstick, on the test films in the order of the predictions."""
    return lambda result: mean_of(_aligned(result, name, metric))


def share(name: str) -> Callable[[Result], Statistic]:
    """The share of an oracle's bits."""
    return lambda result: share_of(
        result.predictions["scanpath_bits"].to_numpy(np.float64), _aligned(result, name, "scanpath_bits")
    )


def _aligned(result: Result, name: str, metric: str) -> np.ndarray:
    table = yardsticks(result)[name].set_index("index")[metric]
    return table.reindex(result.predictions["index"]).to_numpy(np.float64)


def bits_and_share(arm: str) -> list[Question]:
    """How much an arm of scanpaths, whose readers are known, tells of a fixation."""
    return [
        Question("bits a fixation over the centre bias", arm, column("scanpath_bits")),
        Question("share of the oracle's bits, reader known", arm, share(ORACLE_OF_READER)),
    ]


IID = "static map of the model (IID saliency)"
QUESTIONS: dict[str, list[Question]] = {
    "scanpaths": [
        *bits_and_share("scanpath"),
        Question("the same, reader unknown", "nobody_known", share(ORACLE)),
        Question("bits less the static map's", "scanpath", column("scanpath_bits"), of_yardstick(IID, "scanpath_bits")),
        Question(
            "ScanMatch less the medoid's", "scanpath", column("scanpath_scanmatch"),
            of_yardstick("medoid of the training readings", "scanpath_scanmatch"),
        ),
        Question(
            "bits less those of nobody known", "scanpath", column("scanpath_bits"), column("scanpath_bits"),
            "nobody_known",
        ),
        Question(
            "bits less those with the order drawn anew", "scanpath", column("scanpath_bits"), column("scanpath_bits"),
            "order_drawn_anew",
        ),
    ],
    "scanpaths_many": [
        *bits_and_share("many"),
        Question("bits less the static map's", "many", column("scanpath_bits"), of_yardstick(IID, "scanpath_bits")),
    ],
    "maps": [
        Question(
            f"information gain from {begin} s less the whole map's", "time", column(f"from_{begin}s_ig"),
            column(f"from_{begin}s_ig_of_whole"),
        )
        for begin in (0, 1, 3, 10)
    ]
    + [
        Question(
            "from 0 s, less with the order drawn anew", "time", column("from_0s_ig"), column("from_0s_ig"),
            "order_drawn_anew",
        ),
    ],
    "readers": [
        Question("information gain less the pooled model's", "readers", column("ig"), column("ig"), "pooled_longer"),
        Question("information gain less its own unknown reader's", "readers", column("ig"), column("ig_of_unknown")),
        Question("readers told from their gaze (chance 1 / 8)", "readers", column("reader_identified")),
    ],
    "left_out": [
        Question(
            "information gain of a reader not trained on, less the pooled model's", "readers", column("ig"),
            column("ig"), "pooled_longer",
        ),
    ],
}  # fmt: skip


def answer(question: Question, results: Sequence[Result], weights: Draws) -> Estimate | None:
    """An estimate over patients and seeds; None where an arm is not finished.

    Args:
        question: The question.
        results: Of its part.
        weights: Draws of the patients.
    """
    own, less = (
        sorted((result for result in results if result.arm == arm), key=lambda result: result.seed)
        for arm in (question.arm, question.less_arm or question.arm)
    )
    if not own or not less:
        return None
    patients = own[0].predictions["patient"].nunique()
    everyone = np.ones((1, weights.cases))

    def both(statistics: list[Statistic]) -> tuple[np.ndarray, np.ndarray]:
        return np.array([s(everyone)[0] for s in statistics]), np.stack([drawn(s, weights) for s in statistics])

    value, draws = both([question.value(result) for result in own])
    if question.less is None:
        # Zero is what is taken off: the interval over patients and seeds is that of the value.
        taken, taken_draws = np.zeros_like(value), np.zeros_like(draws)
    else:
        taken, taken_draws = both([question.less(result) for result in less])
    return crossed_difference((value, taken), (draws, taken_draws), patients, len(own) == len(less))


def results_of(out: Path, part: str) -> list[Result]:
    """What a part has tested; nothing unless it is finished."""
    folder = out / "runs" / part
    return list(read_run(folder).results) if (folder / "run.json").is_file() else []


def write_tables(out: Path) -> None:
    """Writes ``beyond_maps.md`` and ``beyond_maps.csv`` from the parts that are finished."""
    lines, rows = ["# Scanpaths, readers and time on synthetic films", ""], []
    for part in PARTS:
        results = results_of(out, part)
        if not results:
            continue
        first = results[0].predictions
        weights = bootstrap_weights(first["patient"].to_numpy())
        seeds = sorted({result.seed for result in results})
        lines += [
            f"## {part}",
            "",
            f"{len(first):,} test films of {first['patient'].nunique():,} patients; seeds {seeds}.",
            "",
        ]
        cells: list[list[object]] = []
        for question in QUESTIONS[part]:
            found = answer(question, results, weights)
            if found is None:
                continue
            cells.append([question.name, f"{number(found.value, signed=question.less is not None)}",
                          f"{number(found.low)} to {number(found.high)}"])  # fmt: skip
            interval = {key: getattr(found, key) for key in ("value", "low", "high", "p")}
            rows.append({"part": part, "what": question.name, **interval, "seeds": len(seeds)})
        lines += [*Table(["what", "value", "95 % over patients and seeds"], cells).markdown(), ""]
    (out / "beyond_maps.md").write_text("\n".join(lines), encoding="utf-8")
    pd.DataFrame(rows).to_csv(out / "beyond_maps.csv", index=False)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS[:-1])
    parser.add_argument("--size", choices=list(SIZES), default="reduced")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--jobs", type=int, default=1, help="seeds that are trained at the same time")
    parser.add_argument("--passes", type=int, help="over the training films, of maps; those of the size unless given")
    parser.add_argument("--option", action="append", default=[], help="a further option of every stage; repeatable")
    parser.add_argument("--report", action="store_true", help="write the tables of what is finished, and train nothing")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    size = SIZES[options.size]
    size = replace(size, passes=options.passes or size.passes)
    if not options.report:
        prepare(options.out, size)
        for part in options.parts:
            train(options.out, part, size, options.seeds, options.jobs, options.option)
    write_tables(options.out)


if __name__ == "__main__":
    main()
