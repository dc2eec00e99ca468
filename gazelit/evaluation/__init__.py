"""Yardsticks, statistics, figures and the report."""
