"""Replaces every path that a command takes by something else: ``python -m tests.fuzz.paths``.

Each try is a valid command in which a single path is replaced: by a pipe, a socket, a device, an empty folder or file,
or a link to nowhere, to itself or to a file outside. It must end within its limits: with exit code 2 and one line, or,
if the path is written, with its work done. Commands run in forks of a process that has imported everything.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import json
import os
import re
import resource
import shlex
import shutil
import signal
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.fuzz.targets import stand_in
from tests.soak.commands import CASES, SIZE
from tests.soak.processes import session, start
from tests.tiny import tiny

#: Replacements of a path.
STAND_INS = ("pipe", "socket", "zeros", "folder", "loop", "outside", "dangling", "empty")
#: Seconds of wall-clock and processor time after which a command counts as hung; commands that work need some time.
CLOCK_SECONDS, CPU_SECONDS = 60.0, 60
#: Memory that a command may take beyond that of the process it is forked from (bytes).
MEMORY = 4 * 2**30
#: Commands as they are typed. ``{name}`` is a path at hand, ``<IN>`` one that is read, ``<OUT>`` one that is written:
#: these are tried, one in each line.
LINES = """
doctor --store <IN>
doctor --store {store} --fit {config} --out <OUT>
doctor --fit <IN>
synth --cases 3 --max-side 64 --workers 1 --out <OUT>
prepare --source EGDCXR --source.root <IN> --source.images {mimic} --size [32,32] --workers 1 --out {new}
prepare --source EGDCXR --source.root {egd} --source.images <IN> --size [32,32] --workers 1 --out {new}
prepare --source EGDCXR --source.root {egd} --source.images {mimic} --size [32,32] --workers 1 --out <OUT>
prepare --source REFLACX --source.root <IN> --source.images {mimic} --size [32,32] --workers 1 --out {new}
prepare --source MIMICCXR --source.root <IN> --size [32,32] --workers 1 --out {new}
prepare --source Manifest --source.images <IN> --source.gaze {gaze} --workers 1 --out {new}
prepare --source Manifest --source.images {images} --source.gaze <IN> --workers 1 --out {new}
prepare --source CXRP --source.gaze <IN> --source.images {folder} --workers 1 --out {new}
prepare --source GazeSearch --source.gaze <IN> --source.images {mimic} --workers 1 --out {new}
prepare --source GazeIntent --source.gaze <IN> --source.images {mimic} --workers 1 --out {new}
prepare --source GazeVaLM --source.root <IN> --workers 1 --out {new}
prepare --source EyeAssist --source.root <IN> --source.cases {images} --workers 1 --out {new}
prepare --source EyeAssist --source.root {folder} --source.cases <IN> --workers 1 --out {new}
prepare --source Pysaliency --source.fixations <IN> --source.stimuli {images} --workers 1 --out {new}
prepare --config <IN>
inspect <IN>
inspect {store} --sheet <OUT>
verify <IN>
split <IN> --out {new}
split {store} --out <OUT>
validate-manifest --images <IN> --gaze {gaze} --labels [Normal,CHF] --coordinates normalised
validate-manifest --images {images} --gaze <IN> --labels [Normal,CHF] --coordinates normalised
validate-manifest --images {images} --gaze {gaze} --labels [Normal,CHF] --coordinates normalised --root <IN>
run <IN> --store {store} --out {new}
run pipelines/quick.yaml --store <IN> --out {new}
run pipelines/quick.yaml --store {store} --out <OUT> --check true
status <IN>
configs copy stage1.yaml --out <OUT>
report <IN> --out {new}
report {tested} --out <OUT>
agreement <IN> --out {new}
agreement {ckpt} --out <OUT>
agreement {ckpt} --out {new} --stage-config <IN>
agreement {ckpt} --out {new} --store <IN>
phrases <IN> --findings {findings} --out {new}
phrases {store} --findings {findings} --out <OUT>
compare-scanpaths <IN>
compare-scanpaths {searches} --patients <IN>
compare-scanpaths {searches} --predictions <IN>
compare-scanpaths {searches} --insist true --out <OUT>
embed <IN> --ckpt {ckpt} --out {new}
embed {store} --ckpt <IN> --out {new}
embed {store} --ckpt {ckpt} --out <OUT>
lineage <IN>
export-pysaliency <IN> --out {new}
export-pysaliency {store} --out <OUT>
import-reference <IN> --out {new}
import-reference {ckpt} --out <OUT>
export-weights <IN> --out {new}.safetensors
export-weights {ckpt} --out <OUT>.safetensors
app --ckpt <IN> --port 0
app --store <IN> --port 0
app --runs <IN> --port 0
app --ckpt {ckpt} --port 0 --guards <IN>
app --ckpt {ckpt} --port 0 --tls-certificate <IN> --tls-key {images}
app --ckpt {ckpt} --port 0 --tls-certificate {images} --tls-key <IN>
export <IN> --format torch-export --out {new}.pt2
export {ckpt} --format torch-export --out <OUT>.pt2
export {ckpt} --format onnx --precision int8 --stage-config <IN> --out {new}.onnx
package <IN> --out {new}
package {ckpt} --out <OUT>
package {ckpt} --run <IN> --out {new}
push <IN> --repo nobody/nothing
infer <IN> --ckpt {ckpt} --out {new}
infer {film} --ckpt <IN> --out {new}
infer {film} --ckpt {ckpt} --out <OUT>
infer {film} --ckpt {ckpt} --guards <IN> --out {new}
serve-dicom <IN> --allow [A] --to B@127.0.0.1:9 --port 0 --spool {new}
serve-dicom {ckpt} --allow [A] --to B@127.0.0.1:9 --port 0 --spool <OUT>
serve-dicom {ckpt} --allow [A] --to B@127.0.0.1:9 --port 0 --spool {new} --tls-certificate <IN> --tls-key {images}
serve-dicom {ckpt} --allow [A] --to B@127.0.0.1:9 --port 0 --spool {new} --tls-certificate {images} --tls-key <IN>
serve-dicom {ckpt} --allow [A] --to B@127.0.0.1:9 --port 0 --spool {new} --tls-authority <IN>
adapt-reader <IN> --reader a --out {new}
adapt-reader {ckpt} --reader a --out <OUT>
adapt-reader {ckpt} --reader a --out {new} --stage-config <IN>
adapt-reader {ckpt} --reader a --out {new} --store <IN>
guard <IN> --out {new}
guard {ckpt} --out <OUT>
guard {ckpt} --out {new} --stage-config <IN>
fit --config <IN>
fit {tiny} --data.store <IN>
fit {tiny} --data.split.file <IN>
fit {tiny} --data.split.trained_on <IN>
fit {tiny} --ckpt_path <IN>
fit {tiny} --start_from <IN>
fit {tiny} --model.network.encoder.weights <IN>
fit {tiny} --trainer.fast_dev_run=1 --checkpoint.dirpath <OUT>
fit {tiny} --trainer.fast_dev_run=1 --trainer.default_root_dir <OUT>
test --config <IN> --ckpt_path {ckpt}
test --config {config} --ckpt_path <IN>
test --config {config} --ckpt_path {ckpt} --data.store <IN>
test --config {config} --ckpt_path {ckpt} --trainer.default_root_dir <OUT>
validate --config {config} --ckpt_path <IN>
predict --config {config} --ckpt_path <IN>
calibrate --config {config} --ckpt_path <IN> --out {new}
calibrate --config {config} --ckpt_path {ckpt} --out <OUT>
"""
#: Imported before the forks.
_MODULES = (
    "gazelit.cli.training", "gazelit.cli.app", "gazelit.data.store.wide", "gazelit.deploy.infer",
    "gazelit.deploy.dicom.serve", "gazelit.deploy.embed", "gazelit.deploy.fit_guards", "gazelit.deploy.new_reader",
    "gazelit.release.export", "gazelit.release.package", "gazelit.release.push", "gazelit.reporting.agreement",
    "gazelit.reporting.commands", "gazelit.reporting.phrases", "gazelit.reporting.scanpaths", "gazelit.runs.pipeline",
    "gazelit.runs.doctor", "gazelit.runs.status", "gazelit.checkpoints.importing", "gazelit.checkpoints.exporting",
    "gazelit.data.sources",
)  # fmt: skip


_SHORT = ("--trainer.logger=false", "--trainer.max_epochs=1")


@dataclass(frozen=True)
class Line:
    """A line of :data:`LINES`.

    Attributes:
        words: Its words, with placeholders.
        option: Where the path is given: an option, or ``argument``.
    """

    words: tuple[str, ...]
    option: str

    @property
    def command(self) -> str:
        """What follows ``gazelit``."""
        return self.words[0]

    @property
    def is_written(self) -> bool:
        """Whether the path that is tried is written."""
        return any("<OUT>" in word for word in self.words)


def lines() -> list[Line]:
    """All lines of :data:`LINES`."""
    found = []
    for text in LINES.strip().splitlines():
        words = tuple(shlex.split(text))
        (position,) = [number for number, word in enumerate(words) if word.startswith(("<IN>", "<OUT>"))]
        before = words[position - 1]
        found.append(Line(words, before.removeprefix("--") if before.startswith("--") else "argument"))
    return found


class AtHand:
    """The other inputs of the commands, which are made once and kept in a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        cohort, tables = folder / "cohort", folder / "tables"
        paths = {
            "store": folder / "store", "egd": cohort / "egd-cxr", "mimic": cohort / "mimic-cxr", "folder": tables,
            "images": tables / "manifest" / "images.csv", "gaze": tables / "manifest" / "gaze.csv",
            "config": folder / "fit" / "config.yaml", "ckpt": folder / "fit" / "checkpoints" / "best.ckpt",
            "tested": folder / "tested", "searches": folder / "searches.json",
        }  # fmt: skip
        self.words = {name: str(path) for name, path in paths.items()} | {"findings": '{"cardiac silhouette": "heart"}'}
        self.words["tiny"] = shlex.join(
            ["--config=presets/quick/stage2.yaml", *tiny(2, paths["store"]), *_SHORT, "--checkpoint.dirpath=fit"]
        )

    def make(self) -> None:
        """Makes the inputs that are missing."""
        if not Path(self.words["searches"]).is_file():
            shutil.rmtree(self.folder, ignore_errors=True)
            self.folder.mkdir(parents=True)
            self._make()
        self.words["film"] = str(next(Path(self.words["mimic"]).rglob("*.dcm")))

    def _make(self) -> None:
        from gazelit.synthetic.cohort import write_cohort

        write_cohort(self.folder / "cohort", cases=CASES, seed=3, max_side=128, workers=1)
        write_cohort(self.folder / "tables", cases=3, format="manifest", seed=3, max_side=64, workers=1)
        store, config, ckpt = (self.words[name] for name in ("store", "config", "ckpt"))
        roots = [f"--source.root={self.words['egd']}", f"--source.images={self.words['mimic']}"]
        self._whole("prepare", "--source=EGDCXR", *roots, f"--size=[{SIZE}, {SIZE}]", "--workers=1", f"--out={store}")
        fit = [*tiny(3, store), *_SHORT, f"--checkpoint.dirpath={Path(ckpt).parent}"]
        self._whole("fit", "--config=presets/quick/stage3.yaml", *fit)
        out = ["--trainer.logger=false", f"--trainer.default_root_dir={self.words['tested']}"]
        self._whole("test", f"--config={config}", f"--ckpt_path={ckpt}", *out)
        search = {
            "task": "edema", "condition": "present", "bbox": [0, 0, 0, 0], "X": [10, 20, 30], "Y": [20, 30, 40],
            "T": [0.3, 0.2, 0.1], "length": 3, "fixOnTarget": True, "correct": 1, "split": "test",
        }  # fmt: skip
        rows = [
            search | {"name": f"{film}.jpg", "subject": reader}
            for film, reader in zip("abcd", (1, 2, 1, 2), strict=True)
        ]
        Path(self.words["searches"]).write_text(json.dumps(rows))

    def _whole(self, *arguments: str) -> None:
        code, _, text = run(arguments, self.folder, self.folder / "log.txt")
        if code:
            sys.exit(f"gazelit {shlex.join(arguments)} failed ({code}):\n{text}")


def run(arguments: Sequence[str], folder: Path, log: Path) -> tuple[int, float, str]:
    """Runs a command in a fork within the limits.

    Returns:
        Exit code, or the negative number of a signal; seconds of processor time; its output.
    """
    log.unlink(missing_ok=True)
    began = time.monotonic()
    size = int(re.search(r"VmSize:\s+(\d+)", Path("/proc/self/status").read_text())[1]) * 1024  # type: ignore[index]
    process = start(arguments, folder, log, folder)
    resource.prlimit(process, resource.RLIMIT_CPU, (CPU_SECONDS, CPU_SECONDS + 5))
    resource.prlimit(process, resource.RLIMIT_AS, (size + MEMORY, size + MEMORY))
    while True:
        ended, status, usage = os.wait4(process, os.WNOHANG)
        if ended:
            break
        if time.monotonic() - began > CLOCK_SECONDS:
            os.kill(process, signal.SIGKILL)
        time.sleep(0.01)
    for left in session(process):
        with contextlib.suppress(ProcessLookupError):
            os.kill(left, signal.SIGKILL)
    text = log.read_text(errors="replace") if log.is_file() else ""
    return os.waitstatus_to_exitcode(status), usage.ru_utime + usage.ru_stime, text


def fault_of(line: Line, what: str, code: int, text: str) -> str:
    """The fault in the way a command ended; empty if there is none."""
    if "Traceback" in text:
        return f"traceback: {text.strip().splitlines()[-1][:300]}"
    if code == 2:
        errors = [row for row in text.splitlines() if row.startswith("gazelit: error:")]
        if len(errors) != 1 and line.command != "verify":
            return f"{len(errors)} lines of error: {text[-300:]}"
        return "" if "/try/odd" in text else f"does not name the path: {text[-300:]}"
    if code == 0:
        # An empty configuration changes nothing, so the command may do its work.
        is_fine = line.is_written or (line.option == "config" and what in ("empty", "outside"))
        return "" if is_fine else f"is taken: {text[-300:]}"
    return f"exit code {code}: {text[-300:]}"


def attempt(line: Line, what: str, at_hand: AtHand, work: Path) -> tuple[str, float, str]:
    """Tries a line with a replaced path; returns the fault, seconds of processor time, and the output."""
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    suffix = next(Path(word).suffix for word in line.words if word.startswith(("<IN>", "<OUT>")))
    odd, outside = work / f"odd{suffix}", work / "outside.txt"
    outside.write_text("nobody's business\n")
    if what == "empty":
        odd.touch()
    elif what == "outside":
        odd.symlink_to(outside)
    else:
        stand_in(odd, what)
    words = at_hand.words | {"new": str(work / "new")}
    arguments: list[str] = []
    for word in line.words:
        filled = str(odd) if word.startswith(("<IN>", "<OUT>")) else word
        for name, path in words.items():
            filled = filled.replace(f"{{{name}}}", path)
        arguments += shlex.split(filled) if word == "{tiny}" else [filled]
    code, seconds, text = run(arguments, work, work.with_suffix(".log"))
    fault = fault_of(line, what, code, text)
    if outside.read_text() != "nobody's business\n":
        fault = f"wrote through a link; {fault}"
    return fault, seconds, text


def main(arguments: list[str] | None = None) -> int:
    """The command line; returns 1 if anything was found."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz.paths", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--commands", default="", help="names, separated by commas; all unless given")
    parser.add_argument("--what", default=",".join(STAND_INS), help="what stands in the path's stead")
    parser.add_argument("--work", type=Path, default=Path("build/paths"))
    parser.add_argument("--minutes", type=float, default=1e9, help="end when they are over; the same again goes on")
    options = parser.parse_args(arguments)
    end = time.monotonic() + 60 * options.minutes
    at_hand = AtHand((options.work / "at-hand").resolve())
    for module in _MODULES:
        importlib.import_module(module)
    at_hand.make()
    journal = options.work / "journal.json"
    rows = json.loads(journal.read_text()) if journal.is_file() else {}
    names = set(filter(None, options.commands.split(",")))
    every = {f"{shlex.join(line.words)} [{what}]": (line, what) for what in options.what.split(",") for line in lines()}
    rows = {key: row for key, row in rows.items() if key in every}
    for key, (line, what) in every.items():
        # Faults that were found are tried again.
        if (names and line.command not in names) or (key in rows and not rows[key]["fault"]):
            continue
        if time.monotonic() > end:
            break
        fault, seconds, text = attempt(line, what, at_hand, (options.work / "try").resolve())
        rows[key] = {
            "command": line.command, "fault": fault, "seconds": round(seconds, 2), "said": text[-300:],
        }  # fmt: skip
        journal.write_text(json.dumps(rows, indent=1))
    faults = {key: row for key, row in rows.items() if row["fault"]}
    sys.stdout.write("".join(f"{key}: {row['fault']}\n" for key, row in faults.items()))
    counts = Counter(row["command"] for row in rows.values())
    sys.stdout.write("".join(f"{name:20} {count:4}\n" for name, count in sorted(counts.items())))
    longest = max(row["seconds"] for row in rows.values())
    sys.stdout.write(f"{len(rows)} of {len(every)} tried, {len(faults)} found, at most {longest:.1f} s\n")
    return int(bool(faults))


if __name__ == "__main__":
    sys.exit(main())
