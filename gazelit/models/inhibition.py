"""What a reading has seen so far: how looks at a region make the next look at it less likely, or more.

Readers leave for a while what they have just seen (inhibition of return), and come back to what they have noticed. As
in models of scene viewing (Engbert et al., Integrating mechanisms of visual guidance in naturalistic scene viewing,
J Vis 2015), each region has traces that a look changes and time restores. Here there are two. *Ease* is 1 before a
reading; a look takes a share of it, and each fixation gives back a share of what is missing. *Unseen* is the chance
that the region has not been looked at. A region's weight gains the logarithm of its ease, and another amount once it
has been seen. The shares and the amount follow from what the region is, and are learned.

Nobody tells at which region a look was, where regions overlap. Its place tells, and so does the region's weight before
the look: together they are the chance, by Bayes' rule, with which the look changes the traces. So the traces go
through a reading fixation by fixation.
"""

from __future__ import annotations

from typing import ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from gazelit.models.regions import region_chance

#: Logits before training: a look takes about a quarter of the ease, a fixation gives back a fiftieth of what is gone.
_TAKEN, _RESTORED = -1.0, -4.0
#: An ease is at least this, so that its logarithm is finite.
_LEAST = 1e-20


class Traces(NamedTuple):
    """What S readings have left in K regions.

    Attributes:
        ease: (S, K) float32, from 0 to 1.
        unseen: (S, K) float32, chance that no look was at the region.
    """

    ease: Tensor
    unseen: Tensor

    @classmethod
    def fresh(cls, regions: Tensor) -> Traces:
        """Those before a reading, as many as an (S, K) tensor has entries."""
        return cls(torch.ones_like(regions), torch.ones_like(regions))


class Course(NamedTuple):
    """How traces change, and what they mean, (S, K) float32 each.

    Attributes:
        taken: Share of the ease that a look takes.
        restored: Share of the missing ease that comes back with each fixation.
        noticed: What a region's weight gains once it has been seen (nats).
    """

    taken: Tensor
    restored: Tensor
    noticed: Tensor

    def gained(self, traces: Traces) -> Tensor:
        """What the regions' weights gain, or lose if below 0, (S, K) nats."""
        return traces.ease.clamp(min=_LEAST).log() + self.noticed * (1 - traces.unseen)

    def after(self, traces: Traces, share: Tensor) -> Traces:
        """The traces after a fixation that was at each region with some chance, (S, K)."""
        rested = traces.ease + self.restored * (1 - traces.ease)
        return Traces(rested * (1 - self.taken * share), traces.unseen * (1 - share))


class Inhibition(nn.Module):
    """Traces of the looks of a reading, and what they do to the regions' weights; all in float32.

    Args:
        width: Length of the regions' vectors.
    """

    #: As :attr:`gazelit.models.encoder.Encoder.with_weights`.
    with_weights: ClassVar[tuple[str, ...]] = ("course",)

    def __init__(self, width: int) -> None:
        super().__init__()
        self.courses = nn.Linear(width, 3)
        with torch.no_grad():
            self.courses.weight.mul_(0.1)
            self.courses.bias.copy_(torch.tensor([_TAKEN, _RESTORED, 0.0]))

    def course(self, token: Tensor) -> Course:
        """The course of the traces of regions, from their (S, K, width) vectors."""
        with torch.autocast(token.device.type, enabled=False):
            taken, restored, noticed = self.courses(token).float().unbind(-1)
        return Course(taken.sigmoid(), restored.sigmoid(), noticed)

    def forward(self, token: Tensor, log_weight: Tensor, at: Tensor) -> Tensor:
        """The regions' weights before each of T fixations, with what was seen before it.

        Args:
            token: (S, K, width) what the regions are.
            log_weight: (S, T, K) logarithms of the weights without it.
            at: (S, T, K) chance of each fixation's place by each region.

        Returns:
            (S, T, K) float32, logarithms up to a constant.
        """
        course = self.course(token)
        traces, found = Traces.fresh(course.noticed), []
        for weight, chance in zip(log_weight.unbind(1), at.unbind(1), strict=True):
            found.append(weight + course.gained(traces))
            traces = course.after(traces, region_chance(found[-1], chance))
        return torch.stack(found, 1)
