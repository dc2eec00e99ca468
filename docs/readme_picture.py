"""Draws the picture of the README: a simulated film, where its reader looked, and what a trained network expects.

The film is of ``gazelit synth --difficulty hard --format manifest --cases 14 --seed 12 --max-side 640 --out cohort``:

python docs/readme_picture.py cohort best.ckpt 5 docs/film-and-gaze.png
"""

import sys
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib import pyplot as plt
from PIL import Image

import gazelit
from gazelit.deploy.overlay import blend, over_uniform, scale_end


def draw(cohort: Path, checkpoint: str, number: int, out: Path) -> None:
    """Draws the case of that number."""
    case = pd.read_csv(cohort / "truth" / "cases.csv").set_index("number").loc[number]
    path = cohort / "manifest" / "images" / f"{case['image_id']}.png"
    film = np.asarray(Image.open(path))
    gaze = pd.read_csv(cohort / "manifest" / "gaze.csv")
    gaze = gaze[(gaze["image_id"] == case["image_id"]) & (gaze["kind"] == "fixation")].sort_values("t")
    x, y = gaze["x"] * film.shape[1], gaze["y"] * film.shape[0]
    reading = gazelit.load(checkpoint).predict(path)
    multiples = over_uniform(reading.saliency)
    grey = np.round(film / film.max() * 255).astype(np.uint8)
    figure, axes = plt.subplots(1, 3, figsize=(9.6, 4.2), layout="constrained")
    for axis, picture in zip(axes, (grey, grey, blend(grey, multiples, scale_end(multiples))), strict=True):
        axis.imshow(picture, cmap="gray")
        axis.axis("off")
    axes[1].plot(x, y, color="#ffd54f", linewidth=0.8, alpha=0.8)
    axes[1].scatter(x, y, s=300 * gaze["duration"], color="#ffd54f", edgecolors="black", linewidths=0.5, alpha=0.8)
    items = pd.read_csv(cohort / "truth" / "items.csv")
    for item in items[(items["image_id"] == case["image_id"]) & (items["finding"] == 1)].itertuples():
        axes[0].add_patch(plt.Circle((item.x, item.y), item.radius, fill=False, color="white", linestyle=":"))
    axes[0].set_title(f"simulated film: {case['label']}", fontsize=10)
    axes[1].set_title("its reader's fixations", fontsize=10)
    best = max(reading.probabilities, key=reading.probabilities.get)
    axes[2].set_title(f"expected gaze, {best} {reading.probabilities[best]:.2f}", fontsize=10)
    figure.savefig(out, dpi=100, bbox_inches="tight")


if __name__ == "__main__":
    draw(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), Path(sys.argv[4]))
