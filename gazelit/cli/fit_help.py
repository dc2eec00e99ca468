"""The short help of the commands that train and evaluate: the most common options, and where to find the others."""

from __future__ import annotations

from textwrap import wrap

#: Columns and lines of two screens.
WIDTH = 100
_INDENT = 36

_RUN = {
    "--config FILE": "a configuration: a path or a shipped name (`gazelit configs`); of several, later ones win",
    "--preset quick": "shipped configurations small enough for two CPU cores",
    "--name NAME": "keeps everything in runs/NAME; also the name of a W&B run",
    "--seed_everything N": "seed of weights and order (0)",
}
_CHECKPOINTS = {
    "--ckpt_path FILE": "same stage: resumes it (`last`: this run's own); another stage: takes its components over",
    "--start_from FILE": "takes the components of a checkpoint over, also of the same stage; starts at epoch 0",
    "--checkpoint.monitor NAME": "criterion of best.ckpt (val/selection)",
    "--checkpoint.mode min|max": "whether lower or higher is better (min)",
    "--checkpoint.dirpath DIR": "where checkpoints go, if not by --name; config.yaml and epochs.csv lie beside DIR",
    "--allow_other_split true": "takes a checkpoint that may have seen patients of this test split",
}
_READ = {
    "--config FILE": "the config.yaml of a run",
    "--name NAME": "instead: the run in runs/NAME; results go to runs/NAME/{command}",
    "--ckpt_path FILE": "the checkpoint; the run's checkpoints/best.ckpt unless given",
    "--allow_other_split true": "reads a checkpoint that may have seen patients of this test split",
    "--trust MODULE": "lets checkpoint and configuration name classes of a module that you know; repeatable",
}
_DATA = {
    "--data.store DIR": "the prepared store (stores/egd-cxr)",
    "--data.labels '[A, B]'": "label columns that are the classes",
    "--data.exclusive true|false": "whether exactly one label is 1 in every case (true)",
    "--data.downscale N": "works at 1/N of the store's size (1)",
    "--data.gaze.sigma X": "standard deviation of the heatmap's Gaussian (1.0)",
    "--data.gaze.sigma_unit UNIT": "deg, px of the working image, or image_px of the original (deg)",
    "--data.gaze.kind KIND": "fixation, sample, or fixations detected in samples (fixation)",
    "--data.split.seed N": "seed of the split; stages that hand over must share it (0)",
    "--data.split.file FILE": "CSV of image_id and split, of `gazelit split`",
    "--data.loader.batch_size N": "cases a process takes per step",
    "--data.loader.num_workers N": "processes that load",
    "--data.augmentation.enabled BOOL": "whether training cases are augmented",
}
_MODEL = {
    "--model.optimizer.lr X": "learning rate; --model.optimizer torch.optim.AdamW takes another optimiser",
    "--model.lr_scheduler CLASS": "such as gazelit.stages.schedules.WarmupCosine",
    "--model.learning_rates '{encoder: X}'": "learning rate of a component",
    "--model.frozen '[encoder]'": "components that are not trained",
    "--model.network.encoder.name NAME": "the encoder (`gazelit encoders` lists them)",
    "--model.network.encoder.weights W": "imagenet, a file, or null for random ones",
    "--model.loss CLASS": "objective of stage 1; of others --model.diagnosis_loss, --model.saliency_loss",
    "--model.weighting CLASS": "how stage 3 weighs its tasks",
    "--model.on_nonfinite stop|skip": "what a step without a finite loss or gradient does (stop)",
}
_TRAINER = {
    "--trainer.max_epochs N": "epochs",
    "--trainer.accelerator NAME": "cpu, gpu, auto (auto)",
    "--trainer.devices N": "processes on this machine; with --trainer.strategy ddp",
    "--trainer.precision P": "32-true, bf16-mixed, 16-mixed; auto: bf16-mixed where the device has it",
    "--trainer.accumulate_grad_batches N": "batches a step (1)",
    "--trainer.fast_dev_run true": "tries one batch of everything and writes nothing",
    "--trainer.callbacks+ CLASS": "a further callback, such as EarlyStopping or EMAWeightAveraging",
}
_LOGGING = {
    "--config loggers/wandb.yaml": "logs to W&B: numbers and configuration, no path, host or command line",
    "--log_paths true": "lets loggers have those, too",
    "--trust MODULE, --debug": "see `gazelit --help`",
}
_WHAT = {
    "fit": "Trains a stage.",
    "validate": "Evaluates a checkpoint on the validation split.",
    "test": "Evaluates a checkpoint on the test split; writes metrics.json and predictions.parquet.",
    "predict": "Writes a checkpoint's predictions without evaluating them.",
    "calibrate": "Fits the temperature of a checkpoint's probabilities on the validation split.",
}


def short_help(command: str) -> str:
    """The help of a command, two screens at most.

    Args:
        command: ``fit``, ``validate``, ``test``, ``predict`` or ``calibrate``.
    """
    trains = command == "fit"
    groups = {"run": _RUN, "checkpoints": _CHECKPOINTS} if trains else {"run": _READ}
    if command == "calibrate":
        groups["result"] = {"--out FILE": "the checkpoint to write"}
    groups |= {"data": _DATA, "model": _MODEL, "training": _TRAINER, "logging": _LOGGING} if trains else {
        "data and machine": {name: _DATA[name] for name in ("--data.store DIR", "--data.loader.batch_size N")}
        | {name: _TRAINER[name] for name in ("--trainer.accelerator NAME", "--trainer.precision P")}
    }  # fmt: skip
    lines = [f"usage: gazelit {command} --config FILE [OPTIONS]", "", _WHAT[command], ""]
    for title, options in groups.items():
        lines += [f"{title}:", *(line for name, text in options.items() for line in _entry(name, text, command)), ""]
    lines += [
        "Options are keys of the configuration: --data.gaze.sigma 2 is `data: {gaze: {sigma: 2}}`.",
        "Switches take true or false. What a configuration sets, the command line changes.",
        "",
        f"all options of Lightning's trainer and callbacks:  gazelit {command} --help.all",
        f"all options of a class:                            gazelit {command} --model.help JointFinetuning",
        f"                                                   gazelit {command} --data.help GazeDataModule",
        "examples of every kind:                            docs/training.md",
    ]
    return "\n".join(lines) + "\n"


def _entry(name: str, text: str, command: str) -> list[str]:
    wrapped = wrap(text.replace("{command}", command), WIDTH - _INDENT - 2)
    if len(name) > _INDENT - 4:
        return [f"  {name}", *(" " * _INDENT + line for line in wrapped)]
    return [f"  {name:<{_INDENT - 2}}{wrapped[0]}", *(" " * _INDENT + line for line in wrapped[1:])]


def option_names() -> list[str]:
    """Every option that the help of ``fit`` names, without its value."""
    groups = (_RUN, _CHECKPOINTS, _DATA, _MODEL, _TRAINER, _LOGGING)
    names = [name.split()[0].rstrip(",+") for group in groups for name in group]
    return list(dict.fromkeys(names))
