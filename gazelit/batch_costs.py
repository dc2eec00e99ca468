"""The file with the time and memory of a batch: written by a training that is tried, read by the run that tries it."""

#: Name of the file among a run's others; filled in with ``fit``, ``test`` or ``predict``.
MEASURED = "measured-{}.json"
#: The first batch includes what is done once; the second is measured.
BATCHES = 2
