"""A training's console has no adverts and no useless warnings; other warnings stay."""

import contextlib
import io
import warnings

import pytest

from gazelit.cli.console import HARMLESS, quiet_console
from tests.tiny import tiny


@pytest.fixture
def restored():
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        yield seen


def test_warnings_that_are_known_are_left_out_and_others_are_not(restored):
    quiet_console()
    warnings.warn("`isinstance(treespec, LeafSpec)` is deprecated, use another", stacklevel=1)
    warnings.warn("\n  skip_none parameter was deprecated in v4.49.0", stacklevel=1)
    warnings.warn("Found 167 module(s) in eval mode at the start of training.", stacklevel=1)
    warnings.warn("The number of training batches (7) is smaller than the logging interval Trainer", stacklevel=1)
    warnings.warn("Checkpoint directory /x/checkpoints exists and is not empty.", stacklevel=1)
    warnings.warn("loss became strange", stacklevel=1)
    assert [str(warning.message) for warning in restored] == ["loss became strange"]
    assert all(HARMLESS.values())


def test_a_fit_prints_its_components_and_no_advert(restored, run_gazelit, store, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    options = [*tiny(2, store), "--trainer.max_epochs=1", "--trainer.enable_progress_bar=true"]
    with contextlib.redirect_stdout(io.StringIO()) as bar:
        printed = run_gazelit("fit", "--config=presets/quick/stage2.yaml", *options)
    assert "Epoch 0/0" in bar.getvalue()
    assert "val/selection" in bar.getvalue()
    assert "v_num" not in bar.getvalue()
    assert "max_epochs" not in printed
    assert "litlogger" not in printed.lower()
    assert "TPU" not in printed
    assert "DualEncoderUNet of " in printed
    for component in ("encoder", "saliency_encoder", "decoder", "saliency_head"):
        assert f"{component} " in printed
    assert "Modules in train mode" not in printed
