"""Commands of a new user, from an empty folder to a tested model and a report; only the standard library is needed.

`tests/test_newcomer.py` runs them in this process; `make wheel-test` runs them with an installed wheel:
``python tests/newcomer.py BIN EMPTY_FOLDER``.
"""

import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

#: A pipeline that the new user writes.
PIPELINE = """\
stages:
  - name: joint
    config: stage3.yaml
    after: null
    calibrate: false
"""
SOURCE = "--source EGDCXR --source.root cohort/egd-cxr --source.images cohort/mimic-cxr"
#: Makes the shipped settings for two cores small enough for a test.
SMALL = (
    "--preset quick --trainer.max_epochs 1 --data.store stores/tiny --data.loader.num_workers 0 "
    "--data.loader.batch_size 8 --trainer.enable_progress_bar false"
)
OVERRIDES = '--overrides "[--trainer.max_epochs=1, --data.loader.num_workers=0, --data.loader.batch_size=8]"'
#: The commands. After ``#`` is the text that the error line of a mistake must have.
TYPED = f"""
gazelit synth --out cohort --cases 24 --seed 0 --max-side 128 --workers 1
gazelit prepare --source EGDCXR --source.rot cohort/egd-cxr --out stores/tiny  # did you mean --source.root?
gazelit prepare {SOURCE} --size 64,64 --workers 1 --out stores/tiny
gazelit configs list stage
gazelit fit --config stag1.yaml {SMALL}  # did you mean stage1.yaml?
gazelit fit --config stage1.yaml --name tiny/stage1 {SMALL}
gazelit fit --config stage2.yaml --name tiny/stage2 --trainer.max_epoch 1 {SMALL}  # did you mean --trainer.max_epochs?
gazelit fit --config stage2.yaml --name tiny/stage2 {SMALL} --ckpt_path runs/tiny/stage1/checkpoints/best.ckpt
gazelit fit --config stage3.yaml --name tiny/stage3 {SMALL} --ckpt_path runs/tiny/stage2/checkpoints/best.ckpt
gazelit test --name tiny/stage3
gazelit report runs/tiny/stage3
gazelit run mine.yaml --preset quick --store stores/tiny --out runs/pipeline {OVERRIDES}
gazelit status runs/pipeline
gazelit lineage runs/tiny/stage3/checkpoints/best.ckpt
"""
RESULTS = ("runs/tiny/stage3/test/report/report.html", "runs/pipeline/report.html")


def commands() -> Iterator[tuple[list[str], str | None]]:
    """The arguments of every command, and the text that its error line must have."""
    for line in TYPED.strip().splitlines():
        command, separator, said = line.partition("  # ")
        yield shlex.split(command)[1:], said if separator else None


def check_mistake(code: int, printed: str, said: str) -> None:
    """Asserts that a mistake gives exit code 2 and one line with the text."""
    lines = printed.strip().splitlines()
    assert code == 2, printed
    assert len(lines) == 1, printed
    assert lines[0].startswith("gazelit: error: "), printed
    assert lines[0].endswith(said), printed


def main(program: str, folder: Path) -> None:
    """Runs all commands with an installed gazelit."""
    (folder / "mine.yaml").write_text(PIPELINE, encoding="utf-8")
    for arguments, said in commands():
        sys.stdout.write(f"$ gazelit {shlex.join(arguments)}\n")
        sys.stdout.flush()
        if said is None:
            subprocess.run([program, *arguments], cwd=folder, check=True)
        else:
            result = subprocess.run([program, *arguments], cwd=folder, capture_output=True, text=True, check=False)
            check_mistake(result.returncode, result.stderr, said)
            sys.stdout.write(result.stderr)
    for result in RESULTS:
        assert (folder / result).is_file(), result


if __name__ == "__main__":
    main(str(Path(sys.argv[1]).resolve() / "gazelit"), Path(sys.argv[2]))
