"""Yardsticks, statistics, comparisons: numbers alone."""
