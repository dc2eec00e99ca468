"""Yardsticks, statistics and comparisons, as numbers."""
