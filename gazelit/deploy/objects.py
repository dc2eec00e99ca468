"""From a reading to the bytes of its DICOM results."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from gazelit.deploy.inference import LoadedModel
from gazelit.deploy.reading import Reading
from gazelit.deploy.region import SHARE
from gazelit.errors import InputError


@dataclass(frozen=True)
class DicomOptions:
    """Which DICOM results are made, and how.

    Attributes:
        kinds: Names of :data:`gazelit.deploy.dicom.results.WRITERS`.
        share: Of the map's mass that outline and segmentation hold.
        made: When the run began.
        deidentify: Whether PS3.15's basic profile is applied.
        out: Folder of the key by which de-identified UIDs are made.
    """

    kinds: tuple[str, ...]
    share: float = SHARE
    made: datetime = datetime.min
    deidentify: bool = False
    out: Path = Path()


def objects_of(model: LoadedModel, reading: Reading, options: DicomOptions) -> dict[str, bytes]:
    """The DICOM files of a reading, by kind.

    Args:
        model: Who reads.
        reading: What is read, of a film whose header and display were kept.
        options: Which files.

    Raises:
        InputError: The film is no DICOM file, its header cannot carry a result, or the extra ``dicom`` is missing.
    """
    film = reading.film
    if film.header is None or film.display is None:
        raise InputError("a result is made of DICOM films alone")
    try:
        from gazelit.deploy.dicom.deidentify import deidentified, folder_key
        from gazelit.deploy.dicom.evidence import Evidence
        from gazelit.deploy.dicom.header import completed
        from gazelit.deploy.dicom.origin import Origin
        from gazelit.deploy.dicom.results import dicom_bytes, dicom_results
    except ModuleNotFoundError as error:
        raise InputError(f"--dicom needs {error.name}; install it with: pip install 'gazelit[dicom]'") from error
    evidence = Evidence(
        header=completed(film.header),
        film=film.display,
        probabilities=reading.probabilities,
        deviations={} if reading.spread is None else reading.spread.deviations,
        warnings=reading.warnings,
        density=reading.working_saliency,
        box=reading.letterbox,
        origin=Origin(model.sha256, str(model.stamp["stage"]), reading.notice, options.made),
        share=options.share,
    )
    kinds = [kind for kind in options.kinds if reading.working_saliency is not None or kind not in ("seg", "fractional")]
    results = dicom_results(evidence, kinds)
    if options.deidentify:
        key = folder_key(options.out)
        results = {kind: deidentified(result, key) for kind, result in results.items()}
    return {kind: dicom_bytes(result) for kind, result in results.items()}
