"""Comparison of scanpaths with yardsticks that do not use the film."""
