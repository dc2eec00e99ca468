"""The sections of a report: what was measured, as blocks of a document."""
