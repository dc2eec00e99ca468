"""Reading a store's films at random from its memory map, against chunks that are read as a stream (litdata).

An epoch of the same examples in batches of 32, shuffled, without augmentation, read in the process itself: from the
store as every training reads it, and from litdata's chunks of 64 MB on the same disk. Pictures are random, since what
is read is stored as it is. Needs litdata, which gazelit does not (``pip install litdata``).

    python benchmarks/streaming.py [--films 3000] [--rounds 5]
"""

from __future__ import annotations

import argparse
import functools
import tempfile
from pathlib import Path

import cv2
import litdata
import numpy as np
import pandas as pd
import torch
from measure import Workload, cpu_seconds, machine, measured

from gazelit.data.datamodule import GazeDataModule
from gazelit.data.dataset import Example, GazeDataset, collate
from gazelit.data.options import AugmentationOptions, LoaderOptions, SplitOptions
from gazelit.data.sources import Manifest
from gazelit.data.store.prepare import prepare

SIZE, BATCH, FIXATIONS = (320, 256), 32, 40
CHUNK = "64MB"


def make_store(folder: Path, films: int) -> Path:
    """A store of random pictures."""
    rng = np.random.default_rng(0)
    pictures = folder / "pictures"
    pictures.mkdir()
    names = [f"i{number}" for number in range(films)]
    for name in names:
        # Without compression: random pictures have none.
        picture = rng.integers(0, 255, SIZE, np.uint8)
        cv2.imwrite(str(pictures / f"{name}.png"), picture, [cv2.IMWRITE_PNG_COMPRESSION, 0])
    images = pd.DataFrame({"image_id": names, "patient_id": names, "path": [f"pictures/{name}.png" for name in names]})
    images.assign(normal=rng.integers(0, 2, films)).to_csv(folder / "images.csv", index=False)
    points = rng.uniform(0, SIZE[1] - 1, (films * FIXATIONS, 2)).round(2)
    gaze = pd.DataFrame({"image_id": np.repeat(names, FIXATIONS), "x": points[:, 0], "y": points[:, 1]})
    gaze.assign(duration=0.25, ppd_x=30.0, ppd_y=30.0).to_csv(folder / "gaze.csv", index=False)
    source = Manifest(str(folder / "images.csv"), str(folder / "gaze.csv"), labels=["normal"])
    prepare(source, folder / "store", size=SIZE, workers=1)
    return folder / "store"


def size_of(folder: Path) -> int:
    """Bytes of all files under a folder."""
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def example(examples: GazeDataset, position: int) -> Example:
    """What a chunk holds of a film: the mask of its padding is six numbers in the store, and is made again."""
    return {key: value for key, value in examples[0, position].items() if key != "valid_mask"}


def with_masks(examples: GazeDataset, streamed: list[Example]) -> Example:
    """The batch of examples from chunks."""
    masks = (torch.from_numpy(examples.mask(int(each["index"])))[None] for each in streamed)
    return collate([{**each, "valid_mask": mask} for each, mask in zip(streamed, masks, strict=True)])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--films", type=int, default=3000)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        data = GazeDataModule(
            str(make_store(folder, options.films)),
            labels=["normal"],
            exclusive=False,
            split=SplitOptions(method="patient", test_fraction=0.02, val_fraction=0.02),
            loader=LoaderOptions(batch_size=BATCH, num_workers=0),
            augmentation=AugmentationOptions(enabled=False),
        )
        examples = data.dataset("train")
        positions = list(range(len(examples)))
        chunks = folder / "chunks"
        written = cpu_seconds(
            lambda: litdata.optimize(
                functools.partial(example, examples), positions, str(chunks), chunk_bytes=CHUNK, num_workers=1
            )
        )
        streamed = litdata.StreamingDataset(str(chunks), shuffle=True, drop_last=False)

        suited = functools.partial(with_masks, examples)

        def memory_map() -> int:
            return sum(len(batch["index"]) for batch in data.train_dataloader())

        def stream() -> int:
            loader = litdata.StreamingDataLoader(streamed, batch_size=BATCH, num_workers=0, collate_fn=suited)
            return sum(len(batch["index"]) for batch in loader)

        read = {"store": memory_map(), "chunks": stream()}
        found = measured(Workload("an epoch of reading", {"chunks": stream, "store": memory_map}), options.rounds)
        of_store, of_chunks = (
            sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
            for path in (folder / "store", chunks)
        )
        ratio = found.ratios["store"]
        print(f"litdata {litdata.__version__}; {machine()['processor']}; load {found.load:.1f}")
        print(
            f"examples of an epoch: {read}; bytes: store {of_store:,}, chunks {of_chunks:,}, written in {written:.1f} s"
        )
        for way, seconds in found.seconds.items():
            print(f"{way}: {seconds / read[way] * 1e6:.0f} µs of processor time a film")
        print(f"the store takes {ratio.median:.2f} times less ({ratio.low:.2f} to {ratio.high:.2f})")


if __name__ == "__main__":
    main()
