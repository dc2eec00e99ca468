"""A training in which a frozen encoder reads each film once equals the plain training."""

import pytest
import torch

from gazelit.errors import InputError
from gazelit.models import DualEncoderUNet, EncoderSpec
from gazelit.models.execution import Execution
from gazelit.stages import SaliencyWarmup
from tests.tiny import grouped

SMALL = EncoderSpec("res-se", options={"widths": [4, 4], "reduction": 4})


def stage(cached, classes=None, **options):
    torch.manual_seed(0)
    saliency = EncoderSpec("res-se", options={"widths": [4], "reduction": 4})
    network = DualEncoderUNet(SMALL, saliency, [4], classes=classes)
    return SaliencyWarmup(network, cache_features=cached, **options)


def fit(module, store, precision="32-true", **data):
    import lightning as L

    from gazelit.data.datamodule import GazeDataModule

    films = []
    first = module.network.encoder.levels[0]
    first.register_forward_hook(lambda _, inputs, __: films.append(len(inputs[0])))
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    quiet["enable_model_summary"] = False
    run = L.Trainer(max_epochs=3, accelerator="cpu", precision=precision, num_sanity_val_steps=0, **quiet)
    run.fit(module, GazeDataModule(str(store), **grouped(batch_size=6, num_workers=0, augment=False) | data))
    return sum(films)


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_weights_equal_those_with_features_computed_again(precision, store, lightning_imported):
    again, once = stage(False), stage(True)
    seen = fit(again, store, precision), fit(once, store, precision)
    # Films of a last batch that an epoch leaves out come in a later epoch, where their whole batch is computed.
    assert seen[1] < 0.7 * seen[0]
    kept, computed = once.network.state_dict(), again.network.state_dict()
    assert all(torch.equal(kept[key], computed[key]) for key in computed)
    # After the training, features are computed with the present weights.
    image = torch.rand(2, 1, 64, 64)
    with torch.no_grad():
        assert torch.equal(once.eval()(image)["saliency_logits"], again.eval()(image)["saliency_logits"])


def test_features_that_change_are_not_kept(store, lightning_imported):
    with pytest.raises(InputError, match="cache_features: needs a frozen encoder beside a saliency encoder"):
        stage(True, frozen=[])
    with pytest.raises(
        InputError, match=r"cache_features: a classifier would see .* set --model\.network\.classes=null"
    ):
        stage(True, classes=3)
    with pytest.raises(InputError, match=r"images are augmented; set --data\.augmentation\.enabled=false"):
        fit(stage(True), store, **grouped(augment=True))
    with pytest.raises(InputError, match=r"leave it out of execution\.compile"):
        fit(stage(True, execution=Execution(compile=["encoder"])), store)
