"""D2-Net among OpenCV's features; see :mod:`d2np.formats.opencv`. OpenCV is imported when it is needed."""

from .formats.opencv import D2Net, to_dmatches, to_image_features, to_keypoints

__all__ = ["D2Net", "to_dmatches", "to_image_features", "to_keypoints"]
