"""Several datasets as one, so that their patients are split together."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import pandas as pd

from gazelit.data.store.schema import GazeTable, Recording, Source
from gazelit.errors import InputError


class Union(Source):
    """Several sources in one store: EGD-CXR and REFLACX share 45 patients and 10 images.

    An image that several sources have is one image with the readings of all of them. A label that several sources have
    becomes ``<source>:<label>``, because definitions may differ although names are equal.

    Args:
        sources: At least two.
    """

    def __init__(self, sources: Sequence[Source]) -> None:
        if len(sources) < 2:
            raise InputError("sources: a union needs at least two")
        if len({source.name for source in sources}) < len(sources):
            raise InputError("sources: two have the same name; give a manifest a name of its own")
        self.sources = list(sources)
        self.name = "+".join(source.name for source in sources)

    def options(self) -> dict[str, Any]:
        """See :class:`gazelit.data.store.schema.Source`."""
        return {source.name: source.options() for source in self.sources}

    def read(self) -> Recording:
        """See :class:`gazelit.data.store.schema.Source`."""
        parts = [source.read() for source in self.sources]
        if len({part.synthetic for part in parts}) > 1:
            raise InputError("sources: synthetic and real data must not be mixed in one store")
        every = [name for part in parts for name in part.label_columns]
        shared = {name for name in every if every.count(name) > 1}
        tables = []
        labels: list[str] = []
        for source, part in zip(self.sources, parts, strict=True):
            names = {name: f"{source.name}:{name}" for name in part.label_columns if name in shared}
            tables.append(part.images.rename(columns=names))
            labels += [names.get(name, name) for name in part.label_columns]
        images = _merge_images(pd.concat(tables, ignore_index=True))
        skipped = [entry for part in parts for entry in part.skipped]
        return Recording(
            images,
            labels,
            partial(_chain, parts, skipped),
            parts[0].synthetic,
            skipped,
            {
                f"{source.name}:{key}": value
                for source, part in zip(self.sources, parts, strict=True)
                for key, value in part.notes.items()
            },
            **{
                name: pd.concat([getattr(part, name) for part in parts], ignore_index=True)
                for name in ("regions", "phrases", "masks", "readings", "recordings")
            },
        )


def _chain(parts: list[Recording], skipped: list[tuple[str, str]]) -> Iterator[GazeTable]:
    for part in parts:
        before = len(part.skipped)
        yield from part.read_gaze()
        skipped += part.skipped[before:]


def _merge_images(table: pd.DataFrame) -> pd.DataFrame:
    """One row an image: the first value that is known, and the names of all its sources."""
    groups = table.groupby("image_id", sort=False)
    for column in ("patient_id", "height", "width"):
        apart = int((groups[column].nunique() > 1).sum())
        if apart:
            raise InputError(f"sources: {apart} images have another {column} in another source; are the ids the same?")
    unknown = ["study_id", "view"]
    table[unknown] = table[unknown].replace("", None)
    merged = groups.first().reset_index()
    merged[unknown] = merged[unknown].fillna("")
    merged["source"] = groups["source"].agg("+".join).to_numpy()
    return merged[table.columns]
