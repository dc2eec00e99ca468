"""Stage 1 with two views, without labels, with balanced classes, and in parts of a batch."""

import lightning as L
import numpy as np
import pandas as pd
import pytest
import torch

from gazelit.data.datamodule import GazeDataModule
from gazelit.data.options import AugmentationOptions, LoaderOptions
from gazelit.errors import InputError
from gazelit.losses import BatchAllTripletLoss, NTXentLoss, SameImage, SupervisedContrastiveLoss
from gazelit.models import ContrastiveNetwork, EncoderSpec
from gazelit.stages import ContrastivePretraining
from tests.tiny import grouped, tiny

NETWORK = {"encoder": EncoderSpec("densenet-small"), "projection": 8}


def batches(data, epoch=0):
    loader = data.train_dataloader()
    loader.sampler.set_epoch(epoch)
    return [data.render(batch) for batch in loader]


def test_two_views_are_two_augmentations_of_the_same_images(store):
    plain = GazeDataModule(str(store), loader=LoaderOptions(batch_size=6, num_workers=0))
    double = GazeDataModule(
        str(store), loader=LoaderOptions(batch_size=6, num_workers=0), augmentation=AugmentationOptions(views=2)
    )
    for batch, two in zip(batches(plain), batches(double), strict=True):
        # The first view is the same as without a second view.
        assert torch.equal(batch["image"], two["image"])
        assert two["other_view"].shape == two["image"].shape
        assert two["other_view"].dtype == torch.float32
        assert not torch.equal(two["other_view"], two["image"])
        shifted = two["other_view"][torch.randperm(6)]
        own = (two["image"] - two["other_view"]).abs().mean()
        assert own < (two["image"] - shifted).abs().mean() + 0.05
    first, second = batches(double)[0], batches(double, 1)
    again = torch.cat([batch["other_view"] for batch in second])
    row = int((torch.cat([batch["index"] for batch in second]) == first["index"][0]).nonzero()[0, 0])
    assert not torch.equal(again[row], first["other_view"][0])


def test_validation_has_a_second_view_that_stays_the_same(store):
    data = GazeDataModule(
        str(store), loader=LoaderOptions(batch_size=6, num_workers=0), augmentation=AugmentationOptions(views=2)
    )
    dataset = data.datasets["val"]
    assert torch.equal(dataset[0, 1]["other_view"], dataset[5, 1]["other_view"])
    assert torch.equal(dataset[0, 1]["image"], dataset[5, 1]["image"])
    assert not torch.equal(dataset[0, 1]["image"], dataset[0, 1]["other_view"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"views": 2, "augment": False}, "views: two views are two augmentations"),
        ({"sampling": "balanced", "exclusive": False}, "sampling: balanced needs exclusive"),
    ],
)
def test_impossible_data_options(options, message, store):
    with pytest.raises(InputError, match=message):
        GazeDataModule(str(store), **grouped(**options))


def test_ntxent_needs_two_views_and_other_objectives_accept_them(store, run_gazelit):
    short = [*tiny(1, store), "--trainer.fast_dev_run=true"]
    config = "--config=presets/quick/stage1.yaml"
    loss = "--model.loss=gazelit.losses.NTXentLoss"
    printed = run_gazelit("fit", config, *short, loss, code=2)
    assert "SameImage compares two views of an image; set --data.augmentation.views=2" in printed
    run_gazelit("fit", config, *short, loss, "--data.augmentation.views=2")
    run_gazelit("fit", config, *short, "--data.augmentation.views=2", "--model.pairing=gazelit.losses.GazeSimilarity")


def test_the_losses_of_two_views_see_all_embeddings(store):
    torch.manual_seed(0)
    stage = ContrastivePretraining(ContrastiveNetwork(**NETWORK), SupervisedContrastiveLoss(), SameImage()).eval()
    batch = batches(
        GazeDataModule(
            str(store), loader=LoaderOptions(batch_size=6, num_workers=0), augmentation=AugmentationOptions(views=2)
        )
    )[0]
    loss, outputs, _ = stage._step(batch)
    first, second = (stage.network(batch[key])["embedding"] for key in ("image", "other_view"))
    assert torch.allclose(outputs["embedding"], first)
    assert loss.item() == pytest.approx(
        SupervisedContrastiveLoss()(torch.cat([first, second]), torch.arange(6).repeat(2)).item()
    )


def test_unlabelled_films_of_mimic_cxr_train_an_encoder(mimic, run_gazelit, tmp_path):
    run_gazelit("prepare", "--source=MIMICCXR", f"--source.root={mimic / 'mimic-cxr-jpg'}", "--size=[64, 64]",
                "--workers=1", "--out=s")  # fmt: skip
    run_gazelit(
        "fit", "--config=presets/quick/stage1.yaml", *tiny(1, tmp_path / "s"), "--trainer.max_epochs=1",
        "--model.loss=gazelit.losses.NTXentLoss", "--data.augmentation.views=2",
        "--data.labels=[]", "--data.exclusive=false",
        "--checkpoint.dirpath=run/checkpoints",
    )  # fmt: skip
    row = pd.read_csv(tmp_path / "run" / "epochs.csv").iloc[0]
    assert np.isfinite(row[["train/loss", "val/loss"]].astype(float)).all()
    assert row["val/loss"] > 0


def test_balanced_sampling_draws_as_many_of_every_class(store):
    data = GazeDataModule(str(store), loader=LoaderOptions(batch_size=4, num_workers=0, sampling="balanced"))
    labels = data.labels[data.rows("train")]
    natural = np.bincount(labels)
    assert natural.max() > natural.min()
    loader = data.train_dataloader()
    drawn = []
    for epoch in range(3):
        loader.sampler.set_epoch(epoch)
        positions = [position for _, position in loader.sampler]
        assert len(positions) == len(labels)
        counts = np.bincount(labels[positions], minlength=3)
        assert counts.max() - counts.min() <= 1
        drawn.append(positions)
    assert drawn[0] != drawn[1]
    loader.sampler.set_epoch(0)
    assert [position for _, position in loader.sampler] == drawn[0]
    # No case of the commonest class is drawn twice.
    common = int(natural.argmax())
    assert len({row for row in drawn[0] if labels[row] == common}) == counts[common]


def test_processes_share_a_balanced_epoch(store):
    from gazelit.data.sampling import EpochSampler, Processes

    data = GazeDataModule(str(store), loader=LoaderOptions(num_workers=0))
    dataset, classes = data.datasets["train"], data.labels[data.rows("train")]
    whole = [position for _, position in EpochSampler(dataset, True, 0, Processes(), classes)]
    shares = [
        [position for _, position in EpochSampler(dataset, True, 0, Processes(2, rank), classes)] for rank in range(2)
    ]
    assert len(shares[0]) == len(shares[1])
    together = [row for pair in zip(*shares, strict=True) for row in pair]
    assert together[: len(whole)] == whole or sorted(set(together)) == sorted(set(whole))


@pytest.mark.parametrize("loss", [BatchAllTripletLoss(), NTXentLoss()])
def test_micro_batches_have_the_gradient_of_the_whole_batch(loss, store):
    batch = batches(
        GazeDataModule(
            str(store), loader=LoaderOptions(batch_size=6, num_workers=0), augmentation=AugmentationOptions(views=2)
        )
    )[0]
    gradients = []
    for size in (None, 2):
        torch.manual_seed(0)
        stage = ContrastivePretraining(ContrastiveNetwork(**NETWORK), loss, micro_batch=size).double().train()
        # BatchNorm of a part of a batch differs from that of the whole batch.
        for module in stage.network.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.eval()
        double = {key: value.double() if value.is_floating_point() else value for key, value in batch.items()}
        stage._step(double)[0].backward()
        gradients.append([parameter.grad for parameter in stage.network.parameters()])
    for whole, by_parts in zip(*gradients, strict=True):
        assert torch.allclose(whole, by_parts, rtol=1e-4, atol=1e-7)


def test_micro_batches_count_batchnorm_statistics_once(store, tmp_path):
    torch.manual_seed(0)
    stage = ContrastivePretraining(ContrastiveNetwork(**NETWORK), micro_batch=3)
    trainer = L.Trainer(
        max_steps=2, limit_val_batches=0, accelerator="cpu", logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, default_root_dir=tmp_path,
    )  # fmt: skip
    trainer.fit(stage, GazeDataModule(str(store), loader=LoaderOptions(batch_size=6, num_workers=0)))
    # Two steps of two parts.
    assert stage.network.encoder.features.norm0.num_batches_tracked.item() == 4
    with pytest.raises(InputError, match="micro_batch"):
        ContrastivePretraining(ContrastiveNetwork(**NETWORK), micro_batch=1)


def test_every_epoch_logs_how_well_features_separate_the_classes(store, run_gazelit, tmp_path):
    options = ["--trainer.max_epochs=2", "--data.downscale=1", "--checkpoint.dirpath=run/checkpoints"]
    run_gazelit("fit", "--config=stage1.yaml", *tiny(1, store), *options)
    curve = pd.read_csv(tmp_path / "run" / "epochs.csv")
    for name in ("val/knn_auroc_macro", "val/probe_auroc_macro"):
        assert curve[name].between(0, 1).all() or curve[name].isna().all()
    network = ContrastiveNetwork(**NETWORK).eval()
    with torch.no_grad():
        given = network(torch.rand(2, 1, 64, 64))
    assert given["embedding"].shape == (2, 8)
    assert given["features"].shape == (2, network.encoder.embedding_channels)
