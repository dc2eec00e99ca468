"""Scanpaths from a trained network: sampled with a seed, or the likeliest one."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from gazelit.errors import InputError
from gazelit.models.density_grid import at_positions, drawn
from gazelit.models.inhibition import Course, Traces
from gazelit.models.offset import looked_at, recorded_at
from gazelit.models.regions import region_chance
from gazelit.models.scanpath_net import ScanpathNetwork
from gazelit.models.sequences import Sequences


class Readings(NamedTuple):
    """Of whom S readings are that are to be predicted.

    Attributes:
        film: (S,) int64 number of the film among the features.
        reader: (S,) int64 number in the network's table; 0 is an unknown reader.
        finding: (S,) int64 likewise.
    """

    film: Tensor
    reader: Tensor
    finding: Tensor

    @classmethod
    def of(cls, features: Tensor, reader: int = 0, finding: int = 0) -> Readings:
        """One reading of each film."""
        film = torch.arange(len(features), device=features.device)
        return cls(film, torch.full_like(film, reader), torch.full_like(film, finding))


@torch.no_grad()
def sample(
    network: ScanpathNetwork, features: Tensor, readings: Readings, draws: int = 1, seed: int = 0
) -> list[Tensor]:
    """Draws scanpaths: place, duration and end of each fixation, given those before.

    Args:
        network: In evaluation mode.
        features: (B, width, h, w) of the films, from ``network.film_features``.
        readings: Of which film, reader and finding S readings are.
        draws: Scanpaths of each reading.
        seed: Seed of the draws. The same seed draws the same paths of the same readings; with other readings beside
            them they are others, and on another device rounding may change one.

    Returns:
        S · ``draws`` paths, reading after reading: (n, 3) float32 x, y in working pixels (centres at integers) and s.
    """
    generator = torch.Generator().manual_seed(seed)
    path = _Path(network, features, Readings(*(part.repeat_interleave(draws) for part in readings)))
    count, device = len(path.position), features.device
    lengths = torch.full((count,), network.longest)
    for step in range(network.longest):
        log_chance, stop = path.ahead()
        if step:
            chance = torch.rand(count, generator=generator, dtype=torch.float64)
            ended = (chance < stop.double().cpu()) & (lengths == network.longest)
            lengths[ended] = step
            if (lengths < network.longest).all():
                break
        position = path.recorded(drawn(log_chance.exp(), network.map_stride, generator).to(device))
        mean, spread = path.duration(position)
        standard = torch.randn(count, generator=generator, dtype=torch.float64).float().to(device)
        path.add(position, (mean + spread.exp() * standard).exp())
    whole = torch.cat([path.position, path.seconds[..., None]], dim=2).cpu()
    return [points[:length] for points, length in zip(whole, lengths.tolist(), strict=True)]


@torch.no_grad()
def likeliest(
    network: ScanpathNetwork,
    features: Tensor,
    reader: int = 0,
    finding: int = 0,
    length: int | None = None,
    beams: int = 8,
) -> Tensor:
    """The likeliest places of a scanpath of some length, by beam search, with median durations.

    A path's likelihood falls with every fixation, so that the likeliest of all paths would be a short one. Therefore
    paths of equal length are compared.

    Args:
        network: In evaluation mode.
        features: (1, width, h, w) of the film, from ``network.film_features``.
        reader: Number in the network's table; 0 is an unknown reader.
        finding: Likewise.
        length: Number of fixations. Unless given, the path ends when half of the readings would have ended.
        beams: Paths that are kept at each step.

    Returns:
        (n, 3) float32 x, y in working pixels (cells' centres, as the tracker records them) and s.

    Raises:
        InputError: The features are of several films, the length is below 1 or more than the network sees, or no beam
            is kept.
    """
    if len(features) != 1:
        raise InputError(f"features: must be of one film, not of {len(features)}")
    if beams < 1:
        raise InputError(f"beams: must be at least 1, not {beams}")
    if length is not None and not 1 <= length <= network.longest:
        raise InputError(f"length: must be 1 to {network.longest}, which the network was trained for, not {length}")
    path = _Path(network, features, Readings.of(features, reader, finding))
    score, goes_on = torch.zeros(1, device=features.device), torch.ones(1, device=features.device)
    for step in range(length or network.longest):
        log_chance, stop = path.ahead()
        if step:
            goes_on = goes_on * (1 - stop)
            if length is None and goes_on[0] < 0.5:
                break
        columns = log_chance.shape[-1]
        total = (score[:, None] + log_chance.flatten(1)).flatten()
        score, chosen = total.topk(min(beams, len(total)))
        beam, cell = chosen // log_chance[0].numel(), chosen % log_chance[0].numel()
        path.take(beam)
        goes_on = goes_on[beam]
        position = path.recorded((torch.stack([cell % columns, cell // columns], 1) + 0.5) * network.map_stride - 0.5)
        mean, _ = path.duration(position)
        path.add(position, mean.exp())
    return torch.cat([path.position[0], path.seconds[0, :, None]], dim=1).cpu()


class _Path:
    """Growing paths, one for each row, all of one length."""

    def __init__(self, network: ScanpathNetwork, features: Tensor, readings: Readings) -> None:
        self.network, self.features, self.maps = network, features, network.regions(features).rows(readings.film)
        self.readings, count = readings, len(readings.film)
        self.position = features.new_zeros(count, 0, 2, dtype=torch.float32)
        self.seconds = self.position.new_zeros(count, 0)
        # What was looked at: the recorded positions without the tracker's error, as estimated before each.
        self._looks = self.position
        self._course = network.inhibition.course(self.maps.token)
        self._traces = Traces.fresh(self._course.noticed)
        # What the looks tell of the error.
        self._evidence = self.position.new_zeros(count, 1, 3)
        self._error = self._estimate()
        history, nothing = network.history, features.new_zeros(count, 0, features.shape[1])
        self._whole = history.whole(self._sequences(self.position, self.seconds), features)
        # States after each fixation so far; the first state is the one before any fixation.
        self._after = nothing
        self._inputs = [nothing] * len(history.layers.layers)
        self._see(history.start.expand(count, -1))

    def _see(self, token: Tensor) -> None:
        network, count = self.network, self.position.shape[1]
        number = network.history.step.weight[count]
        self._state, self._inputs = network.history.after(token + number + self._whole, self._inputs)
        looks = self._sequences(self._looks, self.seconds)
        log_weight = network.regions.log_weights(self.maps, self._state[:, None], looks, count)
        # Of the regions before the next fixation.
        self._log_region = log_weight + self._course.gained(self._traces)[:, None]

    def _sequences(self, position: Tensor, seconds: Tensor) -> Sequences:
        film, reader, finding = self.readings
        return Sequences.alone(position, seconds, reader, finding)._replace(film=film)

    def ahead(self) -> tuple[Tensor, Tensor]:
        """Log-chances of the cells that are looked at next (S, h, w), and the chance that none is (S,)."""
        network, count = self.network, self.position.shape[1]
        looks, before = self._sequences(self._looks, self.seconds), self._state[:, None]
        log_chance = network.log_chances(self.maps, self._log_region, before, self._after, looks, count)
        return log_chance[:, 0], network.timing.stops(self._state).sigmoid()

    def recorded(self, look: Tensor) -> Tensor:
        """Where the tracker will record the next look, (S, 2)."""
        return recorded_at(look, self._error, self.network.size(self.maps))

    def _without_error(self, position: Tensor) -> Tensor:
        """Where the eye looked, of the next recorded positions (S, 2)."""
        return looked_at(position, self._error, self.network.size(self.maps))[0]

    def duration(self, position: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log-spread of the logarithm of the next duration, if the next place is ``position`` (S, 2)."""
        seen = self._seen(self._without_error(position)[:, None])
        mean, spread = self.network.timing.durations(self._state[:, None], seen)
        return mean[:, 0], spread[:, 0]

    def _seen(self, looks: Tensor) -> Tensor:
        """Features of the film where (S, 1, 2) looks are, (S, 1, width)."""
        return at_positions(self.features, looks, self.network.map_stride, self.readings.film)

    def add(self, position: Tensor, seconds: Tensor) -> None:
        """Appends a fixation to each."""
        look = self._without_error(position.float())[:, None]
        position, seconds = position[:, None].float(), seconds[:, None].float()
        self.position = torch.cat([self.position, position], dim=1)
        self.seconds = torch.cat([self.seconds, seconds], dim=1)
        self._looks = torch.cat([self._looks, look], dim=1)
        self._weigh(position, look, seconds)
        # The fixation before is needed for the distance that the gaze has moved.
        seen = self._seen(look).expand(-1, min(2, self.position.shape[1]), -1)
        size = self.network.size(self.maps)
        tokens = self.network.history.tokens(self._looks[:, -2:], self.seconds[:, -2:], seen, size)
        self._see(tokens[:, -1])
        self._after = torch.cat([self._after, self._state[:, None]], dim=1)

    def _weigh(self, position: Tensor, look: Tensor, seconds: Tensor) -> None:
        """Notes what a new look leaves, and what it tells of the tracker's error: (S, 1, 2), (S, 1, 2), (S, 1)."""
        regions, offset = self.network.regions, self.network.offset
        share = region_chance(self._log_region, regions.at(self.maps, look))
        self._traces = self._course.after(self._traces, share[:, 0])
        if offset is not None:
            recorded = self._sequences(position, seconds)
            self._evidence = self._evidence + offset.evidence(regions, self.maps, recorded)
            self._error = self._estimate()

    def _estimate(self) -> Tensor:
        """The tracker's error after the fixations so far, (S, 2) pixels."""
        offset = self.network.offset
        if offset is None:
            return self._evidence[:, 0, :2]
        return offset.estimate(self._evidence, self.network.regions, self.maps, self.readings.reader)[:, 0]

    def take(self, rows: Tensor) -> None:
        """Continues with some of the paths; a path may occur several times."""
        self.position, self.seconds, self._state = self.position[rows], self.seconds[rows], self._state[rows]
        self._looks, self._evidence, self._error = self._looks[rows], self._evidence[rows], self._error[rows]
        self._log_region = self._log_region[rows]
        self._course = Course(*(part[rows] for part in self._course))
        self._traces = Traces(*(part[rows] for part in self._traces))
        self.maps, self._whole = self.maps.rows(rows), self._whole[rows]
        self.readings = Readings(*(part[rows] for part in self.readings))
        self._after, self._inputs = self._after[rows], [each[rows] for each in self._inputs]
