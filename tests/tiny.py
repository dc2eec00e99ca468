"""Options that make any shipped stage small enough for a test, and untrained checkpoints."""

from dataclasses import fields
from inspect import signature
from pathlib import Path
from typing import Any

TINY_ENCODER = '{"name": "densenet-small", "weights": null}'
TINY_SALIENCY_ENCODER = '{"name": "res-se", "options": {"widths": [4, 4, 8, 8, 8], "reduction": 4}}'
#: Options after the others: strides of the saliency encoder's start and the decoder's end as in
#: configs/networks/lean.yaml.
TINY_LEAN = [
    '--model.network.saliency_encoder={"name": "res-se", "options": {"widths": [4, 8, 8], "stem_stride": 4}}',
    "--model.network.decoder_widths=[8, 8, 4]",
]


def tiny(stage: int, store: object, *, network: bool = True) -> list[str]:
    """Command-line options for stage 1, 2 or 3 on a tiny store."""
    options = [
        f"--data.store={store}",
        "--data.loader.batch_size=6",
        "--data.loader.num_workers=0",
        "--trainer.accelerator=cpu",
        "--trainer.precision=32-true",
        "--trainer.enable_progress_bar=false",
        "--trainer.enable_model_summary=false",
        "--trainer.log_every_n_steps=1",
    ]
    if network:
        options.append(f"--model.network.encoder={TINY_ENCODER}")
        if stage > 1:
            options += [
                f"--model.network.saliency_encoder={TINY_SALIENCY_ENCODER}",
                "--model.network.decoder_widths=[8, 8, 8, 4, 4]",
            ]
    return options


def grouped(**options: Any) -> dict[str, Any]:
    """Arguments of a GazeDataModule from options without their groups, such as ``batch_size`` or ``split_seed``."""
    from gazelit.data.datamodule import GazeDataModule
    from gazelit.data.options import AugmentationOptions, GazeOptions, LoaderOptions, SplitOptions

    classes = {"gaze": GazeOptions, "split": SplitOptions, "loader": LoaderOptions, "augmentation": AugmentationOptions}
    short = {field.name: (group, field.name) for group, options_of in classes.items() for field in fields(options_of)}
    whole = {f"{group}_{name}": (group, name) for group, name in short.values()}
    groups: dict[str, dict[str, Any]] = {}
    for name in set(options) - set(signature(GazeDataModule).parameters):
        group, option = {"augment": ("augmentation", "enabled"), **short, **whole}[name]
        groups.setdefault(group, {})[option] = options.pop(name)
    return {**options, **{group: classes[group](**values) for group, values in groups.items()}}


def save_untrained(path: Path, network: Any, data: dict[str, Any], stage: str = "joint", **changes: Any) -> str:
    """Writes a network as a checkpoint of gazelit's, with changes of its stamp; returns the path."""
    import torch

    from gazelit.checkpoints import stamps

    stamp = stamps.make_stamp(stage=stage, network=network, data=data, seed=1, parent=None)
    state = {f"network.{key}": value for key, value in network.state_dict().items()}
    torch.save({"state_dict": state, stamps.STAMP_KEY: stamp | changes}, path)
    return str(path)


def sharded(processes=1):
    """Options of a training that is sharded over some processes (FSDP2) and writes a whole checkpoint."""
    return [
        f"--trainer.devices={processes}", "--trainer.strategy=ModelParallelStrategy",
        f"--trainer.strategy.data_parallel_size={processes}", "--trainer.strategy.tensor_parallel_size=1",
        "--trainer.strategy.save_distributed_checkpoint=false",
    ]  # fmt: skip
