"""The commands that are killed: their inputs, their outputs, and the contents that are compared."""

import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tests.tiny import tiny

SIZE, CASES, EPOCHS = 64, 24, 2
#: Dates and times, in reports and in results.
_TIMES = re.compile(rb"\d{4}-\d\d-\d\d[ T]\d\d:\d\d(:\d\d)?|\d{4}-\d\d-\d\d|\d+(\.\d+)? (s|min)\b")


@dataclass(frozen=True)
class Command:
    """A command to be killed.

    Attributes:
        name: Name in the table.
        arguments: The arguments of ``gazelit``, given the folder of the inputs and whether it was begun before.
        writes: Path that it writes, within the folder it runs in.
        needs: Commands whose results it reads.
        is_service: Whether it runs until it is stopped.
        imports: Module that the harness imports for its forks.
        parent: The checkpoint from which a training begins, given the folder of the inputs.
    """

    name: str
    arguments: Callable[[Path, bool], list[str]]
    writes: str
    needs: tuple[str, ...] = ()
    is_service: bool = False
    imports: str = "gazelit.cli.training"
    parent: Callable[[Path], Path] | None = None


def _fit(
    number: int, config: str, workers: int, *options: str, parent: Callable[[Path], Path] | None = None
) -> Callable[[Path, bool], list[str]]:
    def arguments(at_hand: Path, begun: bool) -> list[str]:
        # As `gazelit run` does, resumes from the training's own checkpoint, or begins.
        start = [] if parent is None else [f"--start_from={parent(at_hand)}"]
        resume = ["--ckpt_path=run/checkpoints/last.ckpt"] if begun else start
        return [
            "fit", f"--config=presets/quick/{config}.yaml", *tiny(number, at_hand / "prepare" / "store"),
            f"--data.loader.num_workers={workers}", f"--trainer.max_epochs={EPOCHS}", "--trainer.logger=false",
            "--data.augmentation.enabled=true", "--checkpoint.dirpath=run/checkpoints",
            *options, *resume,
        ]  # fmt: skip

    return arguments


def _of_saliency(at_hand: Path) -> Path:
    return at_hand / "fit saliency" / "run" / "checkpoints" / "best.ckpt"


def _checkpoint(at_hand: Path) -> str:
    return str(at_hand / "fit joint" / "run" / "checkpoints" / "best.ckpt")


def _config(at_hand: Path) -> str:
    return f"--config={at_hand / 'fit joint' / 'run' / 'config.yaml'}"


def _films(at_hand: Path) -> list[str]:
    return [str(path) for path in sorted((at_hand / "cohort" / "mimic-cxr").rglob("*.dcm"))[:6]]


def commands(port: int) -> dict[str, Command]:
    """All commands by name.

    Args:
        port: Port of the receiver of ``serve-dicom``'s results.
    """
    joint = ("fit joint",)
    every = [
        Command(
            "prepare",
            lambda at_hand, _: [
                "prepare", "--source", "EGDCXR", "--source.root", str(at_hand / "cohort" / "egd-cxr"),
                "--source.images", str(at_hand / "cohort" / "mimic-cxr"), "--size", f"[{SIZE}, {SIZE}]",
                "--workers", "2", "--out", "store",
            ],
            "store",
            imports="gazelit.data.store.prepare",
        ),
        Command("fit contrastive", _fit(1, "stage1", 2), "run", ("prepare",)),
        Command("fit supervised", _fit(1, "supervised", 0), "run", ("prepare",)),
        Command("fit saliency", _fit(2, "stage2", 0), "run", ("prepare",)),
        Command(
            "fit joint",
            _fit(3, "stage3", 2, "--model.network.dropout=0.3", parent=_of_saliency),
            "run",
            ("prepare", "fit saliency"),
            parent=_of_saliency,
        ),
        Command(
            "calibrate",
            lambda at_hand, _: [
                "calibrate", _config(at_hand), f"--ckpt_path={_checkpoint(at_hand)}", "--trainer.logger=false",
                "--out=calibrated/calibrated.ckpt",
            ],
            "calibrated",
            joint,
        ),
        Command(
            "test",
            lambda at_hand, _: [
                "test", _config(at_hand), f"--ckpt_path={_checkpoint(at_hand)}", "--trainer.logger=false",
                "--trainer.default_root_dir=tested",
            ],
            "tested",
            joint,
        ),
        Command(
            "report",
            lambda at_hand, _: ["report", str(at_hand / "test" / "tested"), "--out", "report"],
            "report",
            (*joint, "test"),
            imports="gazelit.reporting.collect",
        ),
        Command(
            "agreement",
            lambda at_hand, _: ["agreement", _checkpoint(at_hand), "--out", "agreement"],
            "agreement",
            joint,
            imports="gazelit.reporting.agreement",
        ),
        Command(
            "embed",
            lambda at_hand, _: [
                "embed", str(at_hand / "prepare" / "store"), f"--ckpt={_checkpoint(at_hand)}", "--out", "features",
            ],
            "features",
            ("prepare", *joint),
            imports="gazelit.deploy.embed",
        ),
        Command(
            "export-weights",
            lambda at_hand, _: ["export-weights", _checkpoint(at_hand), "--out", "weights/model.safetensors"],
            "weights",
            joint,
            imports="gazelit.checkpoints.exporting",
        ),
        Command(
            "export",
            lambda at_hand, _: [
                "export", _checkpoint(at_hand), "--format", "onnx", "--out", "graph/model.onnx", "--overwrite", "true",
            ],
            "graph",
            joint,
            imports="gazelit.release.export",
        ),
        Command(
            "infer",
            lambda at_hand, _: ["infer", *_films(at_hand), "--ckpt", _checkpoint(at_hand), "--out", "read"],
            "read",
            joint,
            imports="gazelit.deploy.infer",
        ),
        Command(
            "serve-dicom",
            lambda at_hand, _: [
                "serve-dicom", _checkpoint(at_hand), "--allow", "[MODALITY]", "--to", f"PACS@127.0.0.1:{port}",
                "--spool", "spool", "--port", "0", "--dicom", "[sr,sc]",
            ],
            "received",
            joint,
            is_service=True,
            imports="gazelit.deploy.dicom.serve",
        ),
    ]  # fmt: skip
    return {command.name: command for command in every}


def contents(folder: Path) -> dict[str, bytes]:
    """The files that a command has made, by path: bytes without dates, times, and records of how it was called."""
    found = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        # config.yaml records the checkpoint from which a resumed run goes on; digests depend on such files.
        if not path.is_file() or name in ("config.yaml", "report.sha256"):
            continue
        content = path.read_bytes()
        if path.suffix in (".md", ".html", ".json", ".csv"):
            content = _TIMES.sub(b"", content)
        elif path.suffix == ".dcm":
            content = _without_times(path)
        found[name] = content
    return found


def _without_times(path: Path) -> bytes:
    """A DICOM result as text without dates, times, and values made from them."""
    from pydicom import dcmread

    dataset = dcmread(path)
    for element in list(dataset.iterall()):
        if element.VR in ("DA", "TM", "DT"):
            element.value = ""
    return "\n".join(line for line in str(dataset).splitlines() if "(0002," not in line).encode()


def torn(folder: Path) -> list[str]:
    """Files with a finished name that cannot be read in their format."""
    from gazelit.checkpoints.stamps import read_checkpoint
    from gazelit.errors import InputError
    from gazelit.files import read_json

    faults = []
    for path in sorted(folder.rglob("*")):
        if not path.is_file() or any(part.startswith(".") for part in path.relative_to(folder).parts):
            continue
        try:
            if path.suffix == ".ckpt":
                read_checkpoint(path)
            elif path.suffix == ".json":
                read_json(path)
            elif path.suffix == ".parquet":
                import pandas as pd

                pd.read_parquet(path)
            elif path.suffix == ".dcm":
                from pydicom import dcmread

                dcmread(path)
        except (InputError, OSError, ValueError) as error:
            faults.append(f"{path.name} is torn ({type(error).__name__})")
    return faults


def leftovers(folder: Path) -> list[str]:
    """Temporary files that a finished command has left."""
    names = [path.relative_to(folder) for path in folder.rglob("*")]
    return [str(name) for name in names if any(part.startswith(".") for part in name.parts)]


def fill_spool(at_hand: Path, folder: Path) -> int:
    """Puts films into the spool as if they had been sent; returns the number of their results."""
    from pydicom import dcmread

    from gazelit.deploy.dicom.spool import Spool

    spool = Spool(folder / "spool")
    films = _films(at_hand)[:3]
    for film in films:
        spool.add_film(str(dcmread(film, stop_before_pixels=True).SOPInstanceUID), Path(film).read_bytes())
    return 2 * len(films)


def clear(folder: Path) -> None:
    """Makes a folder empty."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
