"""What `gazelit infer` costs around the network, beside the plain loop that one would write.

The plain loop decodes a film, runs the network, enlarges the map to the film and makes it sum to 1, writes it as .npy,
draws it over the film with matplotlib's colours, and writes the picture by Pillow as PNG and the numbers as JSON. The
network of both is the same, and costs nothing, so that what is around it is measured. The two take turns, so that a
busy machine slows both alike; printed are seconds a film, wall and CPU (of all processes), the start of infer's decoder
included, their ratio with the extremes of the rounds, and the load average.

    python benchmarks/inference.py [--films 12] [--size 3056 2544] [--rounds 5] [--threads 1]
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import resource
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import torch
from matplotlib import colormaps
from PIL import Image
from torch import Tensor

from gazelit.data.images.dicom import read_radiograph
from gazelit.data.images.geometry import Letterbox
from gazelit.deploy import infer as command
from gazelit.deploy.inference import LoadedModel
from gazelit.models.network import Network
from gazelit.synthetic.dicom_writer import uid, write_film

SIZE = (640, 512)
STAMP = {"stage": "joint", "data": {"size": list(SIZE), "class_names": ["a", "b"], "synthetic": True}}


class Blurred(Network):
    """Looks where the film is bright: a map and two probabilities at the cost of reducing the film."""

    classes = 2

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Runs it on (B, 1, H, W)."""
        coarse = torch.nn.functional.avg_pool2d(x, 16)
        share = x.mean((1, 2, 3))
        saliency = torch.nn.functional.interpolate(8 * coarse, size=x.shape[-2:], mode="bilinear")
        return {"logits": torch.stack([share, -share], 1), "saliency_logits": saliency}


def write_films(folder: Path, count: int, size: tuple[int, int]) -> list[str]:
    """Smooth films with noise, 16 bits a pixel, not compressed."""
    chance = np.random.default_rng(0)
    folder.mkdir()
    for number in range(count):
        shapes = chance.uniform(0.1, 0.9, (12, 10)).astype(np.float32)
        smooth = cv2.resize(shapes, size[::-1], interpolation=cv2.INTER_CUBIC)
        film = np.clip(smooth + chance.normal(0, 0.004, size).astype(np.float32), 0, 1)
        uids = (uid(0, number), uid(1, number), uid(2, number))
        write_film(folder / f"{number}.dcm", film, 0.139, f"{number:08d}", uids, np.random.default_rng(number))
    return sorted(map(str, folder.glob("*.dcm")))


def plain_loop(network: Network, films: list[str], out: Path) -> None:
    """The alternative: one film after the other, arrays and pictures at the film's size."""
    for path in films:
        film = read_radiograph(path).pixels
        box = Letterbox.fit(*film.shape, SIZE)
        with torch.inference_mode():
            outputs = network(torch.from_numpy(box.apply(film))[None, None])
        probabilities = outputs["logits"].softmax(1)[0].tolist()
        density = box.restore(outputs["saliency_logits"].flatten().softmax(0).view(SIZE).numpy())
        density = density.astype(np.float64) / density.astype(np.float64).sum()
        stem = out / Path(path).stem
        np.save(f"{stem}.npy", density.astype(np.float32))
        heat = density / density.max()
        colour = colormaps["plasma"](heat)[..., :3]
        opacity = 0.7 * np.sqrt(heat)[..., None]
        picture = Image.fromarray(np.round(255 * ((1 - opacity) * film[..., None] + opacity * colour)).astype(np.uint8))
        picture.thumbnail((1024, 1024))
        picture.save(f"{stem}.png")
        Path(f"{stem}.json").write_text(json.dumps(dict(zip("ab", probabilities, strict=True))))


def cpu_seconds() -> float:
    """Of this process and of those that it started and that have ended."""
    return sum(sum(resource.getrusage(who)[:2]) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))


def timed(function: Callable[[], object]) -> tuple[float, float]:
    """Seconds that a call takes: wall, CPU."""
    wall, cpu = time.perf_counter(), cpu_seconds()
    function()
    return time.perf_counter() - wall, cpu_seconds() - cpu


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--films", type=int, default=12)
    parser.add_argument("--size", type=int, nargs=2, default=(3056, 2544))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    cv2.setNumThreads(options.threads)
    logging.disable(logging.WARNING)
    network = Blurred()
    model = LoadedModel(network, STAMP, "0" * 64, torch.ones(2))
    command.load_together = lambda *_: model
    with tempfile.TemporaryDirectory() as folder:
        films = write_films(Path(folder, "films"), options.films, tuple(options.size))
        seconds: dict[str, list[tuple[float, float]]] = {"plain loop": [], "gazelit infer": []}
        for _ in range(options.rounds):
            for name, kept in seconds.items():
                out = Path(folder, "out")
                out.mkdir()
                if name == "plain loop":
                    kept.append(timed(lambda out=out: plain_loop(network, films, out)))
                else:
                    kept.append(timed(lambda out=out: command.infer(films, Path("none.ckpt"), out)))
                written = sum(path.stat().st_size for path in out.iterdir()) / 1e6 / len(films)
                shutil.rmtree(out)
                wall, cpu = (value / len(films) for value in kept[-1])
                print(f"{name}: {wall:.3f} s wall, {cpu:.3f} s CPU, {written:.1f} MB a film", flush=True)
    print(f"{options.films} films of {options.size[0]} x {options.size[1]}, load {os.getloadavg()[0]:.1f}")
    for column, what in enumerate(("wall", "CPU")):
        both = zip(seconds["plain loop"], seconds["gazelit infer"], strict=True)
        ratios = [plain[column] / ours[column] for plain, ours in both]
        print(f"{what}: {statistics.median(ratios):.2f} times ({min(ratios):.2f} to {max(ratios):.2f})")


if __name__ == "__main__":
    main()
