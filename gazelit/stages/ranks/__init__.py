"""Trainings of several processes: that a lost one ends them all, with a line that names it."""

from gazelit.stages.ranks.callback import RankWatch

__all__ = ["RankWatch"]
