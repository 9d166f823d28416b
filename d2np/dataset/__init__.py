"""Many images: which ones they are, their extraction into files, and the matching of pairs of them."""

from .assembly import HdfOutput
from .extraction import Progress, Report, Settings, extract
from .listing import Entry, listing
from .outputs import HlocOutput, KaptureOutput, MatOutput, NpzOutput, Output
from .pair_matching import MatchOutput, MatchReport, MatchSettings, all_pairs, listed_pairs, match_pairs
from .pipeline import features_of

__all__ = [
    "Entry",
    "HdfOutput",
    "HlocOutput",
    "KaptureOutput",
    "MatOutput",
    "MatchOutput",
    "MatchReport",
    "MatchSettings",
    "NpzOutput",
    "Output",
    "Progress",
    "Report",
    "Settings",
    "all_pairs",
    "extract",
    "features_of",
    "listed_pairs",
    "listing",
    "match_pairs",
]
