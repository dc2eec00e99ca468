"""The checkpoints that a training leaves, for every kind of end and every course of its criterion."""

import itertools
import multiprocessing
import os
import resource
import shutil
import signal
import time

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import EMAWeightAveraging

from gazelit.data.datamodule import GazeDataModule
from gazelit.data.options import AugmentationOptions, LoaderOptions
from gazelit.errors import InputError
from gazelit.losses import DynamicWeightAverage
from gazelit.models import ContrastiveNetwork, DualEncoderUNet, EncoderSpec
from gazelit.stages import ContrastivePretraining, JointFinetuning
from gazelit.stages.checkpoint_io import AtomicCheckpointIO
from gazelit.stages.checkpointing import EarlyEnd, StageCheckpoint
from tests.clock import date_ahead

ENCODER = EncoderSpec("densenet-small")
STAGES = {
    "contrastive": lambda: ContrastivePretraining(ContrastiveNetwork(ENCODER)),
    "joint": lambda: JointFinetuning(
        DualEncoderUNet(
            ENCODER, EncoderSpec("res-se", options={"widths": [4, 4, 8, 8, 8], "reduction": 4}), [8, 8, 8, 4, 4]
        )
    ),
}


class Ends(L.Callback):
    """A callback that ends the training in mid-epoch, as a kill would."""

    def __init__(self, epoch, batch=1):
        self.at = epoch, batch

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if (trainer.current_epoch, batch_idx) == self.at:
            raise RuntimeError("killed")


def fit(store, folder, make=STAGES["joint"], epochs=3, callbacks=(), resume=None, **options):
    L.seed_everything(5)
    stage = make()
    checkpoint = StageCheckpoint(
        dirpath=folder / "checkpoints", filename="best", monitor="val/selection", auto_insert_metric_name=False,
        enable_version_counter=False,
    )  # fmt: skip
    run = L.Trainer(
        max_epochs=epochs, accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False,
        deterministic=True, plugins=[AtomicCheckpointIO()], callbacks=[*callbacks, checkpoint], **options,
    )  # fmt: skip
    run.fit(stage, GazeDataModule(str(store), loader=LoaderOptions(batch_size=6, num_workers=0)), ckpt_path=resume)
    return stage


@pytest.mark.parametrize("name", STAGES)
def test_finding_g3_last_is_the_last_epoch_and_a_killed_run_ends_in_the_same_bytes(name, store, tmp_path, monkeypatch):
    def make():
        stage = STAGES[name]()
        plain = stage._with_selection
        # The criterion only gets worse, so Lightning's own save_last would stay at epoch 0.
        stage._with_selection = lambda means: {**plain(means), "selection": torch.tensor(float(stage.current_epoch))}
        return stage

    fit(store, tmp_path / "run", make)
    checkpoints = tmp_path / "run" / "checkpoints"
    assert {path.name for path in checkpoints.iterdir()} == {"best.ckpt", "last.ckpt"}
    loaded = {path.stem: torch.load(path, weights_only=True) for path in checkpoints.iterdir()}
    assert loaded["best"]["epoch"] == 0
    assert loaded["last"]["epoch"] == 2
    shutil.move(tmp_path / "run", tmp_path / "undisturbed")
    # Nothing depends on the clock: it is set back by an hour between the runs, and by a minute whenever it is read.
    looked = itertools.count(time.time(), -60)
    monkeypatch.setattr(time, "time", lambda: next(looked))
    with pytest.raises(RuntimeError, match="killed"):
        fit(store, tmp_path / "run", make, callbacks=[Ends(epoch=2)])
    date_ahead(tmp_path / "run")
    assert torch.load(checkpoints / "last.ckpt", weights_only=True)["epoch"] == 1
    fit(store, tmp_path / "run", make, resume=checkpoints / "last.ckpt")
    for file in ("best.ckpt", "last.ckpt"):
        assert (checkpoints / file).read_bytes() == (tmp_path / "undisturbed" / "checkpoints" / file).read_bytes(), file


@pytest.mark.parametrize(("name", "killed", "left"), [("plain", (1, 3), 6), ("often validated", (1, 2), 6)])
def test_a_kill_loses_the_steps_since_the_last_saved_step(name, killed, left, store, tmp_path, undisturbed):
    """A validation that is due between two steps is neither repeated nor left out."""
    finished = undisturbed(name)
    run = tmp_path / "run"
    with pytest.raises(RuntimeError, match="killed"):
        preempted(store, run, callbacks=[Ends(*killed)], every=2, **OPTIONS[name])
    last = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)
    assert last["global_step"] == left
    assert "unfinished_epoch" in last
    preempted(store, run, resume=run / "checkpoints" / "last.ckpt", every=2, **OPTIONS[name])
    for file in ("best.ckpt", "last.ckpt"):
        assert (run / "checkpoints" / file).read_bytes() == (finished / "checkpoints" / file).read_bytes(), file
    assert (run / "seen.txt").read_text() == (finished / "seen.txt").read_text()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"every_n_train_steps": 0}, "must be at least 1, not 0"),
        ({"every_n_train_steps": 5, "save_last": False}, "needs checkpoint.save_last"),
        ({"every_n_train_steps": 5, "save_weights_only": True}, "excludes checkpoint.save_weights_only"),
    ],
)
def test_steps_after_which_nothing_would_be_saved_are_refused(options, message):
    with pytest.raises(InputError, match=f"^checkpoint.every_n_train_steps: .*{message}"):
        StageCheckpoint(**options)


def test_finding_c6_batches_of_one_step_draw_different_random_numbers(store, tmp_path):
    drawn = []

    def make():
        stage = STAGES["joint"]()
        stage.network.register_forward_hook(
            lambda module, *_: drawn.append(torch.rand(()).item()) if module.training else None
        )
        return stage

    fit(store, tmp_path, make, epochs=2, accumulate_grad_batches=2)
    assert len(drawn) >= 4
    assert len(set(drawn)) == len(drawn)


def test_finding_g9_a_save_that_fails_names_the_checkpoint_and_keeps_the_old_one(tmp_path, monkeypatch):
    path = tmp_path / "best.ckpt"
    monkeypatch.setenv("TMPDIR", str(tmp_path / "missing"))
    AtomicCheckpointIO().save_checkpoint({"weights": torch.zeros(4)}, path)
    before = path.read_bytes()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        with pytest.raises(InputError, match=rf"^{path}: cannot be written \(File too large\)"):
            AtomicCheckpointIO().save_checkpoint({"weights": torch.zeros(100_000)}, path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_finding_g9_a_checkpoint_is_on_the_disk_before_it_takes_its_name(tmp_path, monkeypatch):
    order = []
    monkeypatch.setattr("os.fsync", lambda handle: order.append("fsync"))
    replace = type(tmp_path).replace
    monkeypatch.setattr(type(tmp_path), "replace", lambda self, to: order.append("replace") or replace(self, to))
    AtomicCheckpointIO().save_checkpoint({}, tmp_path / "best.ckpt")
    assert order[:2] == ["fsync", "replace"]


class Terminates(L.Callback):
    """A callback that sends this process SIGTERM, as a batch system does, or SIGINT, as a terminal does."""

    def __init__(self, epoch, batch, hook="on_train_batch_start", number=signal.SIGTERM):
        self.at = epoch, batch
        self.hook = hook
        self.number = number

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        self._kill("on_train_batch_start", trainer, batch_idx)

    def on_validation_batch_start(self, trainer, pl_module, batch, batch_idx, dataloader_idx=0):
        if not trainer.sanity_checking:
            self._kill("on_validation_batch_start", trainer, batch_idx)

    def _kill(self, hook, trainer, batch_idx):
        if hook == self.hook and (trainer.current_epoch, batch_idx) == self.at:
            # The signal goes to all processes, those of loaders first.
            for process in (*multiprocessing.active_children(), multiprocessing.current_process()):
                os.kill(process.pid, self.number)
            if self.number == signal.SIGINT:
                # A second signal ends it at once.
                assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
            time.sleep(0.2 * (len(multiprocessing.active_children()) > 0))


OPTIONS = {
    "plain": {},
    "workers": {"loader": {"num_workers": 2}},
    "accumulated": {"accumulate_grad_batches": 2},
    "plateau": {"schedule": lambda optimizer: torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, patience=0)},
    "cosine": {"schedule": lambda optimizer: torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=3)},
    "often validated": {"val_check_interval": 0.5},
    "averaged": {"averages": 0.5},
}


@pytest.mark.parametrize(
    ("name", "moment"),
    [
        ("plain", (0, 0, "on_train_batch_start")),
        ("plain", (1, 3, "on_train_batch_start")),
        ("plain", (1, 0, "on_validation_batch_start")),
        ("plateau", (0, 0, "on_validation_batch_start")),
        ("averaged", (1, 0, "on_validation_batch_start")),
        ("often validated", (1, 0, "on_validation_batch_start")),
        ("workers", (1, 1, "on_train_batch_start")),
        # Lightning alone would give the workers the order of epoch 0 again.
        ("workers", (0, 3, "on_train_batch_start")),
        ("accumulated", (1, 0, "on_train_batch_start")),
        ("plateau", (1, 1, "on_train_batch_start")),
        ("cosine", (1, 1, "on_train_batch_start")),
        ("often validated", (1, 1, "on_train_batch_start")),
    ],
)
def test_sigterm_saves_the_next_step_and_a_resumed_run_ends_in_the_same_bytes(
    name, moment, store, tmp_path, undisturbed
):
    options = dict(OPTIONS[name])
    finished = undisturbed(name)
    run = tmp_path / "run"
    epoch, batch, hook = moment
    with pytest.raises(SystemExit) as ended:
        preempted(store, run, callbacks=[EarlyEnd(), Terminates(epoch, batch, hook)], **options)
    assert ended.value.code == 143
    last = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)
    batches = 4
    in_validation = hook == "on_validation_batch_start" or batch == batches - 1 or name == "often validated"
    assert last["unfinished_epoch"].get("in_validation", False) is in_validation
    each = batches // options.get("accumulate_grad_batches", 1)
    step = {"accumulated": 1, "often validated": 2}.get(name, each if in_validation else batch + 1)
    assert last["global_step"] == each * epoch + step
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    preempted(store, run, callbacks=[EarlyEnd()], resume=run / "checkpoints" / "last.ckpt", **options)
    for file in ("best.ckpt", "last.ckpt"):
        assert (run / "checkpoints" / file).read_bytes() == (finished / "checkpoints" / file).read_bytes(), file
    assert (run / "seen.txt").read_text() == (finished / "seen.txt").read_text()


@pytest.mark.parametrize("name", ["plateau"])
def test_a_schedule_that_follows_a_metric_knows_of_the_epoch_after_a_kill(name, store, tmp_path, undisturbed):
    """Lightning steps such a schedule when the epoch's checkpoint is written."""
    finished = undisturbed(name)
    run = tmp_path / "run"
    with pytest.raises(RuntimeError, match="killed"):
        preempted(store, run, callbacks=[Ends(1, 0)], **OPTIONS[name])
    stage = preempted(store, run, resume=run / "checkpoints" / "last.ckpt", **OPTIONS[name])
    assert stage.lr_schedulers().last_epoch == 3
    for file in ("best.ckpt", "last.ckpt"):
        assert (run / "checkpoints" / file).read_bytes() == (finished / "checkpoints" / file).read_bytes(), file


def test_ctrl_c_saves_the_step_and_a_resumed_run_ends_in_the_same_bytes(store, tmp_path, undisturbed):
    finished = undisturbed("plain")
    run = tmp_path / "run"
    handler = signal.signal(signal.SIGINT, signal.default_int_handler)
    early_end = EarlyEnd()
    try:
        with pytest.raises(SystemExit) as ended:
            preempted(store, run, callbacks=[early_end, Terminates(1, 1, number=signal.SIGINT)])
    finally:
        # Lightning ignores further signals in a process that it takes to be ending.
        signal.signal(signal.SIGINT, handler)
    assert isinstance(ended.value.__context__, KeyboardInterrupt)
    assert early_end.left == "last.ckpt is of step 6"
    preempted(store, run, callbacks=[EarlyEnd()], resume=run / "checkpoints" / "last.ckpt")
    for file in ("best.ckpt", "last.ckpt"):
        assert (run / "checkpoints" / file).read_bytes() == (finished / "checkpoints" / file).read_bytes(), file


@pytest.fixture(scope="module")
def undisturbed(store, tmp_path_factory):
    """Trainings without interruption, each run once and kept under the path that checkpoints hold."""
    done = {}

    def find(name):
        if name not in done:
            folder = tmp_path_factory.mktemp("undisturbed")
            preempted(store, folder / "run", callbacks=[EarlyEnd()], **OPTIONS[name])
            done[name] = folder / "run"
        return done[name]

    return find


class Sees(L.Callback):
    """A callback that notes the logged values of every epoch, to the last bit."""

    def __init__(self, path):
        self.path = path

    def on_train_epoch_end(self, trainer, pl_module):
        values = sorted((name, float(value)) for name, value in trainer.callback_metrics.items())
        old = self.path.read_text() if self.path.is_file() else ""
        self.path.write_text(f"{old}{trainer.current_epoch} {trainer.global_step} {values!r}\n")


def preempted(
    store, folder, callbacks=(), resume=None, schedule=None, loader=None, every=None, averages=None, **options
):
    """A training of 3 epochs of 4 batches with dropout, augmentation and a weighting that has a state."""
    folder.mkdir(exist_ok=True)
    L.seed_everything(5)
    # Callbacks of a configuration come first, as on the command line.
    configured = [] if averages is None else [EMAWeightAveraging(decay=averages)]
    network = DualEncoderUNet(
        EncoderSpec("densenet-small", options={"growth_rate": 4, "blocks": [1, 1, 1, 1], "stem": 4}),
        EncoderSpec("res-se", options={"widths": [2, 2, 4, 4, 4], "reduction": 2}), [4, 4, 4, 4, 4], dropout=0.3,
    )  # fmt: skip
    stage = JointFinetuning(network, weighting=DynamicWeightAverage(), lr_scheduler=schedule)
    # The path is in the checkpoint, so that it is the same for all.
    here = os.getcwd()
    os.chdir(folder)
    try:
        checkpoint = StageCheckpoint(
            dirpath="checkpoints", filename="best", monitor="val/selection", auto_insert_metric_name=False,
            enable_version_counter=False, every_n_train_steps=every,
        )  # fmt: skip
        checkpoint.dirpath = "checkpoints"
        run = L.Trainer(
            max_epochs=3, accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False,
            deterministic=True, plugins=[AtomicCheckpointIO()],
            callbacks=[*configured, *callbacks, Sees(folder / "seen.txt"), checkpoint], **options,
        )  # fmt: skip
        data = GazeDataModule(
            str(store), loader=LoaderOptions(batch_size=4, **{"num_workers": 0, **(loader or {})}),
            augmentation=AugmentationOptions(enabled=True),
        )  # fmt: skip
        run.fit(stage, data, ckpt_path=resume)
    finally:
        os.chdir(here)
    return stage
