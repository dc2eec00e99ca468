"""Weight files in publishers' layouts give the features of the publisher's own class."""

import json
import logging
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from timm.models.eva import checkpoint_filter_fn as eva_filter
from timm.models.vision_transformer import checkpoint_filter_fn as transformer_filter

from gazelit.errors import InputError
from gazelit.models.catalogue import describe
from gazelit.models.encoder import load_weight_file
from gazelit.models.presets import PRESETS
from gazelit.models.registry import EncoderSpec, build_encoder, load_pretrained
from gazelit.models.transformer import TransformerEncoder
from gazelit.models.weights import read_state
from tests.models.foreign_files import (
    MEAN,
    STD,
    dinov2_of_meta,
    dinov3_of_meta,
    eva_x,
    image,
    in_chunks,
    weights,
    write,
)

RECORDED = json.loads((Path(__file__).with_name("oracles") / "foreign.json").read_text())
SMALL = {"embed_dim": 32, "depth": 2, "num_heads": 2}
STATISTICS = {"mean": MEAN, "std": STD}
#: timm's architecture for each recorded file.
ARCHITECTURES = {
    "dinov2": ("vit_small_patch14_dinov2", {"img_size": 56}),
    "dinov2-registers": ("vit_small_patch14_reg4_dinov2", {"img_size": 56}),
    "dinov2-swiglu": ("vit_giant_patch14_dinov2", {"img_size": 56, "mlp_ratio": 5.5}),
    "dinov3": ("vit_small_patch16_dinov3_qkvb", {"img_size": 64}),
    "siglip": ("vit_so400m_patch14_siglip_378", {"img_size": 56, "mlp_ratio": 4, "act_layer": "gelu_tanh"}),
    "siglip-both-towers": ("vit_so400m_patch14_siglip_378", {"img_size": 56, "mlp_ratio": 4, "act_layer": "gelu_tanh"}),
    "clip-both-towers": ("vit_large_patch14_clip_quickgelu_224", {"img_size": 56}),
    "open_clip": ("vit_large_patch14_clip_224", {"img_size": 56}),
}


def small(name, **options):
    return TransformerEncoder(name, **{**SMALL, **STATISTICS, **options}).eval()


@pytest.mark.parametrize("layout", list(RECORDED))
def test_features_are_the_publishers(layout, tmp_path, caplog):
    recorded = RECORDED[layout]
    name, options = ARCHITECTURES[layout]
    encoder = small(name, **options)
    file = write(tmp_path / "model.safetensors", recorded["shapes"])
    with caplog.at_level(logging.INFO, logger="gazelit"):
        load_weight_file(encoder, str(file))
    count = len(encoder.body.state_dict())
    assert f"loaded {count} of the encoder's {count} tensors, from {len(recorded['shapes'])} in the file" in caplog.text
    with torch.no_grad():
        tokens = encoder.tokens(image(recorded["size"]))[0]
    assert tokens.numpy() == pytest.approx(np.array(recorded["tokens"]), abs=1e-4)


def published(name, seed=3, **options):
    """A small model of timm with random weights, three channels, and its state."""
    torch.manual_seed(seed)
    model = timm.create_model(name, num_classes=0, dynamic_img_size=True, **{**SMALL, **options}).eval()
    state = model.state_dict()
    generator = torch.Generator().manual_seed(seed)
    return model, {key: torch.randn(value.shape, generator=generator) * 0.3 for key, value in state.items()}


def tokens_of(model, state, size):
    model.load_state_dict(state)
    mean, std = (torch.tensor(values)[:, None, None] for values in (MEAN, STD))
    with torch.no_grad():
        return model.forward_features((image(size).expand(-1, 3, -1, -1) - mean) / std)[:, model.num_prefix_tokens :]


def loaded(encoder, state, tmp_path, size):
    torch.save(state, tmp_path / "file.pth")
    load_weight_file(encoder, str(tmp_path / "file.pth"))
    with torch.no_grad():
        return encoder.tokens(image(size))


def test_dinov2_of_meta_with_registers_chunks_and_another_size(tmp_path):
    model, state = published("vit_small_patch14_reg4_dinov2", img_size=70)
    meta = dinov2_of_meta(state)
    # The layout is compared with timm's own filter: position embeddings of 56 pixels for a model of 70.
    expected = tokens_of(model, transformer_filter(dict(meta), model), (70, 70))
    encoder = small("vit_small_patch14_reg4_dinov2", img_size=70)
    assert torch.allclose(loaded(encoder, {"teacher": in_chunks(meta)}, tmp_path, (70, 70)), expected, atol=1e-5)


def test_dinov3_of_meta(tmp_path):
    model, state = published("vit_small_patch16_dinov3_qkvb", img_size=64)
    meta = dinov3_of_meta(state)
    expected = tokens_of(model, eva_filter(dict(meta), model), (64, 64))
    encoder = small("vit_small_patch16_dinov3_qkvb", img_size=64)
    assert torch.allclose(loaded(encoder, meta, tmp_path, (64, 64)), expected, atol=1e-5)
    with pytest.raises(
        InputError, match=r"vit_small_patch16_dinov3 has no biases .* take vit_small_patch16_dinov3_qkvb"
    ):
        load_weight_file(small("vit_small_patch16_dinov3", img_size=64), str(tmp_path / "file.pth"))


@pytest.mark.parametrize("name", ["eva02_tiny_patch14_224", "eva02_base_patch14_224"])
def test_eva_x(name, tmp_path):
    options = {"img_size": 64, "patch_size": 16, "ref_feat_shape": (4, 4), "mlp_ratio": 2.0}
    model, state = published(name, **options)
    published_state = eva_x(state)
    expected = tokens_of(model, state, (64, 64))
    encoder = small(name, **options)
    filtered = eva_filter({key: value for key, value in published_state.items() if "head" not in key}, model)
    assert set(filtered) == set(state)
    assert torch.allclose(loaded(encoder, published_state, tmp_path, (64, 64)), expected, atol=1e-5)


def test_swin_of_older_timm(tmp_path):
    torch.manual_seed(0)
    options = {"embed_dim": 16, "depths": (1, 1, 1, 1), "num_heads": (1, 1, 1, 1), "img_size": 64, "window_size": 2}
    model = timm.create_model("swin_tiny_patch4_window7_224", num_classes=0, in_chans=1, **options).eval()
    state = model.state_dict()
    # The old names are made by hand: there the first stage halves at its end.
    old = {key: value for key, value in state.items() if ".downsample." not in key}
    for stage in (1, 2, 3):
        for part in ("norm.weight", "norm.bias", "reduction.weight"):
            old[f"layers.{stage - 1}.downsample.{part}"] = state[f"layers.{stage}.downsample.{part}"]
    old |= {"layers.0.blocks.0.attn_mask": torch.ones(1), "omni_heads.0.weight": torch.ones(3, 128)}
    torch.save(
        {"student": {"weight": torch.ones(1)}, "teacher": {f"module.{k}": v for k, v in old.items()}},
        tmp_path / "ark.pth",
    )
    encoder = build_encoder(EncoderSpec("tu-swin_tiny_patch4_window7_224", options={"depth": 5, **options})).eval()
    load_weight_file(encoder, f"{tmp_path / 'ark.pth'}#teacher")
    x = image((64, 64))
    with torch.no_grad():
        expected = model.norm(encoder(x)[-1].permute(0, 2, 3, 1))
        assert torch.allclose(model.forward_features(x), expected, atol=1e-5)


def test_positions_of_a_square_are_resampled_to_as_many_of_an_oblong(tmp_path):
    # timm's own model of 64 pixels resamples its 4 × 4 positions to the 8 × 2 of such an image.
    model, state = published("vit_base_patch16_224", img_size=64)
    expected = tokens_of(model, state, (128, 32))
    encoder = small("vit_base_patch16_224", img_size=[128, 32])
    assert torch.allclose(loaded(encoder, state, tmp_path, (128, 32)), expected, atol=1e-5)
    # Six times four positions are no square: their order is that of the image size that is given.
    model, state = published("vit_base_patch16_224", img_size=(96, 64))
    encoder = small("vit_base_patch16_224", img_size=[96, 64])
    assert torch.allclose(loaded(encoder, state, tmp_path, (96, 64)), tokens_of(model, state, (96, 64)), atol=1e-5)


def test_a_trunk_of_timm_within_open_clip(tmp_path):
    model, state = published("vit_base_patch16_224", img_size=64)
    both = {f"visual.trunk.{key}": value for key, value in state.items()}
    both |= {"visual.head.proj.weight": torch.ones(8, 32), "text.proj": torch.ones(4), "logit_scale": torch.ones(())}
    encoder = small("vit_base_patch16_224", img_size=64)
    found = loaded(encoder, both, tmp_path, (64, 96))
    assert torch.allclose(found, tokens_of(model, state, (64, 96)), atol=1e-5)


def test_a_part_of_a_training_is_named(tmp_path):
    student, teacher = {"weight": torch.zeros(2)}, {"weight": torch.ones(2)}
    file = tmp_path / "ark.pth"
    torch.save({"state_dict": student, "teacher": {"model": teacher}, "epoch": 5}, file)
    with pytest.raises(
        InputError, match=r"holds several state dicts \(state_dict, teacher\); name one, such as .*#teacher"
    ):
        read_state(file)
    assert read_state(f"{file}#teacher")["weight"].tolist() == [1, 1]
    assert read_state(f"{file}#state_dict")["weight"].tolist() == [0, 0]
    with pytest.raises(InputError, match="has no part ema; parts are state_dict, teacher"):
        read_state(f"{file}#ema")
    with pytest.raises(InputError, match="no such file"):
        read_state(f"{tmp_path / 'nothing.pth'}#teacher")


def test_of_towers_side_by_side_one_is_named(tmp_path):
    model, student = published("vit_base_patch16_224", img_size=64)
    _, teacher = published("vit_base_patch16_224", seed=4, img_size=64)
    file, encoder = tmp_path / "file.pth", small("vit_base_patch16_224", img_size=64)
    for wrapped in (lambda towers: towers, lambda towers: {"state_dict": {f"module.{k}": towers[k] for k in towers}}):
        towers = {f"teacher.backbone.{key}": value for key, value in teacher.items()}
        towers |= {f"student.backbone.{key}": value for key, value in student.items()}
        torch.save(wrapped(towers), file)
        with pytest.raises(
            InputError, match=r"file\.pth: holds several encoders \(student\.backbone, teacher\.backbone\); name one"
        ):
            load_weight_file(encoder, str(file))
        for named, state in (("student.backbone", student), ("teacher", teacher)):
            load_weight_file(encoder, f"{file}#{named}")
            with torch.no_grad():
                assert torch.allclose(encoder.tokens(image((64, 64))), tokens_of(model, state, (64, 64)), atol=1e-5)
        with pytest.raises(InputError, match="has no part ema; its keys begin with student, teacher"):
            load_weight_file(encoder, f"{file}#ema")


@pytest.mark.parametrize(
    ("option", "left_over"),
    [
        ({"depth": 1}, r"blocks\.1\.norm1\.weight"),
        ({"init_values": 0}, r"blocks\.0\.ls1\.gamma"),
        ({"qkv_bias": False}, r"blocks\.0\.attn\.qkv\.bias"),
        ({"final_norm": False}, r"norm\.weight"),
    ],
)
def test_what_options_remove_is_left_over_in_the_file(option, left_over, tmp_path):
    # Of a whole model the head alone is unused.
    options = {**SMALL, "img_size": 56}
    torch.save(
        timm.create_model("vit_small_patch14_dinov2", num_classes=3, **options).state_dict(), tmp_path / "file.pth"
    )
    load_weight_file(small("vit_small_patch14_dinov2", **options), str(tmp_path / "file.pth"))
    with pytest.raises(InputError, match=f"the weight file does not fit: {left_over} left over"):
        load_weight_file(small("vit_small_patch14_dinov2", **{**options, **option}), str(tmp_path / "file.pth"))


def test_what_a_pyramid_does_not_use_is_left_out_but_not_what_its_options_remove(tmp_path):
    torch.save(timm.create_model("convnext_atto", in_chans=1).state_dict(), tmp_path / "file.pth")
    # Three maps need neither the last stage nor the head.
    load_weight_file(build_encoder(EncoderSpec("tu-convnext_atto", options={"depth": 4})), str(tmp_path / "file.pth"))
    shallow = build_encoder(EncoderSpec("tu-convnext_atto", options={"depths": [2, 2, 5, 2]}))
    with pytest.raises(InputError, match=r"stages\.2\.blocks\.5\.\S* left over"):
        load_weight_file(shallow, str(tmp_path / "file.pth"))


def test_weights_that_do_not_fit_are_refused(tmp_path):
    shapes = dict(RECORDED["dinov2"]["shapes"])
    encoder = small("vit_small_patch14_dinov2", img_size=56)
    del shapes["encoder.layer.1.norm1.weight"]
    with pytest.raises(InputError, match=r"blocks\.1\.norm1\.weight missing"):
        load_weight_file(encoder, str(write(tmp_path / "missing.safetensors", shapes)))
    shapes = {**RECORDED["dinov2"]["shapes"], "encoder.layer.0.adapter.weight": [2]}
    with pytest.raises(InputError, match=r"blocks\.0\.adapter\.weight left over"):
        load_weight_file(encoder, str(write(tmp_path / "further.safetensors", shapes)))
    shapes = dict(RECORDED["dinov2"]["shapes"])
    del shapes["encoder.layer.0.attention.attention.key.weight"]
    with pytest.raises(InputError, match="no weight of query, key or value"):
        load_weight_file(encoder, str(write(tmp_path / "keyless.safetensors", shapes)))
    shapes = {**RECORDED["dinov2"]["shapes"], "embeddings.position_embeddings": [1, 12, 32]}
    with pytest.raises(InputError, match=r"11 positions of patches are no square; set .*img_size"):
        load_weight_file(encoder, str(write(tmp_path / "oblong.safetensors", shapes)))
    with pytest.raises(InputError, match="mean and std: give both"):
        small("vit_small_patch14_dinov2", std=None)


def test_patches_of_14_pixels_give_maps_at_strides_of_16(tmp_path):
    encoder = small("vit_small_patch14_dinov2", img_size=56)
    seen = []
    encoder.body.patch_embed.register_forward_hook(lambda module, inputs, output: seen.append(inputs[0].shape))
    with torch.no_grad():
        maps = encoder(torch.rand(1, 1, 640, 512))
    assert tuple(seen[0]) == (1, 3, 644, 518)
    assert [tuple(map_.shape[2:]) for map_ in maps] == [(160, 128), (80, 64), (40, 32), (20, 16)]
    # A whole number of both patches and strides needs no resampling of the image.
    with torch.no_grad():
        encoder(torch.rand(1, 1, 224, 448))
    assert tuple(seen[1]) == (1, 3, 224, 448)


def test_the_publishers_statistics_are_exact_at_the_borders():
    encoder = small("vit_base_patch16_224", img_size=64)
    x = image((64, 64))
    mean, std = (torch.tensor(values)[:, None, None] for values in (MEAN, STD))
    with torch.no_grad():
        expected = encoder.body.forward_features((x.expand(-1, 3, -1, -1) - mean) / std)[:, 1:]
        assert torch.equal(encoder.tokens(x), expected)


def test_a_convolutional_encoder_is_given_the_publishers_images_too():
    torch.manual_seed(0)
    encoder = build_encoder(EncoderSpec("tu-resnet10t", options={"mean": MEAN, "std": STD})).eval()
    x = image((64, 64))
    mean, std = (torch.tensor(values)[:, None, None] for values in (MEAN, STD))
    with torch.no_grad():
        expected = encoder.body((x.expand(-1, 3, -1, -1) - mean) / std)[-1]
        assert torch.equal(encoder(x)[-1], expected)
    assert not any("prepared" in key for key in encoder.state_dict())


@pytest.mark.parametrize("name", list(PRESETS))
def test_a_preset_is_an_encoder(name):
    preset = PRESETS[name]
    card = describe(name)
    assert card.strides[-1] == 32
    assert preset.where in card.weights
    assert preset.licence in card.weights
    if not preset.is_pyramid:
        with torch.device("meta"):
            encoder = build_encoder(EncoderSpec(name))
        assert encoder.body.patch_embed.img_size == (preset.size, preset.size)
        assert encoder.body.patch_embed.proj.in_channels == 3


def test_a_preset_takes_its_file_through_the_registry(tmp_path):
    file = write(tmp_path / "model.safetensors", RECORDED["dinov2"]["shapes"])
    # A small rad-dino: the same layout and statistics.
    spec = EncoderSpec("rad-dino", str(file), {**SMALL, "img_size": 56})
    encoder = build_encoder(spec)
    load_pretrained(encoder, spec)
    state = weights(RECORDED["dinov2"]["shapes"])
    assert torch.equal(encoder.body.state_dict()["norm.weight"], state["layernorm.weight"])
