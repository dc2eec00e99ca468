"""Gaze as a sequence in the batch: reader, position, time and searched finding; and readers who are left out."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from gazelit.data.datamodule import GazeDataModule
from gazelit.data.dataset import collate
from gazelit.data.images.transforms import Augmentation
from gazelit.data.options import GazeOptions, LoaderOptions
from gazelit.data.store.store import Store
from gazelit.errors import InputError
from tests.data.test_datamodule import module

CLASSES = {"labels": ["Normal", "CHF", "pneumonia"]}


def leaving_out(store, name):
    return GazeDataModule(str(store), **CLASSES, gaze=GazeOptions(leave_out=name), loader=LoaderOptions(num_workers=0))


def examples(datamodule, split, training=False):
    dataset = datamodule.datasets[split] if training else datamodule.dataset(split)
    dataset.with_events = True
    return [dataset[0, position] for position in range(len(dataset))]


def test_events_are_the_stores_rows_in_their_order(read_twice):
    datamodule, opened = module(read_twice, **CLASSES), Store.open(read_twice)
    gaze = opened.gaze("fixation")
    for example in examples(datamodule, "test"):
        rows = gaze[gaze["row"] == int(example["index"])]
        expected = opened.letterboxes[int(example["index"])].to_working(rows[["x", "y"]].to_numpy())
        assert example["events"][:, :2].numpy() == pytest.approx(expected, abs=1e-3)
        assert example["events"][:, 2:].numpy() == pytest.approx(rows[["t", "duration"]].to_numpy(), abs=1e-4)
        assert [datamodule.reader_names[number] for number in example["reader"]] == rows["reader_id"].tolist()
        assert sorted(set(example["reading"].tolist())) == list(range(rows["reading_id"].nunique()))
        assert (example["finding"] == -1).all()
    batch = collate(examples(datamodule, "test"))
    assert ((batch["reading"] >= 0).sum(1) == (batch["points"][..., 2] > 0).sum(1)).all()
    assert batch["events"].shape == (*batch["reading"].shape, 4)


def test_batches_have_no_events_unless_a_stage_asks_for_them(read_twice):
    assert "events" not in next(iter(module(read_twice, **CLASSES).test_dataloader()))
    datamodule = module(read_twice, **CLASSES)
    datamodule.with_events = True
    batch = next(iter(datamodule.val_dataloader()))
    assert {"events", "reading", "reader", "finding"} < batch.keys()
    assert batch["reading"].dtype == batch["reader"].dtype == torch.int64


def test_augmentation_moves_and_drops_events_with_their_points(read_twice):
    datamodule = module(read_twice, readings="drawn", **CLASSES)
    dataset = datamodule.datasets["train"]
    dataset.draws = replace(dataset.draws, augmentation=Augmentation(shift=0.4))
    dataset.with_events = True
    for position in range(len(dataset)):
        example = dataset[2, position]
        assert torch.equal(example["events"][:, :2], example["points"][:, :2])
        # The weight of a point is its duration, so rows that were mixed up would not agree.
        assert torch.equal(example["events"][:, 3], example["points"][:, 2])
        assert len(set(example["reading"].tolist())) == 1


def test_a_reader_is_left_out_of_training_and_alone_in_the_test(read_twice):
    everyone = module(read_twice, **CLASSES)
    seen = {
        number for split in ("train", "test") for example in examples(everyone, split) for number in example["reader"]
    }
    names = [everyone.reader_names[int(number)] for number in seen]
    both = set.intersection(
        *({int(n) for example in examples(everyone, split) for n in example["reader"]} for split in ("train", "test"))
    )
    name = everyone.reader_names[min(both)]
    assert name in names
    datamodule = leaving_out(read_twice, name)
    number = datamodule.reader_names.index(name)
    of_test = torch.cat([example["reader"] for example in examples(datamodule, "test")])
    assert len(of_test)
    assert (of_test == number).all()
    for split in ("train", "val"):
        kept = examples(datamodule, split)
        assert not any((example["reader"] == number).any() for example in kept)
        # Numbers of a case's readings have no gaps, so that one can be drawn.
        assert all(
            set(example["reading"].tolist()) == set(range(len(set(example["reading"].tolist())))) for example in kept
        )
    assert not np.array_equal(
        everyone.cohort.mean_maps(everyone.rows("train"))[0].counts,
        datamodule.cohort.mean_maps(everyone.rows("train"))[0].counts,
    )
    assert name not in str(datamodule.provenance["reader_left_out"])
    with pytest.raises(InputError, match=r"gaze\.leave_out: no reader 'nobody'; the store's readers are a, "):
        leaving_out(read_twice, "nobody").setup()
