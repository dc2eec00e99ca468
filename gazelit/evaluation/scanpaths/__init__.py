"""Scanpaths compared with yardsticks that see no film."""
