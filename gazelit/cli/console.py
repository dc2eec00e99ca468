"""Messages that a training does not print: adverts, and warnings that are harmless, each with the reason."""

from __future__ import annotations

import logging
import warnings

#: Beginnings (regular expressions) of messages that are of no use to a user of gazelit, with the reason.
HARMLESS = {
    r"`isinstance\(treespec, LeafSpec\)` is deprecated": "Lightning's own use of a torch function",
    r"(?s).*(skip_none|instantiate_classes|add_instantiator).* deprecated": "Lightning's own use of jsonargparse",
    r"\s*By default only one JsonargparseDeprecationWarning": "what jsonargparse says after the one above",
    r"Found \d+ module\(s\) in eval mode at the start of training": "frozen components are meant to be",
    r"The number of training batches .* is smaller than the logging interval": "values are logged once an epoch",
    r"Checkpoint directory .* exists and is not empty": "a resumed run goes on in its folder",
    r"FSDP2-wrapped module .* returned a view tensor": "parts hand their maps on; nothing changes a map in place",
    r"The '?\w+'? ?does not have many workers": "the number is configured; one core has no use for more",
}
#: Parts of log messages that are adverts, repeat the configuration, or say that there is no TPU.
ADVERTS = ("LitLogger", "Seed set to", "TPU available: False", "`Trainer.fit` stopped: `max_")
#: Lightning's loggers of such messages.
_LOGGERS = ("lightning.pytorch.utilities.rank_zero", "lightning.fabric.utilities.seed")


def quiet_console() -> None:
    """Leaves :data:`HARMLESS` warnings and :data:`ADVERTS` out for the rest of the process."""
    for message in HARMLESS:
        warnings.filterwarnings("ignore", message=message)
    for name in _LOGGERS:
        logging.getLogger(name).addFilter(_is_no_advert)


def _is_no_advert(record: logging.LogRecord) -> bool:
    return not any(word in record.getMessage() for word in ADVERTS)
