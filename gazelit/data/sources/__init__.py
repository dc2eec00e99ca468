"""Datasets as they lie on disk, one file each."""

from gazelit.data.sources.cxr_p import CXRP
from gazelit.data.sources.egd import EGDCXR
from gazelit.data.sources.gazesearch import GazeSearch
from gazelit.data.sources.manifest import Manifest
from gazelit.data.sources.mimic import MIMICCXR
from gazelit.data.sources.pysaliency import Pysaliency
from gazelit.data.sources.reflacx import REFLACX
from gazelit.data.sources.union import Union

__all__ = ["CXRP", "EGDCXR", "MIMICCXR", "REFLACX", "GazeSearch", "Manifest", "Pysaliency", "Union"]
