"""Importing the reference implementation's checkpoints, against its network written out by its names."""

import pytest
import torch
from torch.nn import functional as F
from torchvision.models import densenet201

from gazelit.errors import InputError
from gazelit.lineage import STAMP_KEY
from gazelit.models.reference import import_reference, load_reference

WIDTHS = {1: 64, 2: 128, 3: 256, 4: 512, 5: 1024}
STEPS = {5: (1920, 512), 4: (512, 256), 3: (256, 128), 2: (128, 64), 1: (64, 64)}


def reference_state(seed=0, classifier=True, saliency=True):
    """A state dict with the reference's names and shapes, and random but tame values."""
    generator = torch.Generator().manual_seed(seed)
    state = {f"model.{key}": value for key, value in densenet201().state_dict().items()}

    def conv(name, inside, outside, size=3):
        scale = (2 / (inside * size * size)) ** 0.5
        state[f"{name}.weight"] = scale * torch.randn(outside, inside, size, size, generator=generator)
        state[f"{name}.bias"] = 0.1 * torch.randn(outside, generator=generator)

    def norm(name, channels):
        state[f"{name}.weight"] = 1 + 0.1 * torch.randn(channels, generator=generator)
        state[f"{name}.bias"] = 0.1 * torch.randn(channels, generator=generator)
        state[f"{name}.running_mean"] = 0.1 * torch.randn(channels, generator=generator)
        state[f"{name}.running_var"] = 1 + 0.1 * torch.rand(channels, generator=generator)
        state[f"{name}.num_batches_tracked"] = torch.tensor(3)

    if saliency:
        before = 1
        for level, width in WIDTHS.items():
            conv(f"Conv{level}.0.conv1", before, width)
            norm(f"Conv{level}.0.bn1", width)
            conv(f"Conv{level}.0.conv2", width, width)
            norm(f"Conv{level}.0.bn2", width)
            conv(f"Conv{level}.0.conv_shortcut", before, width)
            for place, shape in ((0, (width // 16, width)), (2, (width, width // 16))):
                state[f"Conv{level}.1.fc.{place}.weight"] = 0.2 * torch.randn(shape, generator=generator)
            before = width
        for step, (inside, outside) in STEPS.items():
            conv(f"Up{step}.1", inside, outside)
            norm(f"Up{step}.2", outside)
            conv(f"Up_conv{step}.0", WIDTHS[step] + outside, outside)
            norm(f"Up_conv{step}.1", outside)
            conv(f"Up_conv{step}.3", outside, outside)
            norm(f"Up_conv{step}.4", outside)
        conv("out_conv_image.conv2d", 64, 64)
        norm("out_conv_image.BatchNorm2d", 64)
        conv("out_conv_image.conv_last", 64, 1, 1)
        conv("conv", 1, 3, 1)
        state["dummy_tensor"] = torch.zeros(1)
        state["lg_sigma_image"] = torch.zeros(1)
    if classifier:
        for name, (outside, inside) in (("linear_1", (64, 1984)), ("linear_2", (3, 64))):
            state[f"out_classification.{name}.weight"] = inside**-0.5 * torch.randn(
                outside, inside, generator=generator
            )
            state[f"out_classification.{name}.bias"] = torch.randn(outside, generator=generator)
        state["lg_sigma_class"] = torch.tensor([0.37])
    return state


def reference_forward(state, image):
    """The reference network, function by function, in evaluation mode."""

    def conv(name, x):
        return F.conv2d(
            x, state[f"{name}.weight"], state[f"{name}.bias"], padding=state[f"{name}.weight"].shape[-1] // 2
        )

    def norm(name, x):
        parts = (state[f"{name}.{key}"] for key in ("running_mean", "running_var", "weight", "bias"))
        return F.batch_norm(x, *parts)

    densenet = densenet201().eval()
    densenet.load_state_dict(
        {key.removeprefix("model."): value for key, value in state.items() if key.startswith("model.")}
    )
    tapped = []
    densenet.features.denseblock4.register_forward_hook(lambda _, __, out: tapped.append(out))
    with torch.no_grad():
        pooled = densenet.features(image.repeat(1, 3, 1, 1)).mean((2, 3))
    levels, x = {}, image
    for level in WIDTHS:
        x = F.max_pool2d(x, 2) if level > 1 else x
        block = f"Conv{level}.0"
        y = norm(f"{block}.bn2", conv(f"{block}.conv2", F.relu(norm(f"{block}.bn1", conv(f"{block}.conv1", x)))))
        x = F.relu(y + conv(f"{block}.conv_shortcut", x))
        gate = F.relu(F.linear(x.mean((2, 3)), state[f"Conv{level}.1.fc.0.weight"]))
        x = x * torch.sigmoid(F.linear(gate, state[f"Conv{level}.1.fc.2.weight"]))[..., None, None]
        levels[level] = x
    x = tapped[0]
    for step in STEPS:
        x = F.relu(norm(f"Up{step}.2", conv(f"Up{step}.1", F.interpolate(x, scale_factor=2, mode="nearest"))))
        x = torch.cat((levels[step], x), 1)
        for place in (0, 3):
            x = F.relu(norm(f"Up_conv{step}.{place + 1}", conv(f"Up_conv{step}.{place}", x)))
    head = F.relu(norm("out_conv_image.BatchNorm2d", conv("out_conv_image.conv2d", x)))
    fused = torch.cat((pooled, x.mean((2, 3))), 1)
    hidden = F.relu(
        F.linear(fused, state["out_classification.linear_1.weight"], state["out_classification.linear_1.bias"])
    )
    logits = F.linear(hidden, state["out_classification.linear_2.weight"], state["out_classification.linear_2.bias"])
    return logits, conv("out_conv_image.conv_last", head)


@pytest.fixture(scope="module")
def state():
    return reference_state()


def test_outputs_equal_the_references(state):
    torch.manual_seed(0)
    image = torch.rand(2, 1, 64, 96)
    logits, saliency = reference_forward(state, image)
    with torch.no_grad():
        outputs = load_reference(state)(image)
    assert torch.allclose(outputs["logits"], logits, atol=1e-4)
    assert torch.allclose(outputs["saliency_logits"], saliency, atol=1e-4)


def test_every_used_tensor_is_mapped_and_the_others_are_named(state):
    result = import_reference(state)
    assert result.stage == "joint"
    assert set(result.unused) == {
        "model.classifier.weight", "model.classifier.bias", "conv.weight", "conv.bias", "dummy_tensor", "lg_sigma_image"
    }  # fmt: skip
    assert len(result.network.state_dict()) == len(state) - len(result.unused) - 1


@pytest.mark.parametrize("prefix", ["module.", "model.module."])
def test_data_parallel_prefixes_are_understood(state, prefix):
    if prefix == "module.":
        renamed = {f"module.{key}": value for key, value in state.items()}
    else:
        renamed = {
            key.replace("model.", "model.module.", 1) if key.startswith("model.") else key: value
            for key, value in state.items()
        }
    ours, theirs = (import_reference(one).network.state_dict() for one in (state, renamed))
    assert all(torch.equal(value, theirs[key]) for key, value in ours.items())


@pytest.mark.parametrize(
    ("parts", "stage"), [({"classifier": False, "saliency": False}, "contrastive"), ({"classifier": False}, "saliency")]
)
def test_stage_files_end_their_stage(parts, stage):
    assert import_reference(reference_state(**parts)).stage == stage


def test_what_does_not_fit_is_listed(state):
    broken = dict(state)
    del broken["Up3.1.bias"]
    broken["Conv2.0.conv1.weight"] = torch.zeros(3)
    broken["surprise"] = torch.zeros(1)
    with pytest.raises(
        InputError,
        match=r"surprise unknown; decoder\.steps\.2\.up\.1\.0\.bias missing; saliency_encoder\.levels\.1.*is \(3,\)",
    ):
        import_reference(broken)


def test_foreign_files_are_refused():
    with pytest.raises(InputError, match="none of its tensors"):
        import_reference({"weight": torch.zeros(2)})


def test_an_imported_checkpoint_is_taken_by_infer_and_by_the_next_stage(state, run_gazelit, tmp_path):
    from gazelit.deploy.inference import load_model

    torch.save(state, tmp_path / "NET.pt")
    printed = run_gazelit("import-reference", "NET.pt", "--out", "net.ckpt")
    assert "stage 'joint'" in printed
    assert "dummy_tensor" in printed
    model = load_model(tmp_path / "net.ckpt")
    assert model.size == (640, 512)
    torch.manual_seed(0)
    image = torch.rand(1, 1, 64, 64)
    with torch.no_grad():
        assert torch.allclose(model.network(image)["logits"], reference_forward(state, image)[0], atol=1e-4)
    checkpoint = torch.load(tmp_path / "net.ckpt", weights_only=True)
    assert checkpoint["state_dict"]["weighting.log_sigma"].item() == pytest.approx(0.37)
    assert checkpoint[STAMP_KEY]["stage"] == "joint"


@pytest.mark.parametrize(
    ("content", "message"), [(b"noise", "not a readable checkpoint"), (None, "not a state dict of tensors")]
)
def test_import_reference_names_files_it_cannot_read(run_gazelit, tmp_path, content, message):
    if content:
        (tmp_path / "NET.pt").write_bytes(content)
    else:
        torch.save({"epoch": 3}, tmp_path / "NET.pt")
    assert f"NET.pt: {message}" in run_gazelit("import-reference", "NET.pt", "--out", "net.ckpt", code=2)
    assert not (tmp_path / "net.ckpt").exists()
