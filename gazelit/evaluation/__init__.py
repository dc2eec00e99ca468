"""Evaluation in numbers: yardsticks, statistics and comparisons."""
