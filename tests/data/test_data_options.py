"""The data module's options in groups: what is out of range, and augmentation as strong as configured."""

import numpy as np
import pytest

from gazelit.data.datamodule import GazeDataModule
from gazelit.data.options import AugmentationOptions, GazeOptions, LoaderOptions, SplitOptions
from gazelit.errors import InputError


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
def test_a_group_refuses_values_out_of_range(build, message):
    with pytest.raises(InputError) as error:
        build()
    assert str(error.value).startswith(message)


def test_augmentation_is_as_strong_as_configured(store):
    def images(**options):
        data = GazeDataModule(str(store), augmentation=AugmentationOptions(**options))
        dataset = data.datasets["train"]
        return np.stack([dataset[0, position]["image"].numpy().astype(float) for position in range(len(dataset))])

    exposure, geometry = {"contrast": 0, "gamma": 0}, {"shift": 0, "scale": 0, "rotation": 0}
    plain = images(enabled=False)
    changes = {
        name: np.abs(images(**options) - plain).mean()
        for name, options in {"none": exposure | geometry, "moved": exposure, "exposed": geometry, "both": {}}.items()
    }
    assert changes["none"] < 0.5
    assert min(changes["moved"], changes["exposed"], changes["both"]) > 2
    assert images(**exposure, shift=0.3, scale=0, rotation=0).astype(bool).mean() < plain.astype(bool).mean() - 0.05
