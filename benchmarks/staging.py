"""Does staging help? Staged joint training against joint without stages and against each task alone; synthetic data.

Every arm makes the same number of passes over the training cases, with the same network sizes, optimiser and learning
rate; learning rates fall to zero over each training. Writes a run folder with the report, and prints the table that
``docs/results.md`` holds.

    python benchmarks/staging.py --out runs/staging [--cases 240] [--seeds 5]
"""

from __future__ import annotations

import argparse
from pathlib import Path

import yaml

# Of the benchmark of the claims, which lies beside this one.
from claims import gazelit

CONTRASTIVE, SALIENCY, JOINT = 8, 6, 10
TOTAL = CONTRASTIVE + SALIENCY + JOINT


def stage(name: str, config: str, epochs: int, after: str | None, *more: str) -> dict[str, object]:
    """A stage of so many passes."""
    options = [f"--trainer.max_epochs={epochs}", f"--model.lr_scheduler.T_max={epochs}", *more]
    return {"name": name, "config": f"presets/quick/{config}.yaml", "after": after, "overrides": options}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--cases", type=int, default=240)
    parser.add_argument("--seeds", type=int, default=5)
    options = parser.parse_args()
    out: Path = options.out
    out.mkdir(parents=True, exist_ok=True)
    pipeline = {
        "stages": [
            stage("contrastive", "stage1", CONTRASTIVE, None),
            stage("saliency", "stage2", SALIENCY, "contrastive"),
            stage("joint", "stage3", JOINT, "saliency"),
            stage("joint_without_stages", "stage3", TOTAL, None),
            stage("diagnosis_alone", "supervised", TOTAL, None),
            stage("saliency_alone", "stage2", TOTAL, None, "--model.frozen=[]"),
        ],
        "arms": {
            "staged": "joint",
            "joint_without_stages": "joint_without_stages",
            "diagnosis_alone": "diagnosis_alone",
            "saliency_alone": "saliency_alone",
        },
        "seeds": options.seeds,
        # A larger share for the test than is usual: differences are small beside what few cases can show.
        "overrides": ["--data.split.test_fraction=0.3", "--data.loader.num_workers=0"],
    }
    (out / "pipeline.yaml").write_text(yaml.safe_dump(pipeline, sort_keys=False), encoding="utf-8")

    if not (out / "cohort").is_dir():
        gazelit("synth", "--out", out / "cohort", "--cases", options.cases, "--seed", 0, "--max-side", 320)
    folders = [f"--source.root={out / 'cohort' / 'egd-cxr'}", f"--source.images={out / 'cohort' / 'mimic-cxr'}"]
    gazelit("prepare", "--source=EGDCXR", *folders, "--size=[128, 96]", "--out", out / "store")
    gazelit("run", out / "pipeline.yaml", "--store", out / "store", "--out", out / "run")
    print((out / "run" / "report.md").read_text(encoding="utf-8").split("## Data and commands")[0])


if __name__ == "__main__":
    main()
