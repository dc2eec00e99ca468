"""The content of a store: counts, balance, quality of the recordings, suspicious cases, and a contact sheet."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from gazelit.data.gaze.heatmap import fixation_density
from gazelit.data.images.geometry import on_image
from gazelit.data.options import GazeOptions
from gazelit.data.store.schema import GAZE_KINDS
from gazelit.data.store.store import Store
from gazelit.data.store.suspicion import Suspicion, suspicions
from gazelit.data.working_gaze import WorkingGaze
from gazelit.errors import InputError
from gazelit.files import atomic_path

#: The console shows this many suspicious cases of a kind; the CSV has all.
SHOWN_OF_A_KIND = 5
LARGEST_CALIBRATION_ERROR = 2.0


@dataclass(frozen=True)
class Inspection:
    """What :func:`inspect` prints.

    Attributes:
        counts: By name.
        labels: Per label: present, absent, uncertain, unknown.
        sizes: Images by size, photometric interpretation and view.
        readings: One row a reading and kind: rows, valid and off-image shares, rate (Hz), length (s), longest
            row (s), and extent of the valid ones (pixels).
        recordings: One row a run of the tracker.
        suspicious: Cases to look at, by kind and row.
    """

    counts: dict[str, int]
    labels: pd.DataFrame
    sizes: pd.DataFrame
    readings: pd.DataFrame
    recordings: pd.DataFrame
    suspicious: list[Suspicion]


def inspect(store: str, sheet: Path | None = None, cases: int = 24, seed: int = 0) -> None:
    """Prints what a store holds and draws a contact sheet of cases with their heatmaps and scanpaths.

    Every suspicious case, by kind, goes into ``suspicious.csv`` in the folder of the contact sheet. Cases are named by
    their row in the store, not by their id.

    Args:
        store: The prepared store.
        sheet: The PNG file; ``<store>-contact.png`` beside the store unless given.
        cases: How many cases to draw; suspicious ones first, the rest at random.
        seed: Of the choice.

    Raises:
        InputError: There is no such store, or the file cannot be written.
    """
    if cases < 1:
        raise InputError(f"cases: must be at least 1, not {cases}")
    opened = Store.open(store)
    found = examine(opened)
    _print(opened, found)
    path = sheet if sheet is not None else opened.path.with_name(f"{opened.path.name}-contact.png")
    listed = path.with_name("suspicious.csv" if sheet is not None else f"{opened.path.name}-suspicious.csv")
    with atomic_path(listed) as temporary:
        pd.DataFrame(found.suspicious, columns=Suspicion._fields).to_csv(temporary, index=False)
    rows = _to_draw(found.suspicious, cases // 2)
    further = np.random.default_rng(seed).permutation(len(opened.cases)).tolist()
    rows += [row for row in further if row not in rows][: cases - len(rows)]
    draw_sheet(opened, sorted(rows), path)
    console = Console(highlight=False)
    console.print(f"all suspicious cases: {listed}", soft_wrap=True)
    console.print(f"contact sheet: {path}", soft_wrap=True)


def _to_draw(suspicious: list[Suspicion], most: int) -> list[int]:
    """Rows of suspicious cases, of each kind in turn."""
    turns: dict[str, int] = {}
    ranked = []
    for suspicion in suspicious:
        turn = turns[suspicion.kind] = turns.get(suspicion.kind, 0) + 1
        ranked.append((turn, suspicion.kind, suspicion.row))
    return list(dict.fromkeys(row for _, _, row in sorted(ranked)))[:most]


def examine(store: Store) -> Inspection:
    """Collects the counts and measures of a store; the gaze is read part by part."""
    cases = store.cases
    labels = cases[store.about["label_columns"]]
    readings = _readings(store)
    return Inspection(
        store.about["counts"],
        pd.DataFrame(
            {
                "present": (labels == 1).sum(),
                "absent": (labels == 0).sum(),
                "uncertain": (labels == -1).sum(),
                "unknown": labels.isna().sum(),
            }
        ),
        cases.groupby(["height", "width", "photometric", "view"])
        .size()
        .sort_values(ascending=False)
        .reset_index(name="n"),
        readings,
        _recordings(store, readings),
        suspicions(store, readings),
    )


def _readings(store: Store) -> pd.DataFrame:
    size = store.cases[["height", "width"]].to_numpy()
    keys = ["kind", "row", "reading_id", "recording_id"]
    parts = []
    with pq.ParquetFile(store.path / "gaze.parquet") as file:
        for group in range(file.num_row_groups):
            gaze = file.read_row_group(
                group, columns=[*keys, "t", "duration", "x", "y", "valid"], use_threads=False
            ).to_pandas()
            height, width = size[gaze["row"]].T
            x, y = gaze["x"].to_numpy(), gaze["y"].to_numpy()
            gaze["off_image"] = np.isfinite(x) & ~on_image(x, y, width, height)
            gaze["end"] = gaze["t"] + gaze["duration"]
            gaze[["x", "y"]] = gaze[["x", "y"]].where(gaze["valid"])
            parts.append(
                gaze.groupby(keys, sort=False).agg(
                    rows=("t", "size"),
                    valid=("valid", "sum"),
                    off_image=("off_image", "sum"),
                    first=("t", "min"),
                    last=("t", "max"),
                    end=("end", "max"),
                    longest=("duration", "max"),
                    **{f"{side}_{axis}": (axis, side) for side in ("min", "max") for axis in "xy"},
                )
            )
    if not parts:
        columns = [*keys, "rows", "valid", "off_image", "rate", "length", "longest", "extent_x", "extent_y"]
        return pd.DataFrame(columns=columns)
    statistics = {"rows": "sum", "valid": "sum", "off_image": "sum", "first": "min", "last": "max", "end": "max"}
    statistics |= {"longest": "max", "min_x": "min", "min_y": "min", "max_x": "max", "max_y": "max"}
    table = pd.concat(parts).groupby(level=keys, sort=False).agg(statistics)
    span = (table["last"] - table["first"]).where(table["rows"] > 1)
    table["rate"] = (table["rows"] - 1) / span
    table["length"] = table["end"] - table["first"]
    for axis in "xy":
        table[f"extent_{axis}"] = table.pop(f"max_{axis}") - table.pop(f"min_{axis}")
    return table.drop(columns=["first", "last", "end"]).reset_index()


def _recordings(store: Store, readings: pd.DataFrame) -> pd.DataFrame:
    """Per run of the tracker: readings, share valid and off the image, and error on calibration targets."""
    if readings.empty:
        return pd.DataFrame(columns=["recording_id", "readings", "valid", "off_image", "calibration_error"])
    # Samples say more about the tracker than the fixations made of them.
    kind = "sample" if (readings["kind"] == "sample").any() else "fixation"
    of_kind = readings[readings["kind"] == kind]
    table = of_kind.groupby("recording_id", sort=False).agg(
        readings=("reading_id", "nunique"), rows=("rows", "sum"), valid=("valid", "sum"), off_image=("off_image", "sum")
    )
    table[["valid", "off_image"]] = table[["valid", "off_image"]].div(table.pop("rows"), axis=0)
    error = store.table("recordings").set_index("recording_id")["calibration_error"]
    return table.join(error.astype("float64")).reset_index()


def _print(store: Store, found: Inspection) -> None:
    console = Console(highlight=False)
    about = store.about
    real = "SYNTHETIC, " if about["synthetic"] else ""
    console.print(
        f"{store.path}: {real}{about['source']}, {about['size'][0]} × {about['size'][1]}, {about['bits']} bits",
        soft_wrap=True,
    )
    console.print(f"fingerprint {about['fingerprint']}", soft_wrap=True)
    degree = about["pixels_per_degree"]
    console.print(
        "visual angle unknown"
        if degree is None
        else f"1° is {degree[0]:.1f} × {degree[1]:.1f} pixels of the original image"
    )
    counts = {**found.counts, **about["notes"]}
    _table(console, "counts", ["what", "n"], [[name, f"{count:,}"] for name, count in counts.items()])
    if len(found.labels):
        rows = [
            [str(name), *map(str, row)] for name, row in zip(found.labels.index, found.labels.to_numpy(), strict=True)
        ]
        _table(console, "labels (cases)", ["label", *found.labels.columns], rows)
    top = found.sizes.head(10)
    rows = [[f"{r.height} × {r.width}", r.photometric, r.view or "unknown", str(r.n)] for r in top.itertuples()]
    more = f"; {len(found.sizes) - 10} more" if len(found.sizes) > 10 else ""
    _table(console, f"sizes (height × width), commonest first{more}", ["size", "photometric", "view", "n"], rows)
    for kind in GAZE_KINDS:
        of_kind = found.readings[found.readings["kind"] == kind]
        if of_kind.empty:
            continue
        share = of_kind[["valid", "off_image"]].sum() / of_kind["rows"].sum()
        rows = [
            ["readings", f"{len(of_kind)}"],
            ["invalid rows", f"{1 - share['valid']:.1%}"],
            ["off the image", f"{share['off_image']:.1%}"],
        ]
        per_reading = "rows per reading", "length of a reading (s)", "rate (Hz)"
        for name, column in zip(per_reading, ("rows", "length", "rate"), strict=True):
            low, middle, high = of_kind[column].quantile([0.05, 0.5, 0.95])
            rows.append([name, f"{middle:.1f} (5 to 95 %: {low:.1f} to {high:.1f})"])
        _table(console, f"gaze: {kind}s", ["what", "value"], rows)
    if len(found.recordings):
        _print_recordings(console, found.recordings)
    _print_suspicious(console, found.suspicious)


def _print_suspicious(console: Console, suspicious: list[Suspicion]) -> None:
    """The first of each kind, and how many there are."""
    if not suspicious:
        console.print("no suspicious case")
        return
    rows = []
    for kind, group in groupby(suspicious, lambda suspicion: suspicion.kind):
        of_kind = list(group)
        rows += [[str(suspicion.row), kind, suspicion.what] for suspicion in of_kind[:SHOWN_OF_A_KIND]]
        more = len(of_kind) - SHOWN_OF_A_KIND
        if more > 0:
            rows.append(["", kind, f"and {more} more"])
    cases = len({suspicion.row for suspicion in suspicious})
    _table(console, f"suspicious: {cases} cases, by kind", ["row", "kind", "what"], rows)


def _print_recordings(console: Console, table: pd.DataFrame) -> None:
    """The ten worst recordings by calibration error, then by validity."""
    worst = table.sort_values(["calibration_error", "valid"], ascending=[False, True]).head(10)
    rows = [
        [
            str(recording.recording_id) or "unknown",
            str(recording.readings),
            f"{recording.valid:.1%}",
            f"{recording.off_image:.1%}",
            "unknown"
            if np.isnan(recording.calibration_error)
            else f"{recording.calibration_error:.2f}"
            + (" !" if recording.calibration_error > LARGEST_CALIBRATION_ERROR else ""),
        ]
        for recording in worst.itertuples()
    ]
    _table(
        console,
        f"recordings, the worst of {len(table)} first",
        ["recording", "readings", "valid", "off image", "calibration error (°)"],
        rows,
    )


def _table(console: Console, title: str, columns: list[str], rows: list[list[str]]) -> None:
    table = Table(title=title, title_justify="left")
    for column, name in enumerate(columns):
        table.add_column(name, justify="left" if column == 0 else "right", overflow="fold")
    for row in rows:
        table.add_row(*row)
    console.print(table)


def draw_sheet(store: Store, rows: list[int], path: Path) -> None:
    """Draws cases with their fixation density and scanpath (circles by duration, in order) as one PNG.

    Args:
        store: The prepared store.
        rows: Which cases.
        path: The PNG file.
    """
    kind: Any = "fixation" if store.about["counts"]["fixations"] else "sample"
    unit: Any = "deg" if store.about["pixels_per_degree"] is not None else "px"
    sigma = 1.0 if unit == "deg" else 0.024 * store.size[0]
    gaze = WorkingGaze.of(store, GazeOptions(kind, "duration", sigma, unit), 1)
    columns = min(6, len(rows))
    lines = -(-len(rows) // columns)
    # A backend without a window system.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    aspect = store.size[0] / store.size[1]
    figure = Figure(figsize=(2.4 * columns, (2.4 * aspect + 0.3) * lines), layout="constrained", dpi=110)
    FigureCanvasAgg(figure)
    axes = figure.subplots(lines, columns, squeeze=False)
    for axis in axes.flat:
        axis.set_axis_off()
    images = store.images()
    for row, axis in zip(rows, axes.flat, strict=False):
        part = slice(gaze.starts[row], gaze.starts[row + 1])
        _draw_case(axis, images[row] / store.largest, gaze.points[part], gaze.sigma[part], gaze.reading[part])
        seconds = f"{gaze.points[part, 2].sum():.0f} s" if part.start < part.stop else "no gaze"
        axis.set_title(f"row {row} · {seconds}", fontsize=8)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png")


def _draw_case(
    axis: Any,
    image: NDArray[np.floating],
    points: NDArray[np.float32],
    sigma: NDArray[np.float32],
    reading: NDArray[np.int64],
) -> None:
    axis.imshow(image, cmap="gray", vmin=0, vmax=1)
    if not len(points):
        return
    density = fixation_density(torch.from_numpy(points), (image.shape[0], image.shape[1]), torch.from_numpy(sigma))
    share = (density / density.max().clamp(min=1e-12)).numpy()
    axis.imshow(share, cmap="viridis", alpha=0.65 * np.sqrt(share), vmin=0, vmax=1)
    # Raw samples are drawn as a line only: they are too many for circles.
    if len(points) <= 200:
        axis.scatter(*points[:, :2].T, s=30 * points[:, 2], facecolors="none", edgecolors="white", linewidths=0.6)
    for number, colour in zip(np.unique(reading), matplotlib.color_sequences["tab10"] * 10, strict=False):
        path = points[reading == number]
        axis.plot(*path[:, :2].T, color=colour if reading.any() else "white", linewidth=0.5, alpha=0.8)
    axis.set_xlim(-0.5, image.shape[1] - 0.5)
    axis.set_ylim(image.shape[0] - 0.5, -0.5)
