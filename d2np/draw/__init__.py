"""Images of what was found, with Pillow and NumPy alone: keypoints, matches and the strength map.

Each function takes the image as :class:`d2np.Net` takes it (a path, a :class:`PIL.Image.Image` or an
array) and returns a new RGB :class:`PIL.Image.Image`; the same input always gives the same pixels.
``keypoint_page`` and ``match_page`` return the text of a web page to explore them in.
"""

from .heat import heatmap
from .html import keypoint_page, match_page
from .overlays import keypoints, matches

__all__ = ["heatmap", "keypoint_page", "keypoints", "match_page", "matches"]
