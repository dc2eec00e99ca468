"""Readers of datasets in their published formats, one file each."""

from gazelit.data.sources.cxr_p import CXRP
from gazelit.data.sources.egd import EGDCXR
from gazelit.data.sources.eyeassist import EyeAssist
from gazelit.data.sources.gazeintent import GazeIntent
from gazelit.data.sources.gazesearch import GazeSearch
from gazelit.data.sources.gazevalm import GazeVaLM
from gazelit.data.sources.manifest import Manifest
from gazelit.data.sources.mimic import MIMICCXR
from gazelit.data.sources.pysaliency import Pysaliency
from gazelit.data.sources.reflacx import REFLACX
from gazelit.data.sources.union import Union

__all__ = [
    "CXRP",
    "EGDCXR",
    "MIMICCXR",
    "REFLACX",
    "EyeAssist",
    "GazeIntent",
    "GazeSearch",
    "GazeVaLM",
    "Manifest",
    "Pysaliency",
    "Union",
]
