"""Every stage with every objective on encoders of five families: a step, a checkpoint, a hand-over and a resume."""

import lightning as L
import pytest
import torch

from gazelit import losses
from gazelit.checkpoints.stamps import STAMP_KEY
from gazelit.data.datamodule import GazeDataModule
from gazelit.data.options import AugmentationOptions, LoaderOptions
from gazelit.models import ClassificationNetwork, ContrastiveNetwork, DualEncoderUNet, EncoderSpec
from gazelit.stages import ContrastivePretraining, JointFinetuning, SaliencyWarmup, SupervisedFinetuning

# The loader needs no state to resume in mid-epoch, because its batches follow from seed and epoch.
pytestmark = pytest.mark.filterwarnings("ignore:You're resuming from a checkpoint that ended before the epoch ended")

SMALL = EncoderSpec("res-se", options={"widths": [4, 4, 8, 8], "reduction": 4})
ENCODERS = {
    "densenet": (EncoderSpec("densenet-small"), [8, 8, 8, 4, 4]),
    "residual": (EncoderSpec("tu-resnet10t"), [8, 8, 8, 4, 4]),
    "squeeze-excitation": (EncoderSpec("res-se", options={"widths": [4, 4, 8, 8, 16], "reduction": 4}), [8, 8, 4, 4]),
    "convnext": (EncoderSpec("tu-convnext_atto"), [8, 8, 8, 4, 4]),
    "transformer": (EncoderSpec("tu-vit_tiny_patch16_224", options={"depth": 2}), [8, 8, 8, 4, 4]),
}
CONTRASTIVE = {
    "batch-all": {"loss": losses.BatchAllTripletLoss},
    "batch-hard": {"loss": losses.BatchHardTripletLoss},
    "semi-hard": {"loss": losses.BatchSemiHardTripletLoss},
    "supervised": {"loss": losses.SupervisedContrastiveLoss},
    "nt-xent": {"loss": losses.NTXentLoss},
    "gaze": {"loss": losses.SupervisedContrastiveLoss, "pairing": lambda: losses.GazeSimilarity(0.0)},
}
SALIENCY = {
    "kl": (losses.KLDivergenceLoss, {}),
    "cc": (losses.CorrelationLoss, {}),
    "sim": (losses.SimilarityLoss, {}),
    "nss": (losses.NSSLoss, {}),
    "weighted": (lambda: losses.WeightedSaliencyLoss([losses.KLDivergenceLoss(), losses.NSSLoss()], [1.0, 0.1]), {}),
    "deep": (lambda: losses.DeepSupervisionLoss(weights=(0.5, 0.25)), {"side_heads": 2, "centre_prior": True}),
}
JOINT = {
    "fixed": (losses.FixedWeighting, {}, {}),
    "reference": (losses.ReferenceWeighting, {}, {}),
    "uncertainty": (losses.UncertaintyWeighting, {}, {}),
    "dynamic": (losses.DynamicWeightAverage, {}, {}),
    "surgery": (losses.GradientSurgery, {}, {}),
    "gaze-pooling": (losses.FixedWeighting, {"classifier_pooling": "gaze"}, {}),
    "teacher": (losses.FixedWeighting, {"classifier_pooling": "gaze"}, {"teacher_forcing": True}),
}


def build(stage, objective, encoder, widths):
    if stage == "contrastive":
        options = {key: make() for key, make in CONTRASTIVE[objective].items()}
        return ContrastivePretraining(ContrastiveNetwork(encoder, projection=8), **options)
    if stage == "saliency":
        make, options = SALIENCY[objective]
        network = DualEncoderUNet(encoder, SMALL, widths, classes=None, **options)
        return SaliencyWarmup(network, make(), frozen=["encoder"])
    make, options, more = JOINT[objective]
    return JointFinetuning(DualEncoderUNet(encoder, SMALL, widths, **options), weighting=make(), **more)


def next_stage(stage, encoder, widths):
    """The stage that takes over, and the components it must take."""
    if stage == "contrastive":
        return SaliencyWarmup(DualEncoderUNet(encoder, SMALL, widths, classes=None)), ["encoder"]
    if stage == "saliency":
        taken = ["encoder", "saliency_encoder", "decoder", "saliency_head"]
        return JointFinetuning(DualEncoderUNet(encoder, SMALL, widths)), taken
    return SupervisedFinetuning(ClassificationNetwork(encoder)), ["encoder"]


def fit(stage, store, folder, steps, **options):
    trainer = L.Trainer(
        max_steps=steps, limit_val_batches=0, accelerator="cpu", logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, default_root_dir=folder,
    )  # fmt: skip
    views = 2 if getattr(stage, "loss", None).__class__ is losses.NTXentLoss else 1
    data = GazeDataModule(
        str(store), loader=LoaderOptions(batch_size=6, num_workers=0), augmentation=AugmentationOptions(views=views)
    )
    trainer.fit(stage, data, **options)
    assert trainer.global_step == steps
    assert torch.isfinite(trainer.callback_metrics.get("train/loss", torch.zeros(())))
    trainer.save_checkpoint(folder / f"{steps}.ckpt")


CASES = [
    (stage, objective)
    for stage, objectives in (("contrastive", CONTRASTIVE), ("saliency", SALIENCY), ("joint", JOINT))
    for objective in objectives
]


@pytest.mark.parametrize("family", ENCODERS)
@pytest.mark.parametrize(("name", "objective"), CASES, ids=["-".join(case) for case in CASES])
def test_a_step_a_checkpoint_a_hand_over_and_a_resume(name, objective, family, store, tmp_path):
    encoder, widths = ENCODERS[family]
    torch.manual_seed(0)
    stage = build(name, objective, encoder, widths)
    before = {key: value.clone() for key, value in stage.network.named_parameters()}
    fit(stage, store, tmp_path, 1)
    moved = {key for key, value in stage.network.named_parameters() if not torch.equal(value, before[key])}
    expected = {"contrastive": {"encoder", "projector"}, "saliency": {"decoder", "saliency_head", "saliency_encoder"}}
    wanted = expected.get(name, {"encoder", "saliency_encoder", "decoder", "saliency_head", "classifier"})
    assert wanted <= {key.split(".")[0] for key in moved}
    if name == "saliency":
        assert not any(key.startswith("encoder.") for key in moved)

    receiver, taken = next_stage(name, encoder, widths)
    hand_off = receiver.take_over(tmp_path / "1.ckpt")
    assert [component for component in taken if component not in hand_off.loaded] == []
    for component in taken:
        ours = stage.network.get_submodule(component).state_dict()
        for key, value in receiver.network.get_submodule(component).state_dict().items():
            assert torch.equal(value, ours[key])

    resumed = build(name, objective, encoder, widths)
    fit(resumed, store, tmp_path, 2, ckpt_path=tmp_path / "1.ckpt")
    stamp = torch.load(tmp_path / "2.ckpt", weights_only=True)[STAMP_KEY]
    assert stamp["stage"] == name
