"""Trainings of several processes: if one is lost, all end, each with a line that names it."""

from gazelit.stages.ranks.callback import RankWatch

__all__ = ["RankWatch"]
