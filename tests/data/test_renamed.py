"""Options of the data module by the flat names they had: one line that names the new ones."""

import json

import numpy as np
import pytest
from jsonargparse import ArgumentParser

from gazelit.data.datamodule import GazeDataModule
from gazelit.data.options import AugmentationOptions, GazeOptions, LoaderOptions, SplitOptions
from gazelit.data.renamed import RENAMED, check_arguments, check_config
from gazelit.errors import InputError

#: The arguments of the data module of 0.1.0.dev, which checkpoints' configurations of that time hold.
FLAT = tuple(
    "store labels exclusive uncertain batch_size num_workers downscale augment views sampling gaze_kind weight sigma "  # noqa: SIM905
    "sigma_unit readings window detection gaze_control gaze_cases train_cases split_method trained_on split_file "
    "split_seed val_fraction test_fraction folds fold stratify allow_empty predict_split seed".split()
)


def test_every_option_of_old_has_a_place_and_none_is_taken_twice():
    parser = ArgumentParser()
    parser.add_class_arguments(GazeDataModule, "data")
    now = set(parser.get_defaults().keys())
    moved = [f"data.{RENAMED.get(name, name)}" for name in FLAT]
    assert len(set(moved)) == len(FLAT)
    assert not [name for name in moved if name not in now and not any(key.startswith(f"{name}.") for key in now)]


def test_flat_options_are_refused_with_their_new_names(run_gazelit, tmp_path, store):
    printed = run_gazelit("fit", "--config=stage2.yaml", "--data.sigma=2", "--data.split_seed", "3", code=2)
    assert "the command line: data.sigma is now data.gaze.sigma, data.split_seed is now data.split.seed" in printed
    (tmp_path / "old.yaml").write_text(json.dumps({"data": {"init_args": {"batch_size": 2, "seed": 1}}}))
    printed = run_gazelit("fit", "--config=stage2.yaml", "--config=old.yaml", code=2)
    assert "old.yaml: data.batch_size is now data.loader.batch_size" in printed
    assert "data.seed" not in printed
    pipeline = {"stages": [{"name": "s", "config": "stage2.yaml", "overrides": ["--data.gaze_cases=2"]}]}
    (tmp_path / "run.yaml").write_text(json.dumps(pipeline))
    printed = run_gazelit("run", "run.yaml", f"--store={store}", "--out=run", code=2)
    assert "stages: 's', overrides: data.gaze_cases is now data.gaze.cases" in printed
    assert not (tmp_path / "run").exists()


def test_a_saved_configuration_from_before_is_one_line():
    with pytest.raises(InputError) as error:
        check_config({"data": {"init_args": dict.fromkeys(FLAT)}}, "run/config.yaml")
    assert str(error.value).startswith("run/config.yaml: data.batch_size is now data.loader.batch_size, ")
    assert f"{len(RENAMED) - 4} more" in str(error.value)


def test_other_data_modules_may_have_options_of_these_names():
    check_arguments(["--data=mine.Films", "--data.batch_size=2"])
    check_config({"data": {"class_path": "mine.Films", "init_args": {"batch_size": 2}}}, "mine.yaml")
    check_arguments(["--data.init_args.gaze.sigma=2", "--data.seed=1", "--database=1"])


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: GazeOptions(sigma=0), "gaze.sigma: must be above 0, not 0"),
        (lambda: SplitOptions(train_cases=0), "split.train_cases: must be at least 1, not 0"),
        (lambda: SplitOptions(trained_on="store"), "split.trained_on: goes with split.method external"),
        (lambda: LoaderOptions(batch_size=0), "loader.batch_size: must be at least 1, not 0"),
        (lambda: LoaderOptions(num_workers=-1), "loader.num_workers: must be at least 0, not -1"),
        (lambda: AugmentationOptions(shift=1), "augmentation.shift: must be at least 0 and below 1, not 1"),
        (lambda: AugmentationOptions(rotation=200), "augmentation.rotation: must be 0 to 180 degrees, not 200"),
    ],
)
def test_a_group_refuses_what_is_out_of_range(build, message):
    with pytest.raises(InputError) as error:
        build()
    assert str(error.value).startswith(message)


def test_augmentation_is_as_strong_as_it_is_told(store):
    def images(**options):
        data = GazeDataModule(str(store), augmentation=AugmentationOptions(**options))
        dataset = data.datasets["train"]
        return np.stack([dataset[0, place]["image"].numpy().astype(float) for place in range(len(dataset))])

    exposure, geometry = {"contrast": 0, "gamma": 0}, {"shift": 0, "scale": 0, "rotation": 0}
    plain = images(enabled=False)
    changes = {
        name: np.abs(images(**options) - plain).mean()
        for name, options in {"none": exposure | geometry, "moved": exposure, "exposed": geometry, "both": {}}.items()
    }
    assert changes["none"] < 0.5
    assert min(changes["moved"], changes["exposed"], changes["both"]) > 2
    assert images(**exposure, shift=0.3, scale=0, rotation=0).astype(bool).mean() < plain.astype(bool).mean() - 0.05
