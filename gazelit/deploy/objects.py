"""From a reading to the bytes of its DICOM results."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from gazelit.deploy.inference import LoadedModel
from gazelit.deploy.reading import Reading
from gazelit.deploy.region import SHARE
from gazelit.errors import InputError

#: Kinds of results; the default kinds; those that need only a map.
Kind = Literal["sr", "sc", "seg", "fractional", "gsps"]
DEFAULT_KINDS: tuple[Kind, ...] = ("sr", "sc")
OF_MAPS: tuple[Kind, ...] = ("seg", "fractional")


@dataclass(frozen=True)
class DicomOptions:
    """Which DICOM results are made, and how.

    Attributes:
        kinds: Kinds of the results.
        share: Share of the map's mass that outline and segmentation hold.
        made: Start of the run.
        key: Key of the new UIDs of PS3.15's basic profile; if empty, the film's own header is kept.
    """

    kinds: tuple[Kind, ...]
    share: float = SHARE
    made: datetime = datetime.min
    key: bytes = b""


def objects_of(model: LoadedModel, reading: Reading, options: DicomOptions) -> dict[str, bytes]:
    """The DICOM files of a reading, by kind.

    Args:
        model: The model that reads.
        reading: The reading of a film whose header and display were kept.
        options: The results that are made.

    Raises:
        InputError: The film is no DICOM file, its header cannot carry a result, or the extra ``dicom`` is missing.
    """
    film = reading.film
    if film.header is None or film.display is None:
        raise InputError("a result is made of DICOM films alone")
    try:
        from gazelit.deploy.dicom.deidentify import deidentified
        from gazelit.deploy.dicom.evidence import Evidence
        from gazelit.deploy.dicom.header import completed
        from gazelit.deploy.dicom.origin import Origin
        from gazelit.deploy.dicom.results import dicom_bytes, dicom_results
    except ModuleNotFoundError as error:
        raise InputError(f"--dicom needs {error.name}; install it with: pip install 'gazelit[dicom]'") from error
    header, made = completed(film.header), options.made
    if options.key:
        # The time of a run would show when a film was read; the profile keeps no times.
        header, made = deidentified(header, options.key), datetime.min
    spread, density = reading.spread, reading.working_saliency
    evidence = Evidence(
        header=header,
        film=film.display,
        probabilities=reading.probabilities,
        deviations={} if spread is None else spread.deviations,
        warnings=reading.warnings,
        density=density,
        box=reading.letterbox,
        origin=Origin(model.sha256, str(model.stamp["stage"]), reading.notice, made),
        share=options.share,
    )
    kinds = [kind for kind in options.kinds if density is not None or kind not in OF_MAPS]
    return {kind: dicom_bytes(result) for kind, result in dicom_results(evidence, kinds).items()}
