"""The network of scanpaths: it predicts the next fixation from the film and the fixations before."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gazelit.errors import InputError
from gazelit.models.decoder import conv_bn_relu
from gazelit.models.density_grid import at_positions, density_on
from gazelit.models.encoder import Encoder
from gazelit.models.heads import enlarged
from gazelit.models.history import History
from gazelit.models.inhibition import Inhibition
from gazelit.models.network import Network
from gazelit.models.offset import Offset, along, looked_at
from gazelit.models.regions import RegionMaps, Regions, anywhere
from gazelit.models.registry import EncoderSpec, build_encoder
from gazelit.models.revisits import Revisits
from gazelit.models.sequences import Sequences
from gazelit.models.timing import Timing, log_normal


class ScanpathNetwork(Network):
    """An encoder, a causal transformer over the fixations so far, and a density of the next fixation.

    A reading's likelihood is exact: the product over its fixations of the density of the place, given film and history;
    of the duration (log-normal), given the place too; and of the chance to stop or to go on. The place's density is a
    mixture of the film's regions, which the history weighs (:mod:`gazelit.models.regions`), and of the static map about
    each past fixation (:mod:`gazelit.models.revisits`). Each part is a grid of chances at ``map_stride``, spread by
    splines (:mod:`gazelit.models.density_grid`). If the tracker's constant error is followed
    (:mod:`gazelit.models.offset`), all of this is about the places that were looked at. A reading's steps are trained
    in one pass.

    The static map and a history of distances are those of DeepGaze III (Kümmerer, Bethge and Wallis, J Vis 2022), and
    durations as a point process those of TPP-Gaze (D'Amelio et al., arXiv 2410.23409), with attention in place of a
    fixed number of past fixations. Both normalise a map for each fixation; a mixture need not. Many arguments, because
    each is an option of a configuration.

    Args:
        encoder: Takes the film; must have a map at ``map_stride``.
        map_stride: Side of a cell in working pixels.
        width: Channels of the film's features and of the history's state.
        layers: Of the transformer.
        heads: Of its attention.
        longest: Number of fixations of a reading that the network sees, the first ones.
        readers: ``reader_id`` of the readers that are learned; all others count as unknown.
        findings: Names of the findings that are searched for, if readings are searches.
        unknown_share: Share of the training readings whose reader is withheld, and of those whose finding is, so that
            a reading of an unknown reader is predicted, too.
        dropout: Of the transformer.
        regions: Regions of the film that are learned and that history weighs.
        follow_offset: Whether the tracker's constant error of each reading is estimated from its fixations so far.

    Raises:
        InputError: The encoder has no map at ``map_stride``, a name repeats, or a number is impossible.
    """

    def __init__(
        self,
        encoder: EncoderSpec,
        map_stride: int = 4,
        width: int = 64,
        layers: int = 2,
        heads: int = 4,
        longest: int = 96,
        readers: Sequence[str] = (),
        findings: Sequence[str] = (),
        unknown_share: float = 0.2,
        dropout: float = 0.1,
        regions: int = 64,
        follow_offset: bool = True,
    ) -> None:
        super().__init__()
        spec = EncoderSpec.of(encoder)
        self.arguments = {
            "encoder": spec.primitives(),
            "map_stride": map_stride,
            "width": width,
            "layers": layers,
            "heads": heads,
            "longest": longest,
            "readers": list(readers),
            "findings": list(findings),
            "unknown_share": unknown_share,
            "dropout": dropout,
            "regions": regions,
            "follow_offset": follow_offset,
        }
        for name, names in (("readers", readers), ("findings", findings)):
            if len(set(names)) < len(names):
                raise InputError(f"{name}: a name repeats; name each once")
        if not 0 <= unknown_share < 1:
            raise InputError(f"unknown_share: must be at least 0 and below 1, not {unknown_share}")
        if width % heads or width < 1 or longest < 1 or layers < 1:
            raise InputError(f"width, layers and longest must be above 0 and heads divide width, not {width} / {heads}")
        if regions < 2:
            raise InputError(f"regions: must be at least 2, not {regions}")
        self.encoder = build_encoder(spec)
        if map_stride not in self.encoder.strides:
            known = ", ".join(map(str, self.encoder.strides))
            raise InputError(f"map_stride: the encoder has no map at stride {map_stride}; it has {known}")
        self.readers, self.findings = tuple(readers), tuple(findings)
        self.map_stride, self.longest = map_stride, longest
        self.neck = Neck(self.encoder, map_stride, width)
        self.regions = Regions(regions, width, map_stride)
        self.inhibition = Inhibition(width)
        self.revisits = Revisits(width, longest, map_stride)
        self.offset = Offset(len(readers)) if follow_offset else None
        self.history = History(width, layers, heads, longest, len(readers), len(findings), unknown_share, dropout)
        self.timing = Timing(width)
        shared = {"width": width, "map_stride": map_stride}
        self.specs = {
            "encoder": spec.primitives(),
            "neck": {**shared, "encoder": spec.name, "options": spec.options},
            "regions": {**shared, "regions": regions},
            "inhibition": {**shared, "regions": regions},
            "revisits": {**shared, "longest": longest},
            **({"offset": {"readers": list(readers)}} if follow_offset else {}),
            "history": {**shared, **{key: self.arguments[key] for key in ("layers", "heads", "longest", "readers",
                                                                         "findings")}},
            "timing": shared,
        }  # fmt: skip

    def forward(self, x: Tensor, sequences: Sequences | None = None) -> dict[str, Tensor]:
        """Predicts every fixation of some readings, given those before it.

        Args:
            x: (B, 1, H, W) in [0, 1]; H and W multiples of the encoder's stride.
            sequences: The readings. Unless given, each film has one of a single fixation at its middle.

        Returns:
            ``saliency_logits`` (B, 1, H, W) of the static map, whose softmax is a density of fixations one by one. Of
            each fixation of the readings, (S, T) each: the log-density of its place (``place``, nats per square pixel)
            and of its duration (``duration``, nats per s); the log-chance of what followed, the end or another fixation
            (``stop``); the log-density of its place by the static map (``static``); ``valid``; ``log_median`` and
            ``log_spread`` of the duration's logarithm; and ``stop_chance``, the chance to stop after it.
        """
        return self.of_features(self.film_features(x), self.middle(x) if sequences is None else sequences)

    def of_features(self, features: Tensor, sequences: Sequences) -> dict[str, Tensor]:
        """The outputs of :meth:`forward`, from those of :meth:`film_features`."""
        sequences = self.history.withheld(sequences)
        maps = self.regions(features).rows(sequences.film)
        looks, log_slope = self.looks(maps, sequences)
        state, seen = self.states(features, looks)
        at = self.regions.at(maps, looks.position)
        log_region = self.region_log_weights(maps, state[:, :-1], looks, at)
        log_weight = self.log_weights(log_region, state[:, :-1], state[:, 1:], looks)
        near = self.revisits.near(maps, looks).at(looks.position, self.map_stride)
        chance = (log_weight.exp() * torch.cat([at, near], -1)).sum(-1)
        log_place = anywhere(chance, math.prod(maps.cells)) + log_slope - 2 * math.log(self.map_stride)
        log_median, log_spread = self.timing.durations(state[:, :-1], seen)
        stop = self.timing.stops(state[:, 1:])
        static = maps.log_static[:, None]
        at_static = at_positions(static.exp(), sequences.position, self.map_stride, sequences.film)[..., 0]
        number = torch.arange(1, log_place.shape[1] + 1, device=log_place.device)
        is_last = sequences.ends[:, None] & (sequences.lengths[:, None] == number)
        return {
            "saliency_logits": enlarged(static, self.map_stride),
            "place": log_place,
            "duration": log_normal(sequences.duration, log_median, log_spread),
            "stop": torch.where(is_last, F.logsigmoid(stop), F.logsigmoid(-stop)),
            "static": at_static.log() - 2 * math.log(self.map_stride),
            "valid": sequences.valid,
            "log_median": log_median,
            "log_spread": log_spread,
            "stop_chance": stop.sigmoid(),
        }

    def film_features(self, x: Tensor) -> Tensor:
        """(B, 1, H, W) to (B, width, H / map_stride, W / map_stride)."""
        self.check_input(x, self.encoder.output_stride)
        # What follows is in its own precision, and reads all features of a cell.
        features = self.neck(self.encoder(x)).to(self.regions.own.dtype)
        return features.contiguous(memory_format=torch.channels_last)

    def next_density(self, features: Tensor, sequences: Sequences) -> Tensor:
        """The density of every fixation's place on the pixels, given the fixations before it.

        Args:
            features: Of :meth:`film_features`.
            sequences: The S readings of T fixations.

        Returns:
            (S, T, H, W) float32, per square pixel. Its sum over the pixels is nearly 1, its integral 1.
        """
        maps = self.regions(features).rows(sequences.film)
        looks, _ = self.looks(maps, sequences)
        state, _ = self.states(features, looks)
        log_region = self.region_log_weights(maps, state[:, :-1], looks, self.regions.at(maps, looks.position))
        chance = self.log_chances(maps, log_region, state[:, :-1], state[:, 1:], looks).exp()
        offset = self.offsets(maps, sequences)[:, :-1, None]
        (rows, down), (columns, across) = (
            along(torch.arange(side, device=chance.device, dtype=offset.dtype), offset[..., axis], side)
            for side, axis in zip(self.size(maps), (1, 0), strict=True)
        )
        return density_on(chance, rows, columns, self.map_stride) * down[..., :, None] * across[..., None, :]

    def looks(self, maps: RegionMaps, sequences: Sequences) -> tuple[Sequences, Tensor]:
        """The readings without the tracker's error, and the logarithm of the slope, (S, T), as ``looked_at`` has it."""
        offset = self.offsets(maps, sequences)[:, :-1]
        position, log_slope = looked_at(sequences.position, offset, self.size(maps))
        return sequences._replace(position=position), log_slope

    def states(self, features: Tensor, looks: Sequences) -> tuple[Tensor, Tensor]:
        """The history's states, (S, T + 1, width), and the film's features at the looks, (S, T, width)."""
        seen = at_positions(features, looks.position, self.map_stride, looks.film)
        return self.history(looks, features, seen, self.map_stride), seen

    def region_log_weights(self, maps: RegionMaps, before: Tensor, looks: Sequences, at: Tensor) -> Tensor:
        """Logarithms of the weights of regions before each of T fixations, up to a constant, (S, T, K) float32.

        Args:
            maps: Of each reading's film.
            before: (S, T, width) states before the fixations.
            looks: The readings, without the tracker's error.
            at: (S, T, K) of :meth:`gazelit.models.regions.Regions.at`.
        """
        return self.inhibition(maps.token, self.regions.log_weights(maps, before, looks), at)

    def log_weights(
        self, log_region: Tensor, before: Tensor, after: Tensor, looks: Sequences, first: int = 0
    ) -> Tensor:
        """Logarithms of the weights of regions and past fixations, (S, N, K + J) float32; the weights sum to 1.

        Args:
            log_region: (S, N, K) of the regions alone, up to a constant.
            before: (S, N, width) states before N fixations.
            after: (S, T, width) states that have seen the readings' T fixations.
            looks: The readings, without the tracker's error.
            first: Number, from 0, of the fixation that ``before`` begins with.
        """
        # A past fixation's weight is beside those of all regions together.
        past = self.revisits.log_weights(before, after, looks.valid, first)
        return torch.cat([log_region.log_softmax(-1), past], -1).log_softmax(-1)

    def log_chances(
        self, maps: RegionMaps, log_region: Tensor, before: Tensor, after: Tensor, looks: Sequences, first: int = 0
    ) -> Tensor:
        """Log-chances of the cells that N fixations look at, (S, N, h, w) float32; arguments as above."""
        weight = self.log_weights(log_region, before, after, looks, first).exp()
        count = self.regions.count
        chance = maps.summed(weight[..., :count])
        if weight.shape[-1] > count:
            chance = chance + self.revisits.near(maps, looks).chances(weight[..., count:])
        return anywhere(chance, math.prod(maps.cells))

    def offsets(self, maps: RegionMaps, sequences: Sequences) -> Tensor:
        """The tracker's error before each fixation and after the last, (S, T + 1, 2) pixels; 0 unless it is followed.

        Args:
            maps: Of each reading's film.
            sequences: The readings, as recorded.
        """
        if self.offset is None:
            count, length = sequences.valid.shape
            return sequences.position.new_zeros(count, length + 1, 2)
        return self.offset(self.regions, maps, sequences)

    def size(self, maps: RegionMaps) -> tuple[int, int]:
        """Height and width of the films in pixels."""
        rows, columns = maps.cells
        return rows * self.map_stride, columns * self.map_stride

    def middle(self, x: Tensor) -> Sequences:
        """For each film a path of one fixation at its middle, of an unknown reader."""
        films, _, height, width = x.shape
        position = x.new_tensor([(width - 1) / 2, (height - 1) / 2]).expand(films, 1, 2)
        unknown = torch.zeros(films, dtype=torch.int64, device=x.device)
        return Sequences.alone(position, x.new_full((films, 1), 0.3), unknown, unknown)


class Neck(nn.Module):
    """The sum of the encoder's maps from ``stride`` on, with the position: a feature pyramid's finest level.

    Lin et al., Feature Pyramid Networks, 2017.

    Args:
        encoder: The encoder whose maps are taken.
        stride: Stride of the result.
        width: Channels of the result.
    """

    def __init__(self, encoder: Encoder, stride: int, width: int) -> None:
        super().__init__()
        self._levels = [level for level, each in enumerate(encoder.strides) if each >= stride]
        self.lateral = nn.ModuleList(nn.Conv2d(encoder.out_channels[level], width, 1) for level in self._levels)
        self.smooth = nn.Sequential(conv_bn_relu(width + 2, width), conv_bn_relu(width, width))

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """Encoder maps, finest first, to (B, width, h, w)."""
        found: Tensor | None = None
        for lateral, level in zip(reversed(self.lateral), reversed(self._levels), strict=True):
            lateral_map = lateral(maps[level])
            if found is not None:
                factor = lateral_map.shape[-1] // found.shape[-1]
                lateral_map = lateral_map + found.repeat_interleave(factor, -2).repeat_interleave(factor, -1)
            found = lateral_map
        assert found is not None
        rows, columns = (
            torch.linspace(-1, 1, size, device=found.device, dtype=found.dtype) for size in found.shape[-2:]
        )
        coordinates = torch.stack(torch.meshgrid(columns, rows, indexing="xy"))
        return self.smooth(torch.cat([found, coordinates.expand(found.shape[0], -1, -1, -1)], dim=1))
