"""Results as DICOM objects, and the ways to a PACS and back. Needs the extra ``dicom``."""
