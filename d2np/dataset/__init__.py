"""Many pictures: which ones they are, and their extraction into files."""

from .extraction import Progress, Report, Settings, extract
from .listing import Entry, listing
from .outputs import HlocOutput, KaptureOutput, MatOutput, NpzOutput, Output

__all__ = [
    "Entry",
    "HlocOutput",
    "KaptureOutput",
    "MatOutput",
    "NpzOutput",
    "Output",
    "Progress",
    "Report",
    "Settings",
    "extract",
    "listing",
]
