"""Schedules, learning rates by component, and the options that docs/training.md names."""

import re
import shlex
from pathlib import Path

import pandas as pd
import pytest
import timm
import torch
from timm.optim import param_groups_layer_decay

from gazelit.errors import InputError
from gazelit.models import ClassificationNetwork, DualEncoderUNet, EncoderSpec
from gazelit.stages import JointFinetuning, SupervisedFinetuning
from gazelit.stages.schedules import WarmupCosine
from tests.tiny import tiny

SMALL = EncoderSpec("res-se", options={"widths": [4, 4], "reduction": 4})
PAGE = (Path(__file__).resolve().parents[2] / "docs" / "training.md").read_text()
COMMANDS = [
    shlex.split(line)
    for block in re.findall(r"```sh\n(.*?)```", PAGE, re.S)
    for line in block.splitlines()
    if not line.startswith("#")
]


def network():
    return DualEncoderUNet(SMALL, EncoderSpec("res-se", options={"widths": [4], "reduction": 4}), [4])


@pytest.mark.parametrize(("epochs", "warmup", "final"), [(20, 0, 0.0), (20, 4, 0.1), (7, 1, 0.5)])
def test_the_schedule_is_torchs_linear_rise_and_cosine_in_one(epochs, warmup, final):
    def optimizer():
        return torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.4)

    ours = WarmupCosine(optimised := optimizer(), epochs, warmup, final)
    seen = []
    for _ in range(epochs):
        seen.append(ours.get_last_lr()[0])
        optimised.step()
        ours.step()
    reference = optimizer()
    cosine = torch.optim.lr_scheduler.CosineAnnealingLR(reference, epochs - warmup, eta_min=final * 0.4)
    expected = [0.4 * (epoch + 1) / warmup for epoch in range(warmup)]
    for _ in range(epochs - warmup):
        expected.append(cosine.get_last_lr()[0])
        reference.step()
        cosine.step()
    assert seen == pytest.approx(expected)
    assert ours.get_last_lr()[0] == pytest.approx(final * 0.4)


@pytest.mark.parametrize(("options", "message"), [((5, 5), "warmup"), ((5, -1), "warmup"), ((5, 0, 2.0), "final")])
def test_impossible_schedules(options, message):
    with pytest.raises(InputError, match=message):
        WarmupCosine(torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0), *options)


def test_every_trained_parameter_is_in_one_group_with_its_components_rate():
    stage = JointFinetuning(
        network(), frozen=["saliency_encoder"], learning_rates={"encoder": 1e-6, "classifier": 1e-2}
    )
    groups = stage.configure_optimizers().param_groups
    assert [group["lr"] for group in groups] == [1e-4, 1e-6, 1e-2, 1e-2]
    members = [{id(weight) for weight in group["params"]} for group in groups]
    assert members[1] == {id(weight) for weight in stage.network.encoder.parameters()}
    assert members[2] == {id(weight) for weight in stage.network.classifier.parameters()}
    trained = {id(parameter) for parameter in stage.parameters() if parameter.requires_grad}
    assert set.union(*members) == trained
    assert sum(map(len, members)) == len(trained)
    assert members[3] == {id(stage.weighting.log_sigma)}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"learning_rates": {"encodr": 1e-3}}, "learning_rates: no component encodr"),
        ({"learning_rates": {"encoder": -1e-3}}, "learning_rates: encoder must be at least 0"),
        ({"learning_rates": {"encoder": 1e-3}, "frozen": ["encoder"]}, "not of a frozen component"),
    ],
)
def test_wrong_learning_rates(options, message):
    with pytest.raises(InputError, match=message):
        JointFinetuning(network(), **options)


def test_a_component_with_rate_zero_stays_where_it_is(store, tmp_path):
    import lightning as L

    from gazelit.data.datamodule import GazeDataModule
    from gazelit.data.options import LoaderOptions

    # As large as the seed that torch draws if none is given.
    torch.manual_seed(2**63 + 12345)
    stage = JointFinetuning(network(), learning_rates={"encoder": 0.0})
    before = {key: value.clone() for key, value in stage.network.named_parameters()}
    run = L.Trainer(
        max_epochs=1, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False
    )
    run.fit(stage, GazeDataModule(str(store), loader=LoaderOptions(batch_size=6, num_workers=0)))
    for key, value in stage.network.named_parameters():
        assert torch.equal(value, before[key]) == key.startswith("encoder."), key


@pytest.mark.parametrize("command", COMMANDS, ids=[command[-1].split("=")[0] for command in COMMANDS])
def test_the_documented_commands_train(command, store, run_gazelit, tmp_path):
    if "--trainer.strategy=ddp" in command:
        pytest.skip("two processes are started by test_stages.py")
    name, *arguments = command[1:]
    short = ["--trainer.max_epochs=2", "--checkpoint.dirpath=run/checkpoints"]
    # Stage 1's network has one encoder, as that of scanpaths has.
    stage = 1 if re.search(r"stage1|scanpath", " ".join(arguments)) else 3
    small = [*tiny(stage, store), "--data.downscale=1", *short]
    # The command's own options come last, because tiny() would undo them.
    again = [argument for argument in arguments if "precision" in argument or "encoder=" in argument]
    run_gazelit(name, *arguments, *small, *again)
    epochs = pd.read_csv(tmp_path / "run" / "epochs.csv")
    assert len(epochs) == 2
    assert epochs["train/loss"].notna().all()


def test_the_documented_choice_among_fixed_weights_reads_every_seeds_best_epoch(tmp_path, monkeypatch, capsys):
    selections = {"joint": [3.0, 2.5], "joint_fixed_1_1": [2.0, 2.2], "joint_fixed_9_1": [2.6, 1.9]}
    for seed, shift in (("seed0", 0.0), ("seed1", 1.0)):
        for stage, values in selections.items():
            (tmp_path / "RUN" / seed / stage).mkdir(parents=True)
            table = {"val/selection": values, "val/auroc_macro": [0.5, 0.7], "val/cc": [0.1, 0.2]}
            curve = pd.DataFrame(table)
            curve["val/selection"] += shift
            curve.to_csv(tmp_path / "RUN" / seed / stage / "epochs.csv", index=False)
    monkeypatch.chdir(tmp_path)
    exec(re.search(r"```python\n(.*?)```", PAGE, re.S).group(1), {})
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert [row for row in rows if row[0].startswith("joint")] == [
        ["joint_fixed_9_1", "2.4", "0.7", "0.2"],
        ["joint_fixed_1_1", "2.5", "0.5", "0.1"],
        ["joint", "3.0", "0.7", "0.2"],
    ]


@pytest.mark.parametrize(("name", "size"), [("vit_tiny_patch16_224", 64), ("vit_large_patch14_clip_224", 56)])
def test_rates_fall_towards_the_input_by_the_decay(name, size):
    torch.manual_seed(0)
    options = {"embed_dim": 32, "depth": 3, "num_heads": 2, "img_size": size}
    network = ClassificationNetwork(EncoderSpec(f"tu-{name}", options=options))
    stage = SupervisedFinetuning(network, layer_decay={"encoder": 0.5})
    stage.make_optimizer = lambda groups: torch.optim.SGD(groups, lr=0.8)
    optimizer = stage.configure_optimizers()
    rate = {id(parameter): group["lr"] for group in optimizer.param_groups for parameter in group["params"]}
    assert all("lr_scale" not in group for group in optimizer.param_groups)
    assert len(rate) == len(list(stage.parameters()))
    # timm's own layers of the model with its head. Its last normalisation counts as BEiT has it: as the head.
    library = timm.create_model(name, num_classes=1, **options)
    names = {id(parameter): key for key, parameter in library.named_parameters() if not key.startswith("norm.")}
    expected = {}
    for group in param_groups_layer_decay(library, layer_decay=0.5):
        keys = [names[id(parameter)] for parameter in group["params"] if id(parameter) in names]
        expected |= {f"encoder.body.{key}": 0.8 * group["lr_scale"] for key in keys}
    # What timm does not have is new, as a head is.
    found = {key: rate[id(parameter)] for key, parameter in network.named_parameters()}
    assert found == pytest.approx({key: expected.get(key, 0.8) for key in found})
    assert found["encoder.body.pos_embed"] == pytest.approx(0.8 * 0.5**4)


def test_rates_of_layers_are_named_and_go_with_a_rate_of_their_component():
    with pytest.raises(InputError, match="layer_decay: encoder must be above 0 and at most 1"):
        SupervisedFinetuning(ClassificationNetwork(SMALL), layer_decay={"encoder": 1.5})
    both = SupervisedFinetuning(
        ClassificationNetwork(SMALL), layer_decay={"encoder": 0.5}, learning_rates={"encoder": 0.1}
    )
    both.make_optimizer = lambda groups: torch.optim.SGD(groups, lr=0.8)
    rates = {group["lr"] for group in both.configure_optimizers().param_groups}
    assert rates <= {0.8, *(0.1 * 0.5**depth for depth in range(10))}
    assert {0.8, 0.1, 0.05} <= rates
