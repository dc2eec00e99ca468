"""Cases of a prepared store as training examples."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import cv2
import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset, default_collate

from gazelit.data.gaze.events import clip_to_window, detect_fixations
from gazelit.data.gaze.heatmap import SMALLEST_SIGMA
from gazelit.data.gaze.sequences import EVENT_KEYS, Events, padded
from gazelit.data.images.transforms import Augmentation
from gazelit.data.options import GazeControl, GazeOptions
from gazelit.data.store.films_in_use import FilmsInUse
from gazelit.data.store.store import Store
from gazelit.errors import InputError

Example = dict[str, Tensor]

#: Rows of gaze that are moved to working pixels at a time, in float64.
_BLOCK = 100_000
#: What of gaze training takes, besides the pixels per degree.
_COLUMNS = ["row", "reading_id", "reader_id", "t", "duration", "x", "y"]


@dataclass(frozen=True)
class WorkingGaze:
    """The gaze of all of a store's cases, in working pixels.

    Attributes:
        points: (M, 3) float32 x, y, weight, case after case and in order of time within a reading.
        sigma: (M, 2) float32, σ of each point.
        reading: (M,) which of its case's readings a point is of, from 0.
        starts: (N + 1,) where each case's points begin.
        events: When each point was, who looked and what for.
    """

    points: NDArray[np.float32]
    sigma: NDArray[np.float32]
    reading: NDArray[np.int64]
    starts: NDArray[np.int64]
    events: Events

    @classmethod
    def of(cls, store: Store, options: GazeOptions, downscale: int) -> WorkingGaze:
        """Reads a store's gaze.

        Raises:
            InputError: Degrees are asked of gaze without a known viewing geometry.
        """
        gaze = _events(store, options)
        count = len(store.cases)
        row = gaze["row"].to_numpy()
        starts = np.searchsorted(row, np.arange(count + 1))
        reading = np.zeros(len(gaze), np.int64)
        if len(gaze):
            name = gaze["reading_id"].astype("category").cat.codes.to_numpy()
            new = np.diff(name, prepend=name[0]) != 0
            reading = np.cumsum(new)
            reading -= reading[starts[row]]
        weight = gaze["duration"].to_numpy() if options.weight == "duration" else np.ones(len(gaze))
        if options.readings == "equal":
            weight = weight / pd.Series(weight).groupby([row, reading]).transform("sum").to_numpy().clip(1e-12)
        points, sigma = np.empty((len(gaze), 3), np.float32), np.empty((len(gaze), 2), np.float32)
        points[:, 2] = weight
        smallest = np.inf
        for start in range(0, len(gaze), _BLOCK):
            part = slice(start, start + _BLOCK)
            rows, fixations = row[part], gaze.iloc[part]
            scale = store.letterboxes.scale[rows] / downscale
            corner = store.letterboxes.corner[rows] / downscale
            # Letterbox.to_working for these cases at once, and then the coarser grid: pixel centres are at integers.
            points[part, :2] = (fixations[["x", "y"]].to_numpy(np.float64) + 0.5) * scale - 0.5 + corner
            of_points = np.broadcast_to(options.sigma * _unit(fixations, scale, options.sigma_unit), (len(rows), 2))
            if not np.isfinite(of_points).all():
                raise InputError(
                    "gaze.sigma_unit: deg needs pixels per degree, which this source does not give; use px or image_px"
                )
            smallest = min(smallest, of_points.min())
            sigma[part] = of_points
        if not smallest >= SMALLEST_SIGMA:
            raise InputError(
                f"gaze.sigma: comes to {smallest:.3g} working pixels for some gaze; at least {SMALLEST_SIGMA} is "
                "needed. Are the pixels per degree right?"
            )
        return cls(points, sigma, reading, starts, Events.of(store, gaze, options))

    def controlled(
        self, control: GazeControl, rows: NDArray[np.int64], patients: NDArray[np.generic], seed: int
    ) -> WorkingGaze:
        """The same gaze, except that some cases have another's or none: what a model learns from it is then known.

        Args:
            control: ``shuffled``: each case has the gaze of a case of another patient; ``centre``: points drawn from
                all these cases' points, as many as the case has; ``order``: its own fixations, which of them came when
                drawn anew in each reading; ``phrases``: what was said is moved round by a random number of events;
                ``none``: no gaze; ``true``: its own.
            rows: The cases that are changed, and that gaze is taken from.
            patients: (N,) patient of every case.
            seed: Of the shuffling.

        Raises:
            InputError: Gaze cannot be shuffled because one patient has most of the cases.
        """
        if control == "true" or not len(rows):
            return self
        generator = np.random.default_rng(seed)
        if control == "phrases":
            shares = self.events.phrase_shares.copy()
            for row in rows:
                part = slice(self.starts[row], self.starts[row + 1])
                shares[part] = self.events.moved(part, self.reading[part], generator)
            return replace(self, events=replace(self.events, phrase_shares=shares))
        parts = [np.arange(self.starts[row], self.starts[row + 1]) for row in range(len(self.starts) - 1)]
        pool = np.concatenate([parts[row] for row in rows])
        if control == "shuffled":
            donors = _donors(rows, patients, generator)
        for position, row in enumerate(rows):
            own = self.starts[row + 1] - self.starts[row]
            if control == "none":
                parts[row] = pool[:0]
            elif control == "centre":
                drawn = np.sort(generator.choice(pool, own)) if len(pool) else pool
                # In the order of time: what a stage that predicts sequences is given must be one.
                parts[row] = drawn[np.argsort(self.events.times[drawn, 0], kind="stable")]
            elif control == "order":
                draws = generator.random(len(parts[row]))
                parts[row] = parts[row][np.lexsort((draws, self.reading[parts[row]]))]
            else:
                donor = donors[position]
                parts[row] = np.arange(self.starts[donor], self.starts[donor + 1])
        order = np.concatenate(parts)
        starts = np.concatenate([[0], np.cumsum([len(part) for part in parts])])
        reading = self.reading[order] * (control != "centre")
        events = self.events.take(order)
        if control == "order":
            events = events.in_turn(self.events, np.repeat(np.arange(len(parts)), np.diff(starts)), reading)
        return WorkingGaze(self.points[order], self.sigma[order], reading, starts.astype(np.int64), events)

    def without(self, left_out: NDArray[np.bool_]) -> WorkingGaze:
        """The same gaze without some of its points (M,)."""
        kept = np.flatnonzero(~left_out)
        starts = np.searchsorted(kept, self.starts)
        row = np.repeat(np.arange(len(starts) - 1), np.diff(starts))
        # Numbers of a case's readings have no gaps: which one is drawn is a number below how many there are.
        reading = pd.Series(self.reading[kept]).groupby(row).rank("dense").to_numpy(np.int64) - 1
        return WorkingGaze(self.points[kept], self.sigma[kept], reading, starts, self.events.take(kept))


def _donors(
    rows: NDArray[np.int64], patients: NDArray[np.generic], generator: np.random.Generator
) -> NDArray[np.int64]:
    """For every row another row, each once, of another patient."""
    # Sorted by patient and turned by the largest number of cases of one patient: then no patient keeps their gaze.
    shuffled = generator.permutation(rows)
    _, codes, counts = np.unique(patients[shuffled], return_inverse=True, return_counts=True)
    if counts.max() * 2 > len(rows):
        raise InputError("gaze.control: one patient has more than half of the cases; there is nobody to shuffle with")
    ordered = shuffled[np.argsort(codes, kind="stable")]
    donor = dict(zip(ordered.tolist(), np.roll(ordered, counts.max()).tolist(), strict=True))
    return np.array([donor[row] for row in rows.tolist()])


def _unit(gaze: pd.DataFrame, scale: NDArray[np.float64], name: str) -> NDArray[np.float64] | float:
    """Working pixels that σ's unit has, at each row of gaze."""
    if name == "deg":
        return gaze[["ppd_x", "ppd_y"]].to_numpy(np.float64) * scale
    return scale if name == "image_px" else 1.0


def _events(store: Store, options: GazeOptions) -> pd.DataFrame:
    if options.kind == "detected":
        gaze = detect_fixations(store.gaze("sample"), options.detection)
    else:
        angles = ["ppd_x", "ppd_y"] if options.sigma_unit == "deg" else []
        gaze = store.gaze(options.kind, columns=[*_COLUMNS, *angles])
    if options.window is not None:
        gaze = clip_to_window(gaze, options.window, store.table("phrases"))
    return gaze


@dataclass(frozen=True)
class Draws:
    """What is drawn of a case, as a function of seed, epoch and row.

    Attributes:
        augmentation: Of image and points; none unless given.
        other_view: Of ``other_view``, without ``augmentation`` the same in every epoch; no other view unless given.
        reading: Whether one reading is drawn of each image and epoch.
        seed: Of all this.
    """

    augmentation: Augmentation | None = None
    other_view: Augmentation | None = None
    reading: bool = False
    seed: int = 0


class GazeDataset(Dataset[Example]):
    """Images, gaze points and labels of some cases.

    An example has ``image`` (1, H, W), uint8 as it is stored or float32 in [0, 1]; ``points`` (N, 3) float32 as x, y
    and weight in working pixels; ``sigma`` (N, 2) in working pixels; ``valid_mask`` (1, H, W) bool; ``label``;
    ``index`` (the store's row); ``points_off_image`` (how many points the augmentation moved off the image); and
    ``other_view`` with two views, (1, H, W), another augmentation of the image. It is asked for by (epoch, position),
    because the augmentation of a case is a function of seed, epoch and row.

    With ``with_events`` it also has ``events`` (N, 4) float32 as x, y, start and duration, of the same points and in
    the order of time within a reading; and (N,) int64 ``reading`` (which of the case's readings an event is of),
    ``reader`` and ``finding`` (numbers in :class:`gazelit.data.gaze.sequences.Events`), and (N, F) float32 ``said``,
    the share of an event's duration during which each of ``gaze.phrases`` was said.

    Args:
        store: The prepared store.
        rows: The store's rows that belong to the dataset.
        labels: Labels of all the store's rows: (N,) int64 or (N, K) float32.
        gaze: The gaze of all the store's rows.
        downscale: Integer factor between the store's resolution and the working one.
        draws: What is drawn of each case; nothing unless given.
        with_events: Whether examples have events.

    Raises:
        InputError: The store's size is no multiple of ``downscale``.
    """

    def __init__(
        self,
        store: Store,
        rows: NDArray[np.int64],
        labels: Tensor,
        gaze: WorkingGaze,
        downscale: int = 1,
        draws: Draws | None = None,
        with_events: bool = False,
    ) -> None:
        check_downscale(store, downscale)
        self.store = store
        self.rows = rows
        self.labels = labels
        self.gaze = gaze
        self.downscale = downscale
        self.draws = draws or Draws()
        self.with_events = with_events
        self.size = (store.size[0] // downscale, store.size[1] // downscale)
        #: Whether films are left unread, and black, because a stage reads their features.
        self.without_films = False
        self._images = FilmsInUse(store)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, key: tuple[int, int]) -> Example:
        epoch, position = key
        row = int(self.rows[position])
        image = self._image(row)
        mask = self.mask(row)
        draws = self.draws
        seeds = np.random.SeedSequence([draws.seed, epoch, row]).generate_state(2)
        views = {}
        if draws.other_view is not None:
            epoch = epoch if draws.augmentation is not None else 0
            seed = np.random.SeedSequence([draws.seed, epoch, row, 2]).generate_state(1)[0]
            nowhere = np.zeros((0, 3), np.float32), np.zeros((0, 2), np.float32)
            second = draws.other_view(image, mask, *nowhere, int(seed)).image
            views["other_view"] = torch.from_numpy(np.ascontiguousarray(second))[None]
        taken = self._taken(row, int(seeds[1]))
        points, sigma = self.gaze.points[taken], self.gaze.sigma[taken]
        off_image = 0
        if draws.augmentation is not None:
            image, mask, points, sigma, inside = draws.augmentation(image, mask, points, sigma, int(seeds[0]))
            off_image = int((~inside).sum())
            taken = taken[inside]
        events = self._events(points, taken) if self.with_events else {}
        return {
            "image": torch.from_numpy(np.ascontiguousarray(image))[None],
            "points": torch.from_numpy(np.ascontiguousarray(points)),
            "sigma": torch.from_numpy(np.ascontiguousarray(sigma)),
            "valid_mask": torch.from_numpy(mask)[None],
            "label": self.labels[row],
            "index": torch.tensor(row),
            "points_off_image": torch.tensor(off_image),
            **views,
            **events,
        }

    def _taken(self, row: int, seed: int) -> NDArray[np.int64]:
        """Which of the gaze's points an example has."""
        taken = np.arange(self.gaze.starts[row], self.gaze.starts[row + 1])
        if self.draws.reading and len(taken):
            reading = self.gaze.reading[taken]
            taken = taken[reading == seed % (reading[-1] + 1)]
        return taken

    def _events(self, points: NDArray[np.float32], taken: NDArray[np.int64]) -> dict[str, Tensor]:
        events = self.gaze.events.take(taken)
        columns = np.concatenate([points[:, :2], events.times], axis=1), self.gaze.reading[taken]
        values = (*columns, events.reader, events.finding, events.phrase_shares)
        return {key: torch.from_numpy(value) for key, value in zip(EVENT_KEYS, values, strict=True)}

    def _image(self, row: int) -> NDArray[np.uint8] | NDArray[np.float32]:
        if self.without_films:
            return np.zeros(self.size, np.uint8)
        return working_film(self.store, row, self.size, self._images)

    def mask(self, row: int) -> NDArray[np.bool_]:
        """(H, W) bool: which pixels of a store's row are no padding."""
        mask = self.store.letterboxes[row].valid_mask()
        if self.downscale == 1:
            return mask
        # A coarse pixel is valid if the fine pixel at its centre is.
        half = self.downscale // 2
        return np.ascontiguousarray(mask[half :: self.downscale, half :: self.downscale])


def working_film(
    store: Store, row: int, size: tuple[int, int], images: NDArray[np.unsignedinteger] | FilmsInUse | None = None
) -> NDArray[np.uint8] | NDArray[np.float32]:
    """A store's film at the working size, uint8 as it is stored or float32 in [0, 1].

    Args:
        store: The store.
        row: The film.
        size: (H, W), the store's or a whole fraction of it.
        images: The store's films, if they are open: those of ``store.images()``, or of a dataset.
    """
    stored: Any = (store.images() if images is None else images)[row]
    is_smaller = size != store.size
    if stored.dtype == np.uint8:
        # A quarter of the bytes to augment and to send to the device, which makes float32 of them. Coarser pixels are
        # rounded to whole grey levels.
        return cv2.resize(stored, size[::-1], interpolation=cv2.INTER_AREA) if is_smaller else np.array(stored)
    image = stored.astype(np.float32)
    image *= np.float32(1 / store.largest)
    return cv2.resize(image, size[::-1], interpolation=cv2.INTER_AREA) if is_smaller else image


def check_downscale(store: Store, downscale: int) -> None:
    """Raises InputError if the store's size over ``downscale`` is no multiple of 32."""
    if downscale < 1 or any(side % (32 * downscale) for side in store.size):
        raise InputError(
            f"downscale: the store's {store.size[0]} × {store.size[1]} over {downscale} must stay a multiple of 32"
        )


def collate(examples: list[Example]) -> Example:
    """Stacks examples; points are padded to the longest with zero weight, their σ with 1.

    Adds ``has_gaze`` (B,) and ``sigma_px`` (B,), the mean σ of an image's points (NaN without any). Events, where
    examples have them, are padded to the longest, too; ``reading`` is −1 there.
    """
    longest = max(1, *(len(example["points"]) for example in examples))
    points, sigma = torch.zeros(len(examples), longest, 3), torch.ones(len(examples), longest, 2)
    for row, example in enumerate(examples):
        points[row, : len(example["points"])] = example["points"]
        sigma[row, : len(example["sigma"])] = example["sigma"]
    keys = [key for key in examples[0] if key not in ("points", "sigma", *EVENT_KEYS)]
    return {
        # In a worker this stacks into shared memory at once; a plain stack would be copied there again.
        **default_collate([{key: example[key] for key in keys} for example in examples]),
        "points": points,
        "sigma": sigma,
        "has_gaze": (points[..., 2] > 0).any(dim=1),
        "sigma_px": torch.stack([example["sigma"].mean() for example in examples]),
        **(padded(examples) if "events" in examples[0] else {}),
    }


def collate_none(examples: list[Example]) -> Example:
    """A batch without cases, of the shape and type of one with."""
    return {key: value[:0] for key, value in collate(examples).items()}


def unit_range(image: Tensor) -> Tensor:
    """An image as float32 in [0, 1], from uint8 or from float32 that is so already."""
    return image.float().div_(255) if image.dtype == torch.uint8 else image
