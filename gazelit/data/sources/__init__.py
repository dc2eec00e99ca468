"""Datasets as they lie on disk, one file each."""

from gazelit.data.sources.egd import EGDCXR

__all__ = ["EGDCXR"]
