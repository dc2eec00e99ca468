"""Pipelines of stages: their run folders, their steps, and the changes after which a step is repeated."""
