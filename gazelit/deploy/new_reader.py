"""``gazelit adapt-reader``: learns a new reader's vector from a few readings; all else stays the same."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from gazelit.checkpoints import split_guard, stamps
from gazelit.data.dataset import collate
from gazelit.data.gaze_data import GazeData
from gazelit.data.saved import config_of, saved_data
from gazelit.density import log_density
from gazelit.deploy.inference import load_model
from gazelit.errors import InputError
from gazelit.losses.scanpath import FACTORS
from gazelit.models.network import rebuild
from gazelit.models.reader_unet import ReaderUNet
from gazelit.models.scanpath_net import ScanpathNetwork
from gazelit.models.sequences import Sequences
from gazelit.stages.reader_conditional import readings_of

logger = logging.getLogger("gazelit")

#: Of the fit at most; it converges in some ten, as a prior keeps it near.
STEPS = 100


def adapt_reader(
    ckpt: str,
    reader: str,
    out: Path,
    k: int = 5,
    seed: int = 0,
    stage_config: Path | None = None,
    store: str | None = None,
    device: str = "cpu",
) -> None:
    """Writes a checkpoint that also has a new reader, learned from k readings.

    In a model of scanpaths or of maps by reader only the new reader's vector (and the mean error of the tracker with
    this reader, if the model follows it) is fitted, by maximum a posteriori: the likelihood of the k readings'
    fixations, and a Gaussian prior about the unknown reader's vector with the spread of the known readers' vectors. The
    k readings are of films of the training split, which the model may have seen with other readers; the reader's
    readings of the test split only measure the gain.

    Args:
        ckpt: A checkpoint of the stage ``scanpath`` or ``reader_conditional``.
        reader: ``reader_id`` of the new reader.
        out: The file to write.
        k: Number of readings to learn from.
        seed: Seed of the choice of the readings.
        stage_config: The ``config.yaml`` of its training; the one beside its ``checkpoints`` unless given.
        store: Store to take the readings from; that of the training unless given.
        device: Where the network runs, such as ``cuda``.

    Raises:
        InputError: The checkpoint knows no readers or this one already, the store has too few of the reader's readings,
            or a number is impossible.
    """
    if k < 1:
        raise InputError(f"k: must be at least 1, not {k}")
    model = load_model(ckpt, device)
    network = model.network
    if not isinstance(network, (ScanpathNetwork, ReaderUNet)):
        raise InputError(
            f"{ckpt}: stage {model.stamp['stage']} knows no readers; give a checkpoint of scanpath or of "
            "reader_conditional"
        )
    if reader in network.readers:
        raise InputError(f"reader: {reader} is known to the model already")
    config = config_of(ckpt, stage_config)
    # The reader's own gaze, whatever the model was trained on.
    own_gaze = {"leave_out": None, "control": "true", "cases": None}
    data = saved_data(config, [f"--data.store={store}"] if store else [], own_gaze)
    if note := split_guard.check_split(ckpt, model.stamp, data.provenance):
        logger.info("%s", note)
    if reader not in data.reader_names:
        raise InputError(f"reader: {reader} has read no film of {data.store_path}")
    support, held_out = (_read_by(data, reader, split) for split in ("train", "test"))
    if len(support) < k or not len(held_out):
        raise InputError(
            f"reader: {reader} read {len(support)} films of the training split and {len(held_out)} of the test; {k} of "
            "the first are needed, and one at least of the second"
        )
    rows = np.random.default_rng(seed).permutation(support)[:k]
    grown = with_reader(network, reader).to(model.device).eval()
    test = batches_of(data, "test", held_out, reader)
    before = mean_information(grown, test, 0)
    fit_reader(grown, next(batches_of(data, "train", rows, reader, len(rows))))
    after = mean_information(grown, batches_of(data, "test", held_out, reader), len(grown.readers))
    checkpoint = stamps.read_checkpoint(ckpt)
    checkpoint["state_dict"] |= {f"network.{key}": value.cpu() for key, value in grown.state_dict().items()}
    stamp = checkpoint[stamps.STAMP_KEY]
    stamp["network"], stamp["components"] = grown.config, grown.specs
    stamp["reader_adapted"] = {"of": model.sha256, "films": int(k), "seed": seed}
    stamps.save_checkpoint(checkpoint, out)
    logger.info(
        "%s: learned from %d films; on %d test films %.3f bits a fixation over an even density as an unknown reader, "
        "%.3f as this reader", out, k, len(held_out), before, after,
    )  # fmt: skip


def tables_of(network: ScanpathNetwork | ReaderUNet) -> list[nn.Embedding]:
    """What a network has for each reader; entry 0 is that of an unknown reader."""
    if isinstance(network, ReaderUNet):
        return [network.reader_film.table]
    return [network.history.reader, *([] if network.offset is None else [network.offset.mean])]


def with_reader(network: ScanpathNetwork | ReaderUNet, name: str) -> ScanpathNetwork | ReaderUNet:
    """The same network with one more reader, whose vectors are those of an unknown reader until they are fitted."""
    config = network.config
    arguments = {**config["init_args"], "readers": [*network.readers, name]}
    grown = rebuild({**config, "init_args": arguments})
    assert isinstance(grown, (ScanpathNetwork, ReaderUNet))
    state = network.state_dict()
    for weight in (table.weight.detach() for table in tables_of(network)):
        key = next(key for key, value in state.items() if value.data_ptr() == weight.data_ptr())
        state[key] = torch.cat([weight, weight[:1]])
    grown.load_state_dict(state)
    return grown


def fit_reader(network: ScanpathNetwork | ReaderUNet, batch: dict[str, Tensor]) -> None:
    """Fits the last reader's vectors to the readings of a batch of films, in place."""
    weights = [table.weight for table in tables_of(network)]
    for parameter in network.parameters():
        parameter.requires_grad_(False)
    for weight in weights:
        weight.requires_grad_(True)
    unknown = [weight.detach()[0].clone() for weight in weights]
    spreads = [weight.detach()[1:-1].std(correction=0).clamp(min=1e-3) for weight in weights]
    # A few vectors and no noise. The other rows are not used: their gradient is zero, and they stay.
    optimizer = torch.optim.LBFGS(weights, max_iter=STEPS, line_search_fn="strong_wolfe")
    likelihood = likelihood_of(network, batch)

    def loss() -> Tensor:
        optimizer.zero_grad()
        away = zip(weights, unknown, spreads, strict=True)
        prior = torch.stack([0.5 * ((weight[-1] - mean) / spread).square().sum() for weight, mean, spread in away])
        found = prior.sum() - likelihood(len(network.readers), True).sum()
        torch.autograd.backward(found)
        return found

    optimizer.step(loss)  # type: ignore[no-untyped-call]


def mean_information(network: ScanpathNetwork | ReaderUNet, batches: Iterable[dict[str, Tensor]], reader: int) -> float:
    """Mean bits a fixation over an even density, of readings by one reader."""
    logs = []
    for batch in batches:
        height, width = batch["image"].shape[-2:]
        with torch.no_grad():
            logs.append(likelihood_of(network, batch)(reader, False).double().cpu() + np.log(height * width))
    return float(torch.cat(logs).mean() / np.log(2))


def likelihood_of(network: ScanpathNetwork | ReaderUNet, batch: dict[str, Tensor]) -> Callable[[int, bool], Tensor]:
    """Log-likelihood of a batch's fixations as read by one reader; the film's features are made once.

    Returns:
        A function of the reader's number in the network's table and of whether durations and ends count, too: (N,)
        nats a fixation, per square pixel.
    """
    device = tables_of(network)[0].weight.device
    batch = {name: value.to(device) for name, value in batch.items()}
    unknown = torch.zeros(1, dtype=torch.int64)
    if isinstance(network, ScanpathNetwork):
        sequences = Sequences.of({**batch, "reader": batch["reader"] * 0 - 1}, unknown, unknown, network.longest)
        with torch.no_grad():
            features = network.film_features(batch["image"])

        def of_paths(reader: int, all_factors: bool) -> Tensor:
            outputs = network.of_features(features, sequences._replace(reader=torch.full_like(sequences.film, reader)))
            names = FACTORS if all_factors else FACTORS[:1]
            return torch.stack([outputs[name] for name in names]).sum(0)[sequences.valid]

        return of_paths
    readings = readings_of(batch, unknown.expand(int(batch["reader"].max()) + 2))
    with torch.no_grad():
        last = network.decoded(batch["image"])[1][-1]
    height, width = batch["image"].shape[-2:]
    row, event = (readings["points"][..., 2] > 0).nonzero(as_tuple=True)
    x, y = readings["points"][row, event, :2].round().long().T
    column, line = x.clamp(0, width - 1), y.clamp(0, height - 1)

    def of_maps(reader: int, all_factors: bool) -> Tensor:
        number = torch.full_like(readings["film"], reader)
        log = log_density(network.maps(last, readings["film"], number)["saliency_logits"])[:, 0]
        return log[row, line, column]

    return of_maps


def batches_of(
    data: GazeData, split: str, rows: NDArray[np.int64], reader: str, size: int = 8
) -> Iterator[dict[str, Tensor]]:
    """Films of a split in batches with the events of only one reader."""
    dataset = data.dataset(split)
    dataset.with_events = True
    position = {int(row): number for number, row in enumerate(dataset.rows)}
    number = data.reader_names.index(reader)
    for first in range(0, len(rows), size):
        batch = data.render(collate([dataset[0, position[int(row)]] for row in rows[first : first + size]]))
        yield {**batch, "reading": batch["reading"].masked_fill(batch["reader"] != number, -1)}


def _read_by(data: GazeData, reader: str, split: str) -> NDArray[np.int64]:
    """Rows of the films of a split that a reader read."""
    number = data.reader_names.index(reader)
    rows = {reading.row for reading in data.cohort.scanpaths(split) if reading.reader == number}
    return np.array(sorted(rows), np.int64)
