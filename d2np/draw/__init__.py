"""Images of what was found, with Pillow and NumPy alone: keypoints, matches and the strength map.

Each function takes the image as :class:`d2np.Net` takes it (a path, a :class:`PIL.Image.Image` or an
array) and returns a new RGB :class:`PIL.Image.Image`; the same input always gives the same pixels.
``match_page`` returns the text of a web page to explore matches in.
"""

from .heat import heatmap
from .html import match_page
from .overlays import keypoints, matches

__all__ = ["heatmap", "keypoints", "match_page", "matches"]
