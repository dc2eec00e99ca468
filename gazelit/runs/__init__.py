"""Pipelines of stages: what is run, in which folder, and when it need not be run again."""
