"""A node that stores the instances it is sent, as a PACS does: ``python -m tests.soak.receiver PORT FOLDER``."""

import sys
import threading
from pathlib import Path

from pynetdicom import AE, AllStoragePresentationContexts, evt


def main(port: int, folder: Path) -> None:
    """Listens until it is killed."""

    def keep(event: evt.Event) -> int:
        dataset = event.dataset
        dataset.file_meta = event.file_meta
        folder.mkdir(parents=True, exist_ok=True)
        whole = folder / f"{dataset.SOPInstanceUID}.dcm"
        dataset.save_as(whole.with_suffix(".part"), enforce_file_format=True)
        whole.with_suffix(".part").replace(whole)
        return 0

    entity = AE(ae_title="PACS")
    for context in AllStoragePresentationContexts:
        entity.add_supported_context(context.abstract_syntax, ["1.2.840.10008.1.2.1", "1.2.840.10008.1.2.4.90"])
    entity.start_server(("127.0.0.1", port), block=False, evt_handlers=[(evt.EVT_C_STORE, keep)])
    threading.Event().wait()


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]))
