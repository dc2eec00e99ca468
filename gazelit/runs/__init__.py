"""Pipelines of stages: their run folders, their steps, and what makes a step again."""
