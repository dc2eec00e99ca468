"""gazelit: joint chest X-ray diagnosis and radiologist-gaze prediction in stages.

Importing the package does not import torch, so that ``gazelit --version`` answers at once.
"""

__version__ = "0.1.0"
