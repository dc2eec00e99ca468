"""The share of the explainable information: the part of the predictable information on gaze that a model predicts.

The readers of a hard synthetic cohort follow a known law. So the best map of a film is known: the oracle's expected map
(:mod:`gazelit.synthetic.oracle`). Its information gain over the centre bias is the explainable information. A model's
share of it lies between the centre bias (0) and the oracle (1).
"""

from __future__ import annotations

import logging
import multiprocessing
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track
from torch import Tensor

from gazelit import __version__, processors
from gazelit.data.gaze_data import GazeData
from gazelit.data.store.store import Store
from gazelit.density import CentreBias
from gazelit.errors import InputError
from gazelit.evaluation.scores import ORACLE_GAIN, TARGET_GAIN, share_of
from gazelit.evaluation.statistics import Estimate, estimate, mean_of
from gazelit.evaluation.yardsticks import map_values
from gazelit.files import atomic_path, sha256_json
from gazelit.synthetic.case import ANALYTIC, film_size
from gazelit.synthetic.mixture import GazeMixture
from gazelit.synthetic.oracle import case_mixture
from gazelit.synthetic.tables import plan_of

logger = logging.getLogger("gazelit")

#: Number of simulated readings for a film's expected map; see :meth:`gazelit.synthetic.oracle.Oracle.mixture`.
READINGS = 200
#: Folder beside a run for the oracle of its films.
FOLDER = "oracle"
#: Prefix of the oracle's metrics in tables of predictions.
PREFIX = "oracle_"
#: Metrics against the target map, for which the oracle gives the expected target; the others are of fixations.
_OF_TARGETS = ("cc", "kld", "sim", "emd")
#: Number of films after which results are written, so that little is lost if the process ends.
_KEPT_EVERY = 200
#: Least number of films for which starting other processes saves time.
_WORTH_PROCESSES = 100
#: Arguments of :func:`gazelit.synthetic.oracle.case_mixture`.
Job = tuple[str, tuple[int, int], str | None, int]


@dataclass(frozen=True)
class OracleRecord:
    """The explainable information of the test films' gaze.

    Attributes:
        words: A sentence on how exact the oracle is.
        films: Number of test films with gaze.
        gain: Mean information gain of the oracle's maps over the centre bias (bits a fixation), over patients.
        target_gain: The same of the expected target maps, blurred and weighted as the targets of training.
        target_share: Their share of the explainable information.
    """

    words: str
    films: int
    gain: Estimate
    target_gain: Estimate
    target_share: Estimate


@dataclass(frozen=True)
class ReaderLaw:
    """The law of the readers of a store's films, for the oracle.

    Attributes:
        reader: ``reader_id`` of the only reader; any of the panel if None.
        words: A sentence on how exact the law is.
    """

    reader: str | None
    words: str


def law_of(store: Store) -> ReaderLaw | None:
    """The law of a store's readers; None unless all its films are of a hard synthetic cohort, and none of a CT."""
    if not store.about["synthetic"] or not all(map(_is_rebuilt, store.cases["image_id"])):
        return None
    by_source = {
        "egd-cxr": ("a", "splits fixations at blinks and adds glances off the film, which the law does not have"),
        "reflacx": (None, "gives coordinates in whole pixels, and its first films have more readings than others"),
    }
    source = str(store.about["source"])
    if source in by_source:
        reader, reason = by_source[source]
        return ReaderLaw(reader, f"The oracle is approximate: the tracker of `{source}` {reason}.")
    return ReaderLaw(None, "The oracle knows the exact law of these readings.")


def _is_rebuilt(image_id: str) -> bool:
    """Whether the oracle can rebuild a film from its id."""
    try:
        plan = plan_of(str(image_id), (1, 1))
    except InputError:
        return False
    return plan.difficulty == "hard" and plan.body == ANALYTIC


def why_not(data: GazeData) -> str | None:
    """The reason why the targets do not follow the law of whole readings; None if they do."""
    if data.gaze.kind != "fixation":
        return f"gaze.kind is {data.gaze.kind}, and the oracle predicts the published fixations"
    if data.gaze.window is not None:
        return "a window of each reading is the target, and the oracle predicts whole readings"
    return None


class Oracles:
    """The oracle's maps of test films, made once and kept beside a run.

    Args:
        folder: The run folder.
        workers: Processes that rebuild films; as many as cores unless given.
    """

    def __init__(self, folder: Path, workers: int | None = None) -> None:
        self.folder = folder / FOLDER
        self.workers = workers or processors.usable()
        self._tables: dict[str, pd.DataFrame] = {}

    def scores(self, data: GazeData) -> pd.DataFrame | None:
        """The oracle's saliency metrics of every test case, scored as a model is.

        CC, KLD, SIM and EMD are those of the expected target (fixations weighted and blurred as in the targets). NSS,
        AUCs and information gain are those of the expected density of fixations, each counted once, over the centre
        bias of the data.

        Args:
            data: The data, set up.

        Returns:
            ``index``, by metric ``oracle_<metric>``, and ``expected_target_ig``, the information gain of the expected
            target; None unless the store is of a hard synthetic cohort and its targets are of whole readings.
        """
        law = law_of(data.store)
        if law is None:
            return None
        reason = why_not(data)
        if reason is not None:
            logger.info("no share of the explainable information: %s", reason)
            return None
        key = sha256_json(data.provenance)
        if key not in self._tables:
            found = self.mixtures(data.store, data.rows("test").tolist(), law.reader)
            self._tables[key] = _scored(data, found)
        return self._tables[key]

    def joined(self, predictions: pd.DataFrame, data: GazeData) -> pd.DataFrame:
        """A table of predictions with the columns of :meth:`scores`, if there are any."""
        table = self.scores(data)
        if table is None:
            return predictions
        joined = predictions.merge(table, on="index", how="left", validate="1:1")
        # A merge drops the table's attributes: the metrics from outside the package.
        joined.attrs = predictions.attrs
        return joined

    def mixtures(self, store: Store, rows: Sequence[int], reader: str | None) -> dict[int, GazeMixture]:
        """By row of the store, the expected density of its fixations.

        Args:
            store: Of a hard synthetic cohort.
            rows: The cases.
            reader: See :class:`ReaderLaw`.
        """
        known = sha256_json([store.about["fingerprint"], reader, READINGS, __version__])
        path = self.folder / f"{known[:16]}.parquet"
        made = _kept(path, store)
        if made:
            # The law is code and may have changed: a recomputed film shows whether the kept films still follow it.
            probe = next(iter(made))
            if not _equal(made[probe], case_mixture(*_case(store, probe), reader, READINGS)):
                logger.info("%s: of another version of the simulated readers; made anew", path)
                made = {}
        missing = [row for row in rows if row not in made]
        if missing:
            logger.info("oracle: rebuilding %d films of the simulated cohort; kept in %s", len(missing), path)
            jobs = [(*_case(store, row), reader, READINGS) for row in missing]
            shown = track(self._made(jobs), "oracle", len(jobs), console=Console(stderr=True))
            for row, mixture in zip(missing, shown, strict=True):
                made[row] = mixture
                if len(made) % _KEPT_EVERY == 0:
                    _keep(path, made)
            _keep(path, made)
        return {row: made[row] for row in rows}

    def _made(self, jobs: Sequence[Job]) -> Iterator[GazeMixture]:
        workers = min(self.workers, len(jobs))
        if workers <= 1 or len(jobs) < _WORTH_PROCESSES:
            yield from (case_mixture(*job) for job in jobs)
            return
        # spawn: forking a process whose libraries run threads can deadlock.
        with ProcessPoolExecutor(
            workers, multiprocessing.get_context("spawn"), processors.opencv_in_one_thread
        ) as pool:
            yield from pool.map(case_mixture, *zip(*jobs, strict=True), chunksize=8)


def oracle_record(store: Store, predictions: pd.DataFrame) -> OracleRecord | None:
    """The explainable information of the test films, from predictions that :meth:`Oracles.joined` has joined."""
    law = law_of(store) if ORACLE_GAIN in predictions else None
    if law is None:
        return None
    gain, target = (predictions[name].to_numpy() for name in (ORACLE_GAIN, TARGET_GAIN))
    patients = predictions["patient"].to_numpy()
    means = estimate(mean_of(gain), patients), estimate(mean_of(target), patients)
    return OracleRecord(law.words, int(np.isfinite(gain).sum()), *means, estimate(share_of(target, gain), patients))


def oracle_yardsticks(predictions: pd.DataFrame) -> dict[str, float]:
    """``baseline/oracle/<metric>`` and ``baseline/expected_target/ig``, means over the cases; empty without them."""
    columns = [name for name in predictions if name.startswith(PREFIX)]
    known = {"baseline/expected_target/ig": float(predictions[TARGET_GAIN].mean())} if columns else {}
    return known | {f"baseline/oracle/{name.removeprefix(PREFIX)}": float(predictions[name].mean()) for name in columns}


def _case(store: Store, row: int) -> tuple[str, tuple[int, int]]:
    case = store.cases.iloc[row]
    return str(case["image_id"]), (int(case["height"]), int(case["width"]))


def _keep(path: Path, made: Mapping[int, GazeMixture]) -> None:
    """Writes mixtures as a table with a row for each target of each film."""
    parts = []
    for row, mixture in made.items():
        columns: dict[str, object] = {"row": row, "x": mixture.spots[:, 0], "y": mixture.spots[:, 1]}
        columns |= {"spread": mixture.spread}
        for column, reader in enumerate(mixture.readers):
            columns |= {
                f"fixations_{reader}": mixture.by_fixation[column],
                f"time_{reader}": mixture.by_duration[column],
            }
        parts.append(pd.DataFrame(columns))
    try:
        with atomic_path(path) as temporary:
            pd.concat(parts).to_parquet(temporary, index=False)
    except (OSError, InputError) as error:
        # If the run folder is read-only, the report is the same but takes as long the next time.
        logger.warning("%s: not kept (%s)", path, error)


def _kept(path: Path, store: Store) -> dict[int, GazeMixture]:
    """The mixtures that :func:`_keep` wrote; nothing if they are missing or unreadable."""
    if not path.is_file():
        return {}
    try:
        table = pd.read_parquet(path)
        readers = [int(name.removeprefix("time_")) for name in table if name.startswith("time_")]
        return {int(row): _mixture(part, store, int(row), readers) for row, part in table.groupby("row", sort=False)}
    except (OSError, ValueError, KeyError, IndexError) as error:
        logger.warning("%s: cannot be read (%s); made anew", path, " ".join(str(error).split())[:200])
        return {}


def _mixture(part: pd.DataFrame, store: Store, row: int, readers: Sequence[int]) -> GazeMixture:
    _, (height, width) = _case(store, row)
    tall, wide = film_size((width, height))
    shares = (part[[f"{kind}_{reader}" for reader in readers]].to_numpy().T for kind in ("fixations", "time"))
    return GazeMixture(part[["x", "y"]].to_numpy(), part["spread"].to_numpy(), (wide, tall), np.array(readers), *shares)


def _equal(kept: GazeMixture, fresh: GazeMixture) -> bool:
    shape = 16, 16
    pairs = (
        (kept.density(shape, weighted=weighted), fresh.density(shape, weighted=weighted)) for weighted in (True, False)
    )
    return len(kept.spots) == len(fresh.spots) and all(np.allclose(*pair, rtol=1e-6) for pair in pairs)


def _scored(data: GazeData, mixtures: Mapping[int, GazeMixture]) -> pd.DataFrame:
    """The metrics of the oracle's maps of the test cases."""

    def maps(batch: dict[str, Tensor], bias: CentreBias) -> dict[str, Tensor]:
        rows = batch["index"].tolist()
        targets = [target_map(data, mixtures[row], row) for row in rows]
        return {
            "target": torch.stack(targets),
            "fixations": torch.stack([fixation_map(data, mixtures[row], row) for row in rows]),
        }

    parts = []
    for index, values in map_values(data, maps):
        columns = {
            f"{PREFIX}{name}": values["target" if name in _OF_TARGETS else "fixations"][name].numpy()
            for name in values["target"]
        }
        columns[TARGET_GAIN] = values["target"]["ig"].numpy()
        parts.append(pd.DataFrame({"index": index.numpy(), **columns}))
    return pd.concat(parts, ignore_index=True)


def target_map(data: GazeData, mixture: GazeMixture, row: int) -> Tensor:
    """(H, W) the expected target of a case: weighted and blurred as the targets of the data are."""
    letterbox = data.store.letterboxes[row]
    readings = data.readings(row)
    if not readings:
        return fixation_map(data, mixture, row)
    # Working pixels to cm of film; both directions differ only by the rounding of the letterbox.
    size = np.array(letterbox.inner[::-1]) / data.downscale
    sigma = torch.cat([each for _, each in readings]).double().mean(0).numpy() / size * mixture.extent
    return _on_grid(data, mixture.on_canvas(letterbox, float(sigma.mean()), data.gaze.weight == "duration"))


def fixation_map(data: GazeData, mixture: GazeMixture, row: int) -> Tensor:
    """(H, W) the expected density of a case's fixations, each counted once, as the information gain counts them."""
    return _on_grid(data, mixture.on_canvas(data.store.letterboxes[row], weighted=False))


def _on_grid(data: GazeData, canvas: NDArray[np.float64]) -> Tensor:
    step = data.downscale
    height, width = data.size
    cells = canvas.reshape(height, step, width, step).sum(axis=(1, 3))
    # As for a model's map: a Gaussian is never zero, but in float32 it can be, and a KLD would be infinite.
    return torch.from_numpy(cells).float().clamp(min=torch.finfo(torch.float32).tiny)
