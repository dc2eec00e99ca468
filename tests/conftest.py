"""Fixtures that several folders of tests share."""

import logging
import os
import runpy
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

# In CI the examples are the same each time, so that a merge does not depend on a draw. A failure found by a draw
# becomes a test.
settings.register_profile("repeatable", derandomize=True)
if os.environ.get("CI"):
    settings.load_profile("repeatable")


def pytest_configure(config: pytest.Config) -> None:
    """Ignores the warnings that gazelit keeps from the console; each has its reason there."""
    from gazelit.cli.console import HARMLESS

    for message in HARMLESS:
        config.addinivalue_line("filterwarnings", f"ignore:{message}")


#: Files whose tests take longest: begun last, a single one would be waited for.
_LONG = (
    "test_pipeline", "test_setup", "test_combinations", "test_configs", "test_stages", "test_processes",
    "test_checkpointing", "test_training_options", "test_reading_room", "test_from_maps_page", "test_newcomer",
    "test_privacy", "test_scanpath_stage", "test_soak", "test_checkpoint_options", "test_reference", "test_export",
    "test_store", "test_trust", "test_browser", "test_wandb_goes_away",
)  # fmt: skip


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Puts the tests of the longest files first, for workers that share the tests."""
    rank = {name: number for number, name in enumerate(_LONG)}
    items.sort(key=lambda item: rank.get(item.path.stem, len(_LONG)))


_GUARD = Path(__file__).parent / "network_guard"


@pytest.fixture(scope="session", autouse=True)
def connections(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file that records attempts, by this process and those it starts, to reach another machine; they fail."""
    log = tmp_path_factory.mktemp("connections") / "attempts.txt"
    log.touch()
    os.environ["GAZELIT_TEST_CONNECTIONS"] = str(log)
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (str(_GUARD), os.environ.get("PYTHONPATH"))))
    # An audit hook stays for the life of a process.
    runpy.run_path(str(_GUARD / "sitecustomize.py"))
    return log


@pytest.fixture(autouse=True)
def nothing_is_reached_unasked(connections: Path) -> Iterator[None]:
    """Fails a test that tried to reach another machine."""
    yield
    attempts = connections.read_text()
    connections.write_text("")
    assert not attempts, f"tried to reach other machines:\n{attempts}"


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of openly licensed real inputs beside the checkout; without it, tests that need it are skipped."""
    folder = Path(__file__).resolve().parents[2] / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("the real inputs (shared/data beside the checkout) are not at hand")
    return folder


@pytest.fixture(scope="session")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small synthetic cohort: ``egd-cxr`` beside ``mimic-cxr``."""
    from gazelit.synthetic.cohort import write_cohort

    out = tmp_path_factory.mktemp("cohort") / "cohort"
    write_cohort(out, cases=24, seed=3, max_side=191, workers=1)
    return out


def _tree(tmp_path_factory: pytest.TempPathFactory, name: str, cases: int) -> Path:
    from gazelit.synthetic.cohort import write_cohort

    out = tmp_path_factory.mktemp(name) / "cohort"
    write_cohort(out, cases=cases, format=name, seed=5, max_side=128, workers=1)
    return out


@pytest.fixture(scope="session")
def reflacx(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small cohort of 16 films as ``reflacx`` beside ``mimic-cxr``; two films in phase 1 and two in phase 2."""
    return _tree(tmp_path_factory, "reflacx", 16)


@pytest.fixture(scope="session")
def mimic(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small cohort of 30 films as ``mimic-cxr-jpg``."""
    return _tree(tmp_path_factory, "mimic-cxr-jpg", 30)


@pytest.fixture(scope="session")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small cohort of 12 films as ``manifest``: ``images.csv`` and ``gaze.csv``."""
    return _tree(tmp_path_factory, "manifest", 12) / "manifest"


@pytest.fixture(scope="session")
def store(cohort: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small cohort as a prepared store at 64 × 64."""
    from gazelit.data.sources import EGDCXR
    from gazelit.data.store.prepare import prepare

    out = tmp_path_factory.mktemp("store") / "store"
    prepare(EGDCXR(cohort / "egd-cxr", cohort / "mimic-cxr"), out, size=(64, 64), workers=1)
    return out


@pytest.fixture(scope="session")
def read_twice(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A hard cohort of 24 films as a prepared store at 64 × 64; two readers of a panel of eight have read each film."""
    from gazelit.data.sources import Manifest
    from gazelit.data.store.prepare import prepare
    from gazelit.synthetic.cohort import write_cohort

    folder = tmp_path_factory.mktemp("read_twice")
    options = {"format": "manifest", "difficulty": "hard", "readers": 2, "seed": 5, "max_side": 128, "workers": 1}
    write_cohort(folder / "cohort", cases=24, **options)
    tables = (str(folder / "cohort" / "manifest" / f"{name}.csv") for name in ("images", "gaze"))
    source = Manifest(*tables, labels=["Normal", "CHF", "pneumonia"], coordinates="normalised")
    return prepare(source, folder / "store", size=(64, 64), workers=1).path


@pytest.fixture(autouse=True)
def logger_without_handlers() -> None:
    """Removes the handlers that the command line gave gazelit's logger, so that a test can see its messages.

    This happens before each test, not after it, because fixtures of a module or the session run commands too.
    """
    logger = logging.getLogger("gazelit")
    logger.handlers, logger.propagate = [], True
    logger.setLevel(logging.NOTSET)


@pytest.fixture
def wandb_offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Keeps W&B in the test's folder; its service outlives a run and would stay in the folder of an earlier test."""
    import wandb

    wandb.teardown()
    for name in [name for name in os.environ if name.startswith("WANDB")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    monkeypatch.setenv("WANDB_CONFIG_DIR", str(tmp_path))
    monkeypatch.setenv("WANDB_CACHE_DIR", str(tmp_path))
    yield
    wandb.teardown()


@pytest.fixture(scope="session")
def lightning_imported() -> None:
    """Imports Lightning before the test: imported within it, Lightning would write to the stream that pytest closes."""
    import lightning  # noqa: F401


@pytest.fixture
def steps_here(monkeypatch: pytest.MonkeyPatch, lightning_imported: None) -> None:
    """Runs the steps of pipelines in this process."""
    from tests.steps_here import popen

    monkeypatch.setattr("subprocess.Popen", popen)


@pytest.fixture
def run_gazelit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lightning_imported: None, capfd: pytest.CaptureFixture[str]
):
    """A function that runs the command line in this process, in a folder of its own, and returns standard error."""
    from gazelit.cli.main import main

    monkeypatch.chdir(tmp_path)

    def run(*arguments: str, code: int = 0) -> str:
        monkeypatch.setattr("sys.argv", ["gazelit"])
        capfd.readouterr()
        try:
            status = main(list(arguments))
        except SystemExit as exit_:
            status = exit_.code
        captured = capfd.readouterr()
        assert status == code, captured.out + captured.err
        return captured.err

    return run
