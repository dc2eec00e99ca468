"""Low-rank adapters: their formula, the trained parameters, the contents of a checkpoint, and merging."""

import copy
import json
import logging
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import gazelit
from gazelit.checkpoints import exporting, handoff, stamps
from gazelit.cli.trainer import described_network
from gazelit.errors import InputError
from gazelit.models import ClassificationNetwork, EncoderSpec, build_encoder, rebuild
from gazelit.models.adapters import LoRA, add_adapters, merged
from gazelit.models.encoder import Encoder
from gazelit.models.registry import load_pretrained
from gazelit.release.export import export
from gazelit.stages import SupervisedFinetuning
from tests.models.foreign_files import image, weights, write
from tests.tiny import save_untrained

RECORDED = json.loads((Path(__file__).with_name("oracles") / "foreign.json").read_text())
SMALL = {"embed_dim": 32, "depth": 1, "num_heads": 2, "img_size": 32}
#: An attention that calls its layers, and an attention that takes their weights.
KINDS = {
    "calls": ("tu-vit_tiny_patch16_224", SMALL),
    "takes weights": ("tu-vit_small_patch16_dinov3_qkvb", {**SMALL, "init_values": 1.0}),
}


def spec(name="tu-vit_tiny_patch16_224", options=SMALL, **lora):
    return EncoderSpec(name, None, dict(options), LoRA(**{"rank": 3, "alpha": 12, **lora}))


def taught(module, seed=5):
    """The module with adapters as after a training: none is zero."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in module.named_parameters():
        if name.endswith(".up"):
            parameter.data = torch.randn(parameter.shape, generator=generator) * 0.1
    return module.eval()


def maps(module, x=None):
    with torch.no_grad():
        return module(image((32, 32)) if x is None else x)


def test_a_layer_is_its_weight_and_the_scaled_product():
    torch.manual_seed(0)
    layer = nn.Sequential(nn.Linear(5, 4))
    weight, bias = (value.detach().numpy().astype(np.float64) for value in layer[0].parameters())
    add_adapters(layer, LoRA(rank=2, alpha=3))
    taught(layer)
    down, up = (value.detach().numpy().astype(np.float64) for value in layer[0].parametrizations.weight[0].parameters())
    x = np.random.default_rng(0).normal(size=(7, 5))
    expected = x @ (weight + 3 / 2 * up @ down).T + bias
    assert layer(torch.from_numpy(x).float()).detach().numpy() == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize(("name", "options"), KINDS.values(), ids=KINDS)
def test_new_adapters_change_nothing_and_taught_ones_the_weights_however_they_are_used(name, options):
    torch.manual_seed(0)
    plain = build_encoder(EncoderSpec(name, options=dict(options))).eval()
    adapted = build_encoder(spec(name, options, targets=["qkv"])).eval()
    adapted.load_state_dict(
        {
            key: plain.state_dict().get(key.replace("parametrizations.weight.original", "weight"), value)
            for key, value in adapted.state_dict().items()
        }
    )
    before = maps(plain)[2]
    assert all(torch.equal(a, b) for a, b in zip(maps(plain), maps(adapted), strict=True))
    taught(adapted)
    addition = adapted.body.blocks[0].attn.qkv.parametrizations.weight[0]
    with torch.no_grad():
        plain.body.blocks[0].attn.qkv.weight += 12 / 3 * addition.up @ addition.down
    assert (maps(adapted)[2] - before).abs().max() > 0.01
    torch.testing.assert_close(maps(adapted)[2], maps(plain)[2], atol=1e-5, rtol=0)


def test_it_is_what_peft_computes():
    peft = pytest.importorskip("peft")
    torch.manual_seed(0)
    body = build_encoder(EncoderSpec(spec().name, options=dict(SMALL))).body.eval()
    own = copy.deepcopy(body)
    add_adapters(own, LoRA(rank=3, alpha=12, targets=["qkv", "proj", "fc1", "fc2"]))
    config = peft.LoraConfig(r=3, lora_alpha=12, lora_dropout=0.0, target_modules=["qkv", "attn.proj", "fc1", "fc2"])
    oracle = peft.get_peft_model(body, config).eval()
    for name, layer in own.named_modules():
        if hasattr(layer, "parametrizations"):
            peft_layer, addition = oracle.base_model.model.get_submodule(name), taught(layer).parametrizations.weight[0]
            peft_layer.lora_A["default"].weight.data = addition.down.data.clone()
            peft_layer.lora_B["default"].weight.data = addition.up.data.clone()
    x = image((32, 32))
    found, expected = own(x), oracle(x)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
    found.square().sum().backward()
    expected.square().sum().backward()
    gradients = {n: p.grad for n, p in oracle.base_model.model.named_parameters() if p.requires_grad}
    own_gradients = {n: p.grad for n, p in own.named_parameters() if p.requires_grad}
    assert len(gradients) == len(own_gradients) == 8
    for name, gradient in own_gradients.items():
        layer, _, part = name.partition(".parametrizations.weight.0.")
        key = f"{layer}.lora_{'A' if part == 'down' else 'B'}.default.weight"
        torch.testing.assert_close(gradient, gradients[key], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(merged(own)(x), oracle.merge_and_unload()(x), atol=1e-5, rtol=0)


class WithStatistics(Encoder):
    """A linear layer and BatchNorm, as some hybrids have."""

    def __init__(self):
        super().__init__()
        self.out_channels, self.strides = [4], [4]
        self.pixels, self.norm = nn.Linear(16, 4), nn.BatchNorm2d(4)

    def forward(self, x):
        cells = nn.functional.pixel_unshuffle(x, 4).permute(0, 2, 3, 1)
        return [self.norm(self.pixels(cells).permute(0, 3, 1, 2))]


@pytest.mark.parametrize(
    "name", ["tu-vit_tiny_patch16_224", f"{__name__}:WithStatistics"], ids=["transformer", "statistics"]
)
def test_only_adapters_and_parameters_that_no_file_fills_are_trained(name):
    torch.manual_seed(0)
    options = {} if ":" in name else dict(SMALL)
    stage = SupervisedFinetuning(ClassificationNetwork(EncoderSpec(name, None, options, LoRA(rank=2)), classes=2))
    before = {key: value.clone() for key, value in stage.state_dict().items()}
    stage.make_optimizer = lambda parameters: torch.optim.SGD(parameters, lr=0.1)
    optimizer = stage.configure_optimizers()
    stage.train()
    stage(torch.rand(4, 1, 32, 32))["logits"].square().sum().backward()
    optimizer.step()
    moved = {key for key, value in stage.state_dict().items() if not torch.equal(value, before[key])}
    # The pyramid has no published weights, so it is trained, though nothing here depends on its finest map.
    moved = {key for key in moved if "to_stride_4.1" not in key}
    # Down-projections get their first gradient once the up-projections are no longer zero.
    assert moved == {key for key in before if key.endswith(".up") or "linear_classifier" in key}
    trained = [name for name, parameter in stage.network.encoder.named_parameters() if parameter.requires_grad]
    assert all(part.endswith((".up", ".down")) or part.startswith("to_stride") for part in trained)
    count = sum(stage.network.encoder.get_parameter(part).numel() for part in trained)
    assert f"({count:,} of them trained)" in described_network(stage.network)
    frozen = SupervisedFinetuning(ClassificationNetwork(spec(), classes=2), frozen=["encoder"])
    assert not any(parameter.requires_grad for parameter in frozen.network.encoder.parameters())


def test_weights_of_a_publisher_go_under_the_adapters(tmp_path):
    recorded = RECORDED["dinov2"]
    file = write(tmp_path / "model.safetensors", recorded["shapes"])
    options = {**SMALL, "depth": 2, "img_size": 56, "mean": (0.5, 0.4, 0.3), "std": (0.2, 0.3, 0.25)}
    given = EncoderSpec("tu-vit_small_patch14_dinov2", str(file), options, LoRA(rank=2))
    encoder = build_encoder(given).eval()
    adapters = [parameter for parameter in encoder.parameters() if parameter.requires_grad]
    load_pretrained(encoder, given)
    with torch.no_grad():
        tokens = encoder.tokens(image(recorded["size"]))[0]
    assert tokens.numpy() == pytest.approx(np.array(recorded["tokens"]), abs=1e-4)
    # The parameters are the same objects, which an optimiser may already hold.
    assert [p for p in encoder.parameters() if p.requires_grad] == adapters
    fused = encoder.body.blocks[1].attn.qkv.parametrizations.weight.original
    key = weights(recorded["shapes"])["encoder.layer.1.attention.attention.key.weight"]
    assert torch.equal(fused[32:64], key)


def test_merging_gives_the_same_outputs_in_bfloat16_too():
    encoder = taught(build_encoder(spec()))
    whole = merged(encoder)
    assert not any("parametrizations" in key for key in whole.state_dict())
    assert any("parametrizations" in key for key in encoder.state_dict())
    for found, expected in zip(maps(whole), maps(encoder), strict=True):
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
    with torch.autocast("cpu", torch.bfloat16):
        assert all(torch.equal(a, b) for a, b in zip(maps(whole), maps(encoder), strict=True))
        assert maps(encoder)[1].dtype == torch.bfloat16
    halved = maps(copy.deepcopy(encoder).bfloat16(), image((32, 32)).bfloat16())[2]
    torch.testing.assert_close(halved.float(), maps(encoder)[2], atol=0.1, rtol=0.1)
    plain = build_encoder(EncoderSpec("densenet-small"))
    assert merged(plain) is plain


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (EncoderSpec("densenet-small", lora=LoRA()), "encoder 'densenet-small': lora: the encoder has no linear layer"),
        (spec(targets=["qkv", "query"]), r"lora\.targets: no .* is called query; there are fc1, fc2, proj, qkv"),
    ],
)
def test_adapters_without_a_layer_are_refused(given, message):
    with pytest.raises(InputError, match=message):
        build_encoder(given)


@pytest.mark.parametrize("fields", [{"rank": 0}, {"alpha": 0}, {"alpha": float("nan")}])
def test_impossible_adapters_are_refused(fields):
    with pytest.raises(InputError, match="lora: rank must be at least 1 and alpha above 0"):
        LoRA(**fields)


@pytest.fixture
def trained(tmp_path):
    torch.manual_seed(0)
    network = ClassificationNetwork(spec(targets=["qkv", "fc1"]), classes=3)
    data = {"size": [32, 32], "class_names": ["a", "b", "c"], "exclusive": True, "synthetic": True}
    return taught(network), save_untrained(tmp_path / "best.ckpt", network, data, "supervised")


@pytest.mark.parametrize(
    ("configured", "is_merged"),
    [(spec(targets=["qkv", "fc1"]), False), (EncoderSpec(spec().name, None, dict(SMALL)), True), (spec(rank=1), True)],
    ids=["the same", "none", "others"],
)
def test_a_hand_over_keeps_the_same_adapters_and_merges_others(configured, is_merged, trained):
    network, path = trained
    receiving = ClassificationNetwork(configured, classes=3)
    report = handoff.hand_over(path, receiving, "joint")
    assert ("adapters merged into the weights of encoder" in str(report)) == is_merged
    torch.testing.assert_close(maps(receiving.eval())["logits"], maps(network)["logits"], atol=1e-5, rtol=0)
    ups = [value for key, value in receiving.state_dict().items() if key.endswith(".up")]
    assert all(bool(value.any()) != is_merged for value in ups)


def test_an_encoder_without_adapters_is_handed_over_to_one_with(tmp_path):
    plain = ClassificationNetwork(EncoderSpec(spec().name, None, dict(SMALL)), classes=3).eval()
    path = save_untrained(tmp_path / "plain.ckpt", plain, {"size": [32, 32]}, "supervised")
    receiving = ClassificationNetwork(spec(), classes=3).eval()
    assert "merged" not in str(handoff.hand_over(path, receiving, "joint"))
    assert torch.equal(maps(receiving)["logits"], maps(plain)["logits"])
    checkpoint = torch.load(path, weights_only=True)
    checkpoint["state_dict"].pop("network.encoder.body.blocks.0.attn.qkv.weight")
    torch.save(checkpoint, path)
    with pytest.raises(InputError, match=r"component 'encoder' does not fit: body.*qkv.*missing"):
        handoff.hand_over(path, receiving, "joint")


def test_a_checkpoint_with_adapters_is_loaded_merged_and_exported(trained, tmp_path, caplog):
    network, path = trained
    film = np.random.default_rng(0).uniform(size=(32, 32)).astype(np.float32)
    expected = gazelit.load(path).predict(film).probabilities
    exporting.export_weights(path, tmp_path / "whole.safetensors", merge=True)
    stamp = stamps.read_checkpoint(tmp_path / "whole.safetensors")[stamps.STAMP_KEY]
    assert "lora" not in json.dumps([stamp["network"], stamp["components"]])
    assert rebuild(stamp["network"]).state_dict().keys() == merged(network).state_dict().keys()
    for kept in ("best.ckpt", "whole.safetensors"):
        assert gazelit.load(tmp_path / kept).predict(film).probabilities == pytest.approx(expected, abs=1e-5)
    with pytest.raises(InputError, match="no component has low-rank adapters; leave out merge"):
        exporting.export_weights(str(tmp_path / "whole.safetensors"), tmp_path / "again.safetensors", merge=True)
    with caplog.at_level(logging.INFO, "gazelit"):
        export(path, "torch-export", tmp_path / "model.pt2")
    assert "largest differences from the checkpoint" in caplog.text
    names = torch.export.load(tmp_path / "model.pt2").state_dict
    assert "network.encoder.body.blocks.0.attn.qkv.weight" in names
    assert not any("parametrizations" in name for name in names)
