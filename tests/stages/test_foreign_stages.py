"""Publishers' transformers in the three stages: from their file, handed over twice, with and without adapters."""

import json
from pathlib import Path

import lightning as L
import pytest
import timm
import torch

import gazelit
from gazelit.checkpoints.stamps import read_checkpoint
from gazelit.data.datamodule import GazeDataModule
from gazelit.data.options import AugmentationOptions, LoaderOptions
from gazelit.errors import InputError
from gazelit.models import ContrastiveNetwork, DualEncoderUNet, EncoderSpec, build_encoder
from gazelit.models.adapters import LoRA
from gazelit.models.registry import load_pretrained
from gazelit.stages import ContrastivePretraining, JointFinetuning, SaliencyWarmup
from tests.models.foreign_files import dinov2_of_meta, dinov3_of_meta, eva_x, in_chunks, write

RECORDED = json.loads((Path(__file__).parents[1] / "models" / "oracles" / "foreign.json").read_text())
SMALL = {"embed_dim": 32, "depth": 2, "num_heads": 2}
SWIN = {"embed_dim": 8, "depths": (1, 1, 1, 1), "num_heads": (1, 1, 1, 1), "img_size": 64, "window_size": 2}
STATISTICS = {"mean": (0.5, 0.4, 0.3), "std": (0.2, 0.3, 0.25)}
#: timm's name and options, and the adapters, for a file of each family of layouts.
LAYOUTS = {
    "dinov2": ("tu-vit_small_patch14_dinov2", {**SMALL, "img_size": 56}, LoRA(rank=2)),
    "dinov3": ("tu-vit_small_patch16_dinov3_qkvb", {**SMALL, "img_size": 64}, None),
    "siglip-both-towers": (
        "tu-vit_so400m_patch14_siglip_378",
        {**SMALL, "img_size": 56, "mlp_ratio": 4, "act_layer": "gelu_tanh"},
        None,
    ),
    "clip-both-towers": ("tu-vit_large_patch14_clip_quickgelu_224", {**SMALL, "img_size": 56}, None),
    "dinov2-of-meta": ("tu-vit_small_patch14_reg4_dinov2", {**SMALL, "img_size": 56}, None),
    "dinov3-of-meta": ("tu-vit_small_patch16_dinov3_qkvb", {**SMALL, "img_size": 64}, LoRA(rank=2)),
    "eva-x": (
        "tu-eva02_tiny_patch14_224",
        {**SMALL, "img_size": 64, "patch_size": 16, "ref_feat_shape": (4, 4), "mlp_ratio": 2.0},
        None,
    ),
    "swin": ("tu-swin_tiny_patch4_window7_224", SWIN, LoRA(rank=1, targets=["qkv"])),
}
#: For layouts whose files are not recorded: the function that converts timm's state.
MADE = {
    "dinov2-of-meta": lambda state: {"teacher": in_chunks(dinov2_of_meta(state))},
    "dinov3-of-meta": dinov3_of_meta,
    "eva-x": eva_x,
    "swin": lambda state: {"student": {"weight": torch.zeros(1)}, "teacher": state},
}


def file_of(layout, folder):
    if layout not in MADE:
        return str(write(folder / "model.safetensors", RECORDED[layout]["shapes"]))
    name, options, _ = LAYOUTS[layout]
    torch.manual_seed(1)
    model = timm.create_model(name.removeprefix("tu-"), num_classes=5 if layout == "swin" else 0, **options)
    torch.save(MADE[layout](model.state_dict()), folder / "model.pth")
    # A file of two networks' states.
    return f"{folder / 'model.pth'}#teacher" if layout == "swin" else str(folder / "model.pth")


def step(stage, films, path, steps=1, **options):
    trainer = L.Trainer(
        max_steps=steps, limit_val_batches=0, accelerator="cpu", logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, default_root_dir=path.parent,
    )  # fmt: skip
    trainer.fit(stage, films, **options)
    trainer.save_checkpoint(path)
    return {key: value.clone() for key, value in stage.network.encoder.state_dict().items()}


def untrained(path):
    return read_checkpoint(path)["gazelit"]["untrained"]


@pytest.fixture
def films(store):
    off = AugmentationOptions(enabled=False)
    return GazeDataModule(str(store), loader=LoaderOptions(batch_size=4, num_workers=0), augmentation=off)


@pytest.fixture
def published_transformer(tmp_path):
    """The specification of a plain transformer that a publisher's file fills."""
    name, options, _ = LAYOUTS["dinov2"]
    return EncoderSpec(name, file_of("dinov2", tmp_path), {**options, **STATISTICS})


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_publishers_file_goes_through_the_three_stages(layout, films, tmp_path, lightning_imported):
    name, options, lora = LAYOUTS[layout]
    given = EncoderSpec(name, file_of(layout, tmp_path), {**options, **STATISTICS}, lora)
    published = build_encoder(given)
    load_pretrained(published, given)
    saliency = EncoderSpec("res-se", options={"widths": [4, 4], "reduction": 4})
    widths = [4] * 5
    torch.manual_seed(0)
    first = ContrastivePretraining(ContrastiveNetwork(given, projection=4))
    second = SaliencyWarmup(DualEncoderUNet(given, saliency, widths, classes=None))
    third = JointFinetuning(DualEncoderUNet(given, saliency, widths))
    after = [step(first, films, tmp_path / "1.ckpt")]
    assert second.take_over(tmp_path / "1.ckpt").loaded == ("encoder",)
    after.append(step(second, films, tmp_path / "2.ckpt"))
    assert third.take_over(tmp_path / "2.ckpt").loaded == ("encoder", "saliency_encoder", "decoder", "saliency_head")
    after.append(step(third, films, tmp_path / "3.ckpt"))

    parameters = [key for key, _ in published.named_parameters()]
    moved = [
        {key for key in parameters if not torch.equal(now[key], before[key])}
        for before, now in zip([published.state_dict(), *after], after, strict=False)
    ]
    # The pyramid over a transformer's tokens has no published weights, so it is new in each training.
    pretrained = [{key for key in keys if key.startswith("body.")} for keys in moved]
    assert not moved[1]
    for keys in (pretrained[0], pretrained[2]):
        assert keys
        assert lora is None or all(key.endswith((".up", ".down")) for key in keys)
    film = torch.rand(64, 64).numpy()
    assert sum(gazelit.load(tmp_path / "3.ckpt").predict(film).probabilities.values()) == pytest.approx(1, abs=1e-5)


def test_a_frozen_encoder_has_no_random_layers_under_the_loss(
    films, published_transformer, tmp_path, lightning_imported
):
    saliency = EncoderSpec("res-se", options={"widths": [4, 4], "reduction": 4})

    def warm_up(saliency_encoder=None, **options):
        return SaliencyWarmup(
            DualEncoderUNet(published_transformer, saliency_encoder, [4] * 5, classes=None), **options
        )

    def refused(stage, path):
        with pytest.raises(InputError, match=r"frozen: layers of encoder would stay random .* --model\.frozen=\[\]"):
            step(stage, films, path)

    def handed_over(stage, path):
        stage.take_over(path)
        return stage

    paths = [tmp_path / f"{number}.ckpt" for number in range(5)]
    refused(warm_up(), paths[0])
    # A decoder that takes the tokens alone needs no pyramid.
    step(warm_up(saliency), films, paths[0])
    pyramid = [key for key, _ in build_encoder(published_transformer).named_parameters() if not key.startswith("body.")]
    assert untrained(paths[0]) == {"encoder": pyramid}
    # A contrastive loss does not reach the pyramid, so that it is as random after it as it was before.
    step(ContrastivePretraining(ContrastiveNetwork(published_transformer)), films, paths[1])
    assert untrained(paths[1]) == {"encoder": pyramid}
    refused(handed_over(warm_up(), paths[1]), paths[2])
    # It is still known after stages that do not need it, with the encoder frozen or trained.
    step(handed_over(warm_up(saliency), paths[1]), films, paths[2])
    assert untrained(paths[2]) == {"encoder": pyramid}
    step(handed_over(ContrastivePretraining(ContrastiveNetwork(published_transformer)), paths[1]), films, paths[2])
    assert untrained(paths[2]) == {"encoder": pyramid}
    refused(handed_over(warm_up(), paths[2]), paths[3])
    # What a stage has trained may be frozen.
    step(handed_over(warm_up(frozen=[]), paths[2]), films, paths[3])
    assert untrained(paths[3]) == {}
    last = handed_over(warm_up(), paths[3])
    step(last, films, paths[4])
    assert not any(parameter.requires_grad for parameter in last.network.encoder.parameters())


def test_what_is_untrained_is_kept_by_a_resumed_run(films, published_transformer, tmp_path, lightning_imported):
    step(ContrastivePretraining(ContrastiveNetwork(published_transformer)), films, tmp_path / "begun.ckpt")
    resumed = ContrastivePretraining(ContrastiveNetwork(published_transformer))
    resumed.resumes = True
    step(resumed, films, tmp_path / "resumed.ckpt", steps=2, ckpt_path=tmp_path / "begun.ckpt")
    before, after = (untrained(tmp_path / f"{name}.ckpt") for name in ("begun", "resumed"))
    assert before
    assert after == before
