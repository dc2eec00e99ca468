"""The stage orchestrator: stages, tests and report in one run folder, for one or several arms, seeds and folds.

A finished step is skipped, and an interrupted one is resumed. A run folder never mixes settings: every step's inputs
(its command, configuration, data and parent checkpoint) are hashed into a key that a later run must match.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

from rich.console import Console

from gazelit import trust
from gazelit.configs import config_chain, find_config, read_config
from gazelit.data.store.store import Store
from gazelit.errors import InputError
from gazelit.files import read_json, sha256_file, sha256_json, write_json
from gazelit.runs.check import LIMITS, Planned, check_run
from gazelit.runs.members import Member, members_of
from gazelit.runs.parallel import Share, side_by_side
from gazelit.runs.run_file import RUN_FILE
from gazelit.runs.stage_steps import REPORT, TEST, ExternalTest, StageStep, arms_of, check_stages
from gazelit.runs.steps import DONE_FILE, PLAN_FILE, Conduct, Step, checkpoint_digest, exclusive, max_epochs, run_step


@dataclass(frozen=True)
class _Pipeline:
    """The common part of all trainings: the stages with their configurations, the tested arms, and the data."""

    stages: Sequence[StageStep]
    configs: Mapping[str, list[Path]]
    tested: Mapping[str, str]
    store: Path
    external: Mapping[str, ExternalTest]
    checkpoint: str
    overrides: Sequence[str]
    out: Path

    def calibrated(self) -> list[StageStep]:
        """Stages whose model gets a temperature before it is tested."""
        return [stage for stage in self.stages if stage.calibrate and stage.name in self.tested.values()]


def run(
    stages: list[StageStep],
    store: Path,
    out: Path,
    arms: dict[str, str] | None = None,
    seed: int = 0,
    seeds: int = 1,
    folds: int | None = None,
    checkpoint: str = "best",
    overrides: list[str] | None = None,
    external: dict[str, ExternalTest] | None = None,
    preset: Literal["quick", "paper"] = "paper",
    accept_versions: bool = False,
    jobs: int = 1,
    share_imports: bool = True,
    check: bool = False,
) -> None:
    """Runs the stages one after another, tests the last one (or each arm's) and writes the report.

    Many arguments, because each is an option of the command line.

    Args:
        stages: The stages in order. Arms may share them: each is trained once.
        store: The prepared store that all stages read.
        out: The run folder. The same command again continues where it stopped.
        arms: The arms that are compared: by name, the stage whose model is tested. The others are compared with the
            first. Only the last stage unless given.
        seed: Seed of every stage: weights, order and augmentation. The split has its own (``--data.split.seed``).
        seeds: Number of seeds, from ``seed`` on: everything is trained with each.
        folds: Number of folds of patients: everything is trained with each as the test split.
        checkpoint: Which checkpoint of a stage is handed over and tested: ``best`` by the stage's
            ``checkpoint.monitor`` (``val/selection`` unless configured), or ``last``, that of the last epoch.
        overrides: Options added to every stage's command line, such as ``--trainer.precision=bf16-mixed``.
        external: By name, further sources on which every arm is tested.
        preset: Settings of the shipped configurations: the published ones, or those that are small enough for two CPU
            cores.
        accept_versions: Whether steps of other versions of gazelit or torch are accepted.
        jobs: Number of seeds and folds that are trained at the same time, each with its share of processors and GPUs.
        share_imports: Whether steps are forked from a process with the imports.
        check: Do not run the pipeline, but try every step with two batches, in a folder that is removed; print the
            estimated cost of the run and the steps that are done.

    Raises:
        InputError: The pipeline is not runnable, the run folder was made with other settings, or a step failed.
    """
    check_stages(stages, checkpoint, seeds, folds)
    if jobs < 1:
        raise InputError(f"jobs: must be at least 1, not {jobs}")
    tested = arms_of(stages, arms)
    configs = {stage.name: _configs(stage, preset) for stage in stages}
    out = out.resolve()
    pipeline = _Pipeline(stages, configs, tested, store, external or {}, checkpoint, overrides or [], out)
    _trust_stages(pipeline)
    _check_stores(pipeline)
    members = members_of(out, seed, seeds, folds)
    running = Running(accept_versions, share_imports, jobs)
    if check:
        _check_run(pipeline, members, running)
        return
    _run_members(pipeline, members, folds, running)
    Console(stderr=True).print(f"report: {out / 'report.md'}")


@dataclass(frozen=True)
class Running:
    """How the steps are run; see :func:`run`."""

    accept_versions: bool
    share_imports: bool
    jobs: int


def _run_members(pipeline: _Pipeline, members: Sequence[Member], folds: int | None, running: Running) -> None:
    """Runs every member's steps and the report."""
    out, store = pipeline.out, pipeline.store
    with exclusive(out) as lock:
        console = Console(stderr=True)
        planned = [step for member in members for step in _planned(pipeline, member)]
        planned.append((out / REPORT, "report"))
        plan = [{"folder": str(folder.relative_to(out)), "command": command} for folder, command in planned]
        write_json(out / PLAN_FILE, {"steps": plan})
        total = len(planned)
        conduct = Conduct(out, console, lock, running.accept_versions, running.share_imports)
        of_member = (total - 1) // len(members)
        tasks = [
            partial(_train, pipeline, member, conduct, number * of_member + 1, total)
            for number, member in enumerate(members)
        ]
        done = side_by_side(tasks, running.jobs)
        trained = [record for records, _ in done for record in records]
        commands = [command for _, of_steps in done for command in of_steps]
        about = {
            "store": str(store.resolve()),
            "folds": folds,
            "checkpoint": pipeline.checkpoint,
            "trained": trained,
            "commands": commands,
            "external": {
                name: {
                    "store": str(external_test.store.resolve()),
                    "overrides": _external_options(external_test, store),
                }
                for name, external_test in pipeline.external.items()
            },
        }
        write_json(out / RUN_FILE, about)
        tests = [folder for record in trained for folder in (record["test"], *record["external"].values())]
        results = {folder: sha256_file(out / folder / "metrics.json") for folder in tests}
        report = Step(out / REPORT, ["report", str(out), *_trusted()], {"tests": sha256_json(results)}, is_derived=True)
        run_step(report, f"[{total}/{total}]", conduct, Share())


def _check_run(pipeline: _Pipeline, members: Sequence[Member], running: Running) -> None:
    """See :func:`gazelit.runs.check.check_run`; the first seed and fold are tried."""
    limited = [replace(stage, overrides=[*stage.overrides, *LIMITS]) for stage in pipeline.stages]

    def try_in(folder: Path) -> None:
        _run_members(
            replace(pipeline, stages=limited, out=folder),
            [replace(members[0], folder=folder, fold=None)],
            None,
            running,
        )

    configs = {name: [f"--config={path}" for path in paths] for name, paths in pipeline.configs.items()}
    epochs = {
        stage.name: max_epochs(["fit", *configs[stage.name], *pipeline.overrides, *stage.overrides])
        for stage in pipeline.stages
    }
    planned = [
        Planned(folder, command, str(folder.relative_to(member.folder)), epochs.get(folder.name))
        for member in members
        for folder, command in _planned(pipeline, member)
    ]
    planned.append(Planned(pipeline.out / REPORT, "report", REPORT))
    steps = [_steps(pipeline, member, []) for member in members]
    check_run(pipeline.out, planned, steps, running.accept_versions, try_in, running.jobs)


def _train(
    pipeline: _Pipeline, member: Member, conduct: Conduct, first: int, total: int, share: Share
) -> tuple[list[dict[str, Any]], list[str]]:
    """Runs the steps of a member, numbered from ``number`` on; returns what was tested and the steps' commands."""
    trained: list[dict[str, Any]] = []
    steps = enumerate(_steps(pipeline, member, trained), first)
    return trained, [run_step(step, f"[{number}/{total}]", conduct, share) for number, step in steps]


def _configs(stage: StageStep, preset: str) -> list[Path]:
    names = [stage.config] if isinstance(stage.config, str) else stage.config
    return [find_config(name, preset).resolve() for name in names]


def _trust_stages(pipeline: _Pipeline) -> None:
    """Trusts the modules that the stages' configurations and options name, because they are the user's own.

    Steps that read the stages' checkpoints get ``--trust`` on their command lines.
    """
    overrides = [*pipeline.overrides, *(word for test in pipeline.external.values() for word in test.overrides)]
    for stage in pipeline.stages:
        for path in pipeline.configs[stage.name]:
            trust.trust_names(read_config(path), str(path))
        trust.trust_names([option.partition("=")[2] for option in (*overrides, *stage.overrides)], stage.name)


def _check_stores(pipeline: _Pipeline) -> None:
    stores = [("store", pipeline.store)]
    stores += [(f"external: {name}", test.store) for name, test in pipeline.external.items()]
    for name, path in stores:
        if not (path / "store.json").is_file():
            raise InputError(f"{name}: {path} is no prepared store; make one with `gazelit prepare`")
    for name, test in pipeline.external.items():
        if not name.isidentifier():
            raise InputError(f"external: '{name}' is not a plain name; use letters, digits and underscores")
        if Store.open(test.store).size != Store.open(pipeline.store).size:
            raise InputError(
                f"external: {test.store} has images of another size than {pipeline.store}; prepare it with the same"
            )


def _trusted() -> list[str]:
    return [f"--trust={module}" for module in trust.trusted()]


def _planned(pipeline: _Pipeline, member: Member) -> list[tuple[Path, str]]:
    """Folder and command of each step that :func:`_steps` will give."""
    steps = [(member.folder / stage.name, "fit") for stage in pipeline.stages]
    steps += [(_calibration_folder(member, stage), "calibrate") for stage in pipeline.calibrated()]
    for arm in pipeline.tested:
        folder = _test_folder(member, arm, pipeline.tested)
        steps += [(folder, "test"), *((_external_folder(folder, source), "test") for source in pipeline.external)]
    return steps


def _calibration_folder(member: Member, stage: StageStep) -> Path:
    return member.folder / f"{stage.name}_calibration"


def _test_folder(member: Member, arm: str, tested: Mapping[str, str]) -> Path:
    return member.folder / (TEST if len(tested) == 1 else f"{TEST}_{arm}")


def _external_folder(test: Path, source: str) -> Path:
    return test.with_name(f"{test.name}_on_{source}")


def _steps(pipeline: _Pipeline, member: Member, trained: list[dict[str, Any]]) -> Iterator[Step]:
    """The steps of one member, each generated when those before it are done; adds to ``trained`` what was tested."""
    checkpoints: dict[str, Path] = {}
    chains: dict[str, list[str]] = {}
    previous: str | None = None
    store, out = pipeline.store, pipeline.out
    store_hash = sha256_file(store / "store.json")
    for stage in pipeline.stages:
        folder = member.folder / stage.name
        parent = previous if stage.after == "previous" else stage.after
        arguments = [
            "fit",
            *(f"--config={config}" for config in pipeline.configs[stage.name]),
            f"--data.store={store.resolve()}",
            *member.options,
            f"--trainer.default_root_dir={folder}",
            f"--checkpoint.dirpath={folder / 'checkpoints'}",
            *pipeline.overrides,
            *stage.overrides,
            *_distillations(stage, checkpoints),
        ]
        files = [file for config in pipeline.configs[stage.name] for file in config_chain(config)]
        inputs = {"config": sha256_json([sha256_file(file) for file in files]), "store": store_hash}
        if parent is not None:
            inputs["parent"] = checkpoint_digest(checkpoints[parent])
        inputs |= {f"teacher {name}": checkpoint_digest(checkpoints[name]) for name in stage.teachers}
        yield Step(folder, arguments, inputs, checkpoints.get(parent) if parent else None)
        checkpoints[stage.name] = folder / "checkpoints" / f"{pipeline.checkpoint}.ckpt"
        # The time of a teacher's training counts, too.
        before = [earlier for name in (*stage.teachers, *([parent] if parent else [])) for earlier in chains[name]]
        chains[stage.name] = list(dict.fromkeys([*before, stage.name]))
        previous = stage.name

    final = dict(checkpoints)
    for stage in pipeline.calibrated():
        folder = _calibration_folder(member, stage)
        config = member.folder / stage.name / "config.yaml"
        source, final[stage.name] = checkpoints[stage.name], folder / "calibrated.ckpt"
        arguments = ["calibrate", f"--config={config}", "--trainer.logger=false", f"--out={final[stage.name]}"]
        yield Step(folder, [*arguments, *_trusted()], {"checkpoint": checkpoint_digest(source)}, source)

    for arm, name in pipeline.tested.items():
        folder = _test_folder(member, arm, pipeline.tested)
        config = member.folder / name / "config.yaml"
        inputs = {"checkpoint": checkpoint_digest(final[name])}
        yield Step(folder, _test(config, folder), inputs, final[name])
        elsewhere: dict[str, str] = {}
        for external_name, external in pipeline.external.items():
            external_folder = _external_folder(folder, external_name)
            arguments = [*_test(config, external_folder), *_external_options(external, store)]
            yield Step(
                external_folder, arguments, {**inputs, "store": sha256_file(external.store / "store.json")}, final[name]
            )
            elsewhere[external_name] = str(external_folder.relative_to(out))
        stage_folders = [member.folder / stage for stage in chains[name]]
        trained.append(
            {
                "arm": arm,
                "seed": member.seed,
                "fold": member.fold,
                "stages": [str(each.relative_to(out)) for each in stage_folders],
                "checkpoint": str(final[name].relative_to(out)),
                "test": str(folder.relative_to(out)),
                "external": elsewhere,
                "seconds": sum(read_json(each / DONE_FILE)["seconds"] for each in stage_folders),
            }
        )


def _distillations(stage: StageStep, checkpoints: Mapping[str, Path]) -> list[str]:
    """The options that make earlier stages' models teach a stage, one value each."""
    options = []
    for name, taught in stage.teachers.items():
        options.append("--model.auxiliary+=gazelit.losses.Distillation")
        # Separate options, so that a step's key has the path, and the file's content through the step's inputs.
        options.append(f"--model.auxiliary.checkpoint={checkpoints[name]}")
        options += [f"--model.auxiliary.{option}={json.dumps(value)}" for option, value in taught.items()]
    return options


def _test(config: Path, folder: Path) -> list[str]:
    plain = [f"--config={config}", f"--trainer.default_root_dir={folder}", "--trainer.logger=false"]
    return ["test", *plain, *_trusted()]


def _external_options(test: ExternalTest, store: Path) -> list[str]:
    """The options by which a test on another source differs from the training's configuration."""
    return [
        f"--data.store={test.store.resolve()}",
        "--data.split={method: external, file: null, folds: null}",
        f"--data.split.trained_on={store.resolve()}",
        *test.overrides,
    ]
