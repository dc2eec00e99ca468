"""The outline and the reading's words as a softcopy presentation state over the film itself."""

from __future__ import annotations

import highdicom as hd
import numpy as np
from pydicom.dataset import Dataset

from gazelit.deploy.dicom.evidence import Evidence

_SERIES_NUMBER = 9005
#: Text stands in the upper left corner of the display, in shares of it.
_TEXT_AT = (0.02, 0.02, 0.9, 0.3)


def presentation_state(evidence: Evidence) -> Dataset:
    """A Grayscale Softcopy Presentation State: the outline of the map's peak, and the reading in words.

    Args:
        evidence: The film and its reading.

    Returns:
        The presentation state; the film's own window stays in force.
    """
    header, origin = evidence.header, evidence.origin
    layer = hd.pr.GraphicLayer("GAZELIT", order=1, description=origin.notice[:64])
    graphics = []
    if evidence.outline is not None:
        line = np.asarray(evidence.outline, np.float32)
        uid = evidence.uid("gsps", "saliency")
        graphics.append(hd.pr.GraphicObject("POLYLINE", line, "PIXEL", tracking_id="saliency", tracking_uid=uid))
    text = hd.pr.TextObject(
        text_value="\r\n".join(evidence.lines())[:1024],
        units="DISPLAY",
        bounding_box=_TEXT_AT,
        text_justification="LEFT",
    )
    annotation = hd.pr.GraphicAnnotation(
        referenced_images=[header], graphic_layer=layer, graphic_objects=graphics or None, text_objects=[text]
    )
    result = hd.pr.GrayscaleSoftcopyPresentationState(
        referenced_images=[header],
        **evidence.identity("gsps", _SERIES_NUMBER),
        **origin.equipment(),
        content_label="GAZELIT",
        content_description=origin.notice[:64],
        graphic_annotations=[annotation],
        graphic_layers=[layer],
    )
    # Type 2C of the series; empty, because the value is not known.
    result.Laterality = header.get("Laterality", "")
    return result
