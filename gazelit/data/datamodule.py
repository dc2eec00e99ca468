"""The data module: the data for a trainer."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import lightning as L
from lightning.pytorch.utilities import rank_zero_only
from torch.utils.data import DataLoader

from gazelit.data.dataset import Example, GazeDataset
from gazelit.data.gaze_data import Batch, GazeData
from gazelit.data.sampling import Processes

logger = logging.getLogger("gazelit")


class GazeDataModule(GazeData, L.LightningDataModule):
    """The data for a trainer; its options are those of :class:`gazelit.data.gaze_data.GazeData`.

    If the stage needs them (``needs_events``), batches also hold gaze as a sequence of events; see
    :class:`gazelit.data.dataset.GazeDataset`.
    """

    in_order = False
    _announced = False

    def setup(self, stage: str | None = None) -> None:
        """Opens the store and splits it (cheap when called again); before training logs the content of each split.

        Raises:
            InputError: The store, a label or the split cannot be used.
        """
        cohort = self.cohort
        if stage == "fit" and not self._announced:
            self._announced = True
            rank_zero_only(logger.info)("what is in each split:\n%s", cohort.counts)
            self.warn(cohort.notes())

    @rank_zero_only
    def warn(self, notes: Sequence[str]) -> None:
        """See :meth:`gazelit.data.gaze_data.GazeData.warn`; of several processes the first one warns."""
        super().warn(notes)

    def train_dataloader(self) -> DataLoader[Example]:
        """Training cases, shuffled by seed and epoch."""
        return self._loader(self.datasets["train"], shuffle=True)

    def val_dataloader(self) -> DataLoader[Example]:
        """Validation cases in fixed order."""
        return self._loader(self.datasets["val"], shuffle=False)

    def test_dataloader(self) -> DataLoader[Example]:
        """Test cases in fixed order."""
        return self._loader(self.datasets["test"], shuffle=False)

    def predict_dataloader(self) -> DataLoader[Example]:
        """The cases of ``predict_split`` in fixed order."""
        return self.loader(self.predict_split)

    def on_after_batch_transfer(self, batch: Batch, dataloader_idx: int) -> Batch:
        """Renders the heatmaps on the device."""
        return self.render(batch)

    def _suit(self, dataset: GazeDataset) -> None:
        stage = self.trainer.lightning_module if self.trainer else None
        dataset.with_events = self.with_events or bool(getattr(stage, "needs_events", False))
        dataset.without_films = bool(getattr(stage, "reads_features_alone", False))

    def _processes(self, shuffle: bool) -> Processes:
        """The trainer's processes."""
        if self.trainer is None:
            return Processes()
        by_node = shuffle and self.loading.sampling == "by_node"
        nodes = self.trainer.num_nodes if by_node else 1
        return Processes(self.trainer.world_size, self.trainer.global_rank, nodes)
