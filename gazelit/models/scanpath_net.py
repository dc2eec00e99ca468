"""The network of scanpaths: it predicts the next fixation from the film and the fixations before."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gazelit.errors import InputError
from gazelit.models.decoder import conv_bn_relu
from gazelit.models.density_grid import at_positions, log_density_at, moved
from gazelit.models.encoder import Encoder
from gazelit.models.heads import enlarged
from gazelit.models.history import LOG_MEDIAN, SHORTEST, History
from gazelit.models.network import Network
from gazelit.models.offset import Offset
from gazelit.models.regions import RegionMaps, Regions
from gazelit.models.registry import EncoderSpec, build_encoder
from gazelit.models.sequences import Sequences

#: Initial spread of a duration's logarithm: that of fixations in reading.
_LOG_SPREAD = 0.5
#: Initial widths of the Gaussians about past fixations, as shares of the image's longer side.
_WIDTHS = (0.03, 0.06, 0.12, 0.25)
#: Length of the vectors that decide how a past fixation changes the density.
_PAIR = 8


class ScanpathNetwork(Network):
    """An encoder, a causal transformer over the fixations so far, and a density of the next fixation.

    A reading's likelihood is exact: the product over its fixations of the density of the place, given film and history;
    of the duration (log-normal), given the place too; and of the chance to stop or to go on. The place's density is a
    grid of chances at ``map_stride``, spread bilinearly (:mod:`gazelit.models.density_grid`). The grid's logits are the
    sum of three terms: a static map, as the history weighs its regions if any are learned
    (:mod:`gazelit.models.regions`); the product of the history's state with the film's features, as in attention; and
    Gaussians about each past fixation, whose widths are learned and whose heights depend on state and lag: saccades
    favour near places, and seen places are inhibited or revisited. If the tracker's constant error is followed
    (:mod:`gazelit.models.offset`), all of this is about the places that were looked at, and the density is moved to
    where the tracker will record them. A reading's steps are trained in one pass.

    The parts are those of DeepGaze III (Kümmerer, Bethge and Wallis, J Vis 2022: a static map and history as
    distances) and of TPP-Gaze (D'Amelio et al., arXiv 2410.23409: durations as a point process), with attention in
    place of a fixed number of past fixations. Many arguments, because each is an option of a configuration.

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
        regions: Regions of the film that are learned and that history weighs (:mod:`gazelit.models.regions`); 1 is the
            static map alone.
        follow_offset: Whether the tracker's constant error of each reading is estimated from its fixations so far;
            needs regions.

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
        regions: int = 1,
        follow_offset: bool = False,
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
        if regions < 1:
            raise InputError(f"regions: must be at least 1, not {regions}")
        if follow_offset and regions == 1:
            raise InputError(
                "follow_offset: needs regions, by which the error is estimated; set regions to 2 or more, or "
                "follow_offset to false"
            )
        self.encoder = build_encoder(spec)
        if map_stride not in self.encoder.strides:
            known = ", ".join(map(str, self.encoder.strides))
            raise InputError(f"map_stride: the encoder has no map at stride {map_stride}; it has {known}")
        self.readers, self.findings = tuple(readers), tuple(findings)
        self.map_stride, self.longest = map_stride, longest
        self.neck = Neck(self.encoder, map_stride, width)
        self.static_head = nn.Conv2d(width, 1, 1) if regions == 1 else None
        self.regions = Regions(regions, width, longest, map_stride) if regions > 1 else None
        self.offset = Offset(len(readers)) if follow_offset else None
        self.history = History(width, layers, heads, longest, len(readers), len(findings), unknown_share, dropout)
        self.next_fixation = NextFixation(width, longest)
        shared = {"width": width, "map_stride": map_stride}
        self.specs = {
            "encoder": spec.primitives(),
            "neck": {**shared, "encoder": spec.name, "options": spec.options},
            **({"static_head": {"in_channels": width, "kernel": 1}} if regions == 1 else
               {"regions": {**shared, "regions": regions, "longest": longest}}),
            **({"offset": {"readers": list(readers)}} if follow_offset else {}),
            "history": {**shared, **{key: self.arguments[key] for key in ("layers", "heads", "longest", "readers",
                                                                         "findings")}},
            "next_fixation": {**shared, "longest": longest},
        }  # fmt: skip

    def forward(self, x: Tensor, sequences: Sequences | None = None) -> dict[str, Tensor]:
        """Predicts every fixation of some readings, given those before it.

        Args:
            x: (B, 1, H, W) in [0, 1]; H and W multiples of the encoder's stride.
            sequences: The readings. Unless given, each film has one of a single fixation at its middle.

        Returns:
            ``saliency_logits`` (B, 1, H, W) of the static map, whose softmax is a density of fixations one by one. Of
            the readings: ``next_log_chance`` (S, T, h, w) of the cells. For each fixation, (S, T) each: the log-density
            of its place (``place``, nats per square pixel) and of its duration (``duration``, nats per s); the
            log-chance of what followed, the end or another fixation (``stop``); the log-density of its place by the
            static map (``static``); ``valid``; ``log_median`` and ``log_spread`` of the duration's logarithm; and
            ``stop_chance``, the chance to stop after it.
        """
        return self.of_features(self.film_features(x), self.middle(x) if sequences is None else sequences)

    def of_features(self, features: Tensor, sequences: Sequences) -> dict[str, Tensor]:
        """The outputs of :meth:`forward`, from those of :meth:`film_features`."""
        sequences = self.history.withheld(sequences)
        film_map = self.film_map(features)
        of_reading, map_of_reading = features[sequences.film], film_map.rows(sequences.film)
        offset = self.offsets(map_of_reading, sequences)[:, :-1]
        looks = sequences._replace(position=sequences.position - offset)
        state = self.history(looks, of_reading, self.map_stride)
        log_chance = self.next_fixation.log_chances(
            state[:, :-1],
            state[:, 1:],
            self.weighed(map_of_reading, state[:, :-1], looks),
            of_reading,
            looks,
            self.map_stride,
        )
        log_chance = self.recorded(log_chance, offset)
        seen = at_positions(of_reading, looks.position, self.map_stride)
        log_median, log_spread = self.next_fixation.durations(state[:, :-1], seen)
        stop = self.next_fixation.stops(state[:, 1:])
        log_place = log_density_at(log_chance, sequences.position, self.map_stride)
        static = film_map.logits
        log_static = static.float().flatten(1).log_softmax(1).view_as(static)[sequences.film]
        log_static = log_static.expand(-1, log_place.shape[1], -1, -1)
        number = torch.arange(1, log_place.shape[1] + 1, device=log_place.device)
        is_last = sequences.ends[:, None] & (sequences.lengths[:, None] == number)
        return {
            "saliency_logits": enlarged(static, self.map_stride),
            "next_log_chance": log_chance,
            "place": log_place,
            "duration": log_normal(sequences.duration, log_median, log_spread),
            "stop": torch.where(is_last, F.logsigmoid(stop), F.logsigmoid(-stop)),
            "static": log_density_at(log_static, sequences.position, self.map_stride),
            "valid": sequences.valid,
            "log_median": log_median,
            "log_spread": log_spread,
            "stop_chance": stop.sigmoid(),
        }

    def film_features(self, x: Tensor) -> Tensor:
        """(B, 1, H, W) to (B, width, H / map_stride, W / map_stride)."""
        self.check_input(x, self.encoder.output_stride)
        return self.neck(self.encoder(x))

    def film_map(self, features: Tensor) -> FilmMap:
        """The static map and, if any are learned, the regions: of (B, width, h, w) features."""
        if self.regions is None:
            assert self.static_head is not None
            return FilmMap(self.static_head(features), None)
        maps = self.regions(features)
        return FilmMap(maps.log_chance(maps.log_size[:, None]), maps)

    def weighed(
        self, film_map: FilmMap, before: Tensor, sequences: Sequences, first: int = 0, share: Tensor | None = None
    ) -> Tensor:
        """The static map's logits as history weighs the regions, (S, N, h, w); the same N = 1 times without regions.

        Args:
            film_map: Of each reading's film.
            before: (S, N, width) states before N fixations.
            sequences: The readings.
            first: Number, from 0, of the fixation that ``before`` begins with.
            share: Of each look in each region, if it is at hand (:meth:`gazelit.models.regions.Regions.share`).
        """
        maps = film_map.regions
        if self.regions is None or maps is None:
            return film_map.logits
        return maps.log_chance(self.regions.log_weights(maps, before, sequences, first, share))

    def offsets(self, film_map: FilmMap, sequences: Sequences) -> Tensor:
        """The tracker's error before each fixation and after the last, (S, T + 1, 2) pixels; 0 unless it is followed.

        Args:
            film_map: Of each reading's film.
            sequences: The readings, as recorded.
        """
        if self.offset is None or self.regions is None or film_map.regions is None:
            count, length = sequences.valid.shape
            return sequences.position.new_zeros(count, length + 1, 2)
        return self.offset(self.regions, film_map.regions, sequences)

    def recorded(self, log_chance: Tensor, offset: Tensor) -> Tensor:
        """Where the tracker will record a look: (…, h, w) of the film and (…, 2) pixels to (…, h, w)."""
        return log_chance if self.offset is None else moved(log_chance, offset, self.map_stride)

    def middle(self, x: Tensor) -> Sequences:
        """For each film a path of one fixation at its middle, of an unknown reader."""
        height, width = x.shape[-2:]
        position = x.new_tensor([(width - 1) / 2, (height - 1) / 2]).expand(len(x), 1, 2)
        unknown = torch.zeros(len(x), dtype=torch.int64, device=x.device)
        return Sequences.alone(position, x.new_full((len(x), 1), 0.3), unknown, unknown)


class FilmMap(NamedTuple):
    """Where readers look on S films, whatever they have looked at.

    Attributes:
        logits: (S, 1, h, w) of the static map.
        regions: What the map is the sum of, if regions are learned.
    """

    logits: Tensor
    regions: RegionMaps | None

    def rows(self, rows: Tensor) -> FilmMap:
        """Some of the films, or films several times."""
        return FilmMap(self.logits[rows], None if self.regions is None else self.regions.rows(rows))


def log_normal(duration: Tensor, log_median: Tensor, log_spread: Tensor) -> Tensor:
    """Log-density of durations (nats per s) whose logarithm is normal; float32, at least at ``SHORTEST``."""
    log = duration.float().clamp(min=SHORTEST).log()
    standard = (log - log_median) / log_spread.exp()
    return -0.5 * standard.square() - log_spread - 0.5 * math.log(2 * math.pi) - log


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
        return self.smooth(torch.cat([found, coordinates.expand(len(found), -1, -1, -1)], dim=1))


class NextFixation(nn.Module):
    """Place, duration and end, from the states of the history.

    Args:
        width: Length of the states and of the film's features.
        longest: Fixations of a reading.
    """

    #: As :attr:`gazelit.models.encoder.Encoder.with_weights`.
    with_weights: ClassVar[tuple[str, ...]] = ("log_chances", "durations", "stops")

    def __init__(self, width: int, longest: int) -> None:
        super().__init__()
        self.query = nn.Linear(width, width)
        self.key = nn.Conv2d(width, width, 1)
        self.log_width = nn.Parameter(torch.tensor(_WIDTHS).log())
        self.pair_query = nn.Linear(width, len(_WIDTHS) * _PAIR)
        self.pair_key = nn.Linear(width, len(_WIDTHS) * _PAIR)
        self.lag = nn.Embedding(longest, len(_WIDTHS))
        self.times = nn.Sequential(nn.Linear(2 * width, width), nn.GELU(), nn.Linear(width, 2))
        self.stop = nn.Linear(width, 1)
        nn.init.zeros_(self.lag.weight)
        nn.init.zeros_(self.pair_query.weight)
        # Initially about fifty fixations a reading.
        nn.init.constant_(self.stop.bias, -4.0)

    def log_chances(
        self,
        before: Tensor,
        after: Tensor,
        static: Tensor,
        features: Tensor,
        sequences: Sequences,
        stride: int,
        first: int = 0,
    ) -> Tensor:
        """Log-chances of the cells, (S, N, h, w) float32. Many arguments: each is another tensor of the forward pass.

        Args:
            before: (S, N, width) states before N fixations.
            after: (S, T, width) states that have seen the T fixations of the readings.
            static: (S, N, h, w) logits of the static map as history weighs its regions; N may be 1.
            features: (S, width, h, w) of the film.
            sequences: The readings.
            stride: Side of a cell.
            first: Number, from 0, of the fixation that ``before`` begins with.
        """
        count, fixations, width = before.shape
        rows, columns = features.shape[-2:]
        alike = self.query(before) @ self.key(features).flatten(2) / math.sqrt(width)
        kinds = len(_WIDTHS)
        query = self.pair_query(before).unflatten(-1, (kinds, _PAIR))
        key = self.pair_key(after).unflatten(-1, (kinds, _PAIR))
        height = torch.einsum("stmd,sumd->stmu", query, key) / math.sqrt(_PAIR)
        step = first + torch.arange(fixations, device=before.device)
        lag = step[:, None] - torch.arange(after.shape[1], device=before.device) - 1
        height = height + self.lag(lag.clamp(min=0)).transpose(1, 2)
        # A fixation changes only what comes after it, and padding changes nothing.
        height = height.masked_fill((lag < 0)[:, None] | ~sequences.valid[:, None, None, :], 0.0)
        down, across = (axis.to(height.dtype) for axis in self._about(sequences.position, (rows, columns), stride))
        # A Gaussian is the product of those of its axes. Many fixations ahead share the map of each past fixation.
        if fixations == 1:
            changed = ((height.flatten(2).mT * down).mT @ across).flatten(1)[:, None]
        else:
            changed = height.flatten(2) @ (down[..., :, None] * across[..., None, :]).flatten(2)
        logits = static.flatten(2) + alike + changed
        return logits.float().log_softmax(-1).view(count, fixations, rows, columns)

    def _about(self, position: Tensor, cells: tuple[int, int], stride: int) -> tuple[Tensor, Tensor]:
        """Gaussians about T fixations, 1 at their middle, by kind: down (S, kinds · T, h), across (S, kinds · T, w)."""
        sigma = self.log_width.float().exp() * stride * max(cells)
        scale = (-0.5 / sigma.square())[:, None, None]
        down, across = (
            (scale * (((torch.arange(count, device=position.device) + 0.5) * stride - 0.5)
                      - position[:, None, :, axis, None].float()).square()).exp().flatten(1, 2)
            for count, axis in ((cells[0], 1), (cells[1], 0))
        )  # fmt: skip
        return down, across

    def durations(self, before: Tensor, seen: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and logarithm of the spread of a duration's logarithm, (S, T) float32 each.

        Args:
            before: (S, T, width) states before each fixation.
            seen: (S, T, width) features of the film where it is.
        """
        values = self.times(torch.cat([before, seen], dim=-1)).float()
        return values[..., 0] + LOG_MEDIAN, values[..., 1].clamp(-3, 3) + math.log(_LOG_SPREAD)

    def stops(self, after: Tensor) -> Tensor:
        """Logits of the chance to stop, float32: states that have seen a fixation, (…, width), to (…)."""
        return self.stop(after)[..., 0].float()
