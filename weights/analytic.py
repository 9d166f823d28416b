"""Weights written down by hand: a classical descriptor inside the D2-Net architecture.

No training. The ten convolutions are filled so that the network computes what SIFT and DAISY compute, one
step a layer, and so that the published detector (a cell counts where its largest channel is also a 3 x 3
maximum in space) finds the extrema of a difference of Gaussians, as SIFT does:

=================  ==============================================================================
conv1_1            gradient along eight directions; luminance and two opponent colours
conv1_2            orientations compete; everything blurred
conv2_1 … conv3_1  orientations and colours blurred, step by step
conv3_2            differences of Gaussians: bright and dark, red and green, blue and yellow blobs
conv3_3            half a cell back, against the half a cell that the average pooling goes ahead
conv4_1 … conv4_3  each channel looks at one neighbouring cell: a window of histograms and blobs
=================  ==============================================================================

On the way the layers also take out what the zeros around the image have made, so that an image without
anything in it has no keypoints.

A map cell's vector is then a Gaussian-weighted window around it: orientation histograms at 37 places two
cells (8 pixels) apart, colour blobs at 28 and luminance blobs at 20 of them. The six blob channels of the
cell itself come last, scaled up so that at a blob one of them is the cell's largest.

Every layer is linear in contrast but for the ReLUs, and those cut at zero of something that has no constant
part; so the descriptor's final L2 norm makes it independent of contrast, and gradients and differences make
it independent of brightness. Thresholds against noise would have broken that, and measurably did harm: the
one that there is keeps out rounding errors alone.

    python weights/analytic.py weights/analytic.h5

writes the file that is packaged.

The handful of numbers below were chosen by trying, on warped views of four images of scikit-image.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from d2np.layers import PARAMETER_SHAPES
from d2np.weights import Provenance, save

_Arrays = dict[str, NDArray[np.float32]]
_Kernel = NDArray[np.float64]
_Position = tuple[int, int]

_ORIENTATIONS = 8
_COMPETITION = 0.5
"""The share of the gradient's magnitude taken from each orientation: what is left is cos(angle) - 0.5."""

_HISTOGRAM_RADIUS, _HISTOGRAM_SIGMA, _HISTOGRAM_GAIN = 3.3, 1.4, 1.0
_LUMINANCE_RADIUS, _LUMINANCE_SIGMA, _LUMINANCE_GAIN = 2.3, 1.2, 0.5
_COLOUR_RADIUS, _COLOUR_SIGMA, _COLOUR_GAIN = 3.0, 1.2, 1.5
"""The window of each kind of channel: radius and Gaussian sigma in steps of two cells, and its weight."""

_CENTRAL_HISTOGRAM = 1.3
"""The cell's own histogram counts for more, so that maxima sit on what they describe."""

_LUMINANCE_DETECTOR, _COLOUR_DETECTOR = 3.0, 2.0
"""Weights of the blobs at the cell itself: enough to be its largest channel, not enough to drown the rest."""

_OFFSET = 160.0
"""Keeps signed images (luminance: -118 … 137 after preprocessing) above the ReLU's zero."""
_ROUNDING = 4e-3
"""Grey levels: what is less comes from rounding. The smallest step of an image is 1."""
_SILENCE = 128.0
"""Taken away for each neighbour that the padding has reached, half of it where that is one at a corner: more
than the padding makes there. A larger number would show in the rounding errors of a fast convolution."""
_FRAME_GAIN = 1800.0
"""More than any channel reaches: a blob is three times a difference of at most 3/4 of the image's range,
765 with what resampling overshoots."""

_IDENTITY: _Kernel = np.pad([[1.0]], 1)
_BLUR: _Kernel = np.outer([1, 2, 1], [1, 2, 1]) / 16
_LIGHT_BLUR: _Kernel = np.outer([1, 14, 1], [1, 14, 1]) / 256
_HALF_CELL_BACK: _Kernel = np.pad(np.full((2, 2), 0.25), ((0, 1), (0, 1)))
_SOBEL: _Kernel = np.outer([1, 2, 1], [-1, 0, 1]) / 8

# As mixtures of blue, green and red.
_LUMINANCE = np.array([0.114, 0.587, 0.299])
_RED_GREEN = np.array([0.0, -0.5, 0.5])
_BLUE_YELLOW = np.array([0.5, -0.25, -0.25])
_IMAGES = (_LUMINANCE, _RED_GREEN, _BLUE_YELLOW)

# Channels up to conv3_3: first the orientations, then two for each of the three signed images, and, in
# conv3_1 alone, two more for each image's surround. From conv3_2 on the images are blobs.
_HISTOGRAM = range(_ORIENTATIONS)
_SIGNED = range(_ORIENTATIONS, _ORIENTATIONS + 2 * len(_IMAGES))
_SURROUND = range(_SIGNED.stop, _SIGNED.stop + 2 * len(_IMAGES))
_LUMINANCE_BLOBS = _SIGNED[:2]
_COLOUR_BLOBS = _SIGNED[2:]
# 1 where the padding has not reached, as the difference of two channels; and more than 0 where it has.
_INSIDE = range(_SURROUND.stop, _SURROUND.stop + 2)
_REACHED = _INSIDE.stop


def arrays() -> _Arrays:
    """The 20 arrays of the network, by name: the same numbers on every call."""
    filled = {name: np.zeros(shape, np.float32) for name, shape in PARAMETER_SHAPES.items()}
    _gradients_and_images(filled)
    _competition(filled)
    _pooled_orientations(filled)
    _pooled_images(filled)
    _blobs(filled)
    _half_cell_back(filled)
    _without_padding(filled)
    _window(filled)
    return filled


def _gradients_and_images(filled: _Arrays) -> None:
    """conv1_1: the gradient along eight directions, and the image itself.

    A Sobel kernel turned to the angle t answers |gradient| cos(angle - t); the ReLU behind it keeps the half
    that points that way, so the two sides of a line are different channels.

    Beside the gradients, luminance and two opponent colours travel on for the blobs. They are signed, and
    every ReLU would cut them and every maximum pooling push them up; so each goes as two channels,
    offset + value and offset - value. Half their difference is the value again, and after a maximum pooling
    it is the middle between the block's largest and smallest: in a smooth image the value at the block's
    centre, so the pooling neither moves nor brightens anything.
    """
    weight, bias = filled["conv1_1/weight"], filled["conv1_1/bias"]
    for channel in _HISTOGRAM:
        angle = 2 * np.pi * channel / _ORIENTATIONS
        derivative = np.cos(angle) * _SOBEL + np.sin(angle) * _SOBEL.T
        weight[channel] = np.multiply.outer(_LUMINANCE, derivative)
    for plus, mixture in zip(_SIGNED[::2], _IMAGES, strict=True):
        weight[plus] = np.multiply.outer(mixture, _BLUR)
        weight[plus + 1] = -weight[plus]
    bias[_SIGNED] = _OFFSET


def _competition(filled: _Arrays) -> None:
    """conv1_2: orientations compete, after a blur in the same kernel.

    Half a cosine wave is 180 degrees wide: neighbouring orientations say nearly the same. The mean over all
    of them is the gradient's magnitude divided by pi, so a share of the magnitude can be taken from each.
    That leaves |gradient| (cos(angle) - 0.5), which the ReLU cuts to 120 degrees: narrow enough to tell edges
    apart, wide enough to survive a turn by 15 degrees. Noise, which has no orientation, loses most.
    """
    weight = filled["conv1_2/weight"]
    for to in _HISTOGRAM:
        for source in _HISTOGRAM:
            weight[to, source] = ((to == source) - _COMPETITION * np.pi / _ORIENTATIONS) * _BLUR
    for channel in _SIGNED:
        weight[channel, channel] = _BLUR


def _pooled_orientations(filled: _Arrays) -> None:
    """conv2_1 to conv3_2: each orientation blurred by itself.

    This is the histogram's pooling over space: an edge may move by a few pixels without changing its bin.
    With the two poolings it comes to a Gaussian of about 5 pixels, for places that are 8 pixels apart.
    """
    for layer, kernel in (("conv2_1", _IDENTITY), ("conv2_2", _BLUR), ("conv3_1", _BLUR), ("conv3_2", _BLUR)):
        for channel in _HISTOGRAM:
            filled[f"{layer}/weight"][channel, channel] = kernel


def _pooled_images(filled: _Arrays) -> None:
    """conv2_1, conv2_2, conv3_1: the images blurred ahead of the second pooling, then split in two.

    conv3_1 passes them on nearly as they are (the centres, a Gaussian of about 2.3 pixels) and, in channels
    of their own, once more blurred (the surrounds). conv2_1 does not blur: what the padding makes would then
    reach a cell further into the image than conv3_3 can take it out again.
    """
    for centre, surround in zip(_SIGNED[::2], _SURROUND[::2], strict=True):
        _signed(filled, "conv2_1", centre, centre, _IDENTITY)
        _signed(filled, "conv2_2", centre, centre, _BLUR)
        _signed(filled, "conv3_1", centre, centre, _LIGHT_BLUR)
        _signed(filled, "conv3_1", surround, centre, _BLUR)


def _blobs(filled: _Arrays) -> None:
    """conv3_2: centre minus surround, a difference of Gaussians.

    From here on an image's two channels hold the positive and the negative part: bright and dark blobs, red
    and green ones, blue and yellow ones. The surround is blurred a second time (about 4.7 pixels by then).
    Wider blobs would be placed more exactly but there are too few of them; the gradient's own maxima are
    plentiful but come back at the wrong place.
    """
    for centre, surround in zip(_SIGNED[::2], _SURROUND[::2], strict=True):
        _signed(filled, "conv3_2", centre, centre, _IDENTITY)
        _signed(filled, "conv3_2", centre, surround, -_BLUR)
    filled["conv3_2/bias"][_SIGNED] = 0  # The ReLU is wanted.


def _signed(filled: _Arrays, layer: str, to: int, source: int, kernel: _Kernel) -> None:
    """A linear step on a signed image held as two channels, offset + value and offset - value."""
    weight = filled[f"{layer}/weight"]
    weight[to, source] = weight[to + 1, source + 1] = kernel / 2
    weight[to, source + 1] = weight[to + 1, source] = -kernel / 2
    filled[f"{layer}/bias"][to : to + 2] = _OFFSET


def _half_cell_back(filled: _Arrays) -> None:
    """conv3_3: the mean of a cell and its neighbours above and to the left.

    The average pooling that follows is the mean of a cell and its neighbours below and to the right, and
    moves the map by half a cell against the published positions x = 4 j + 1.5. The two together are a plain
    binomial blur that moves nothing: keypoints sit on what they describe.

    What rounding has made of a flat part of the image is taken away, so that nothing is found there.
    """
    for channel in (*_HISTOGRAM, *_SIGNED):
        filled["conv3_3/weight"][channel, channel] = _HALF_CELL_BACK
        filled["conv3_3/bias"][channel] = -_ROUNDING


def _window(filled: _Arrays) -> None:
    """conv4_1 to conv4_3: a window of neighbours in the channels of one cell, and the detector.

    One tap of a dilated kernel is a look two cells away. Three layers make three such steps, so each place
    of the window is a path of three taps, and the last layer weights it with a Gaussian. The window is wide
    enough to be distinctive and falls off fast enough to bear a change of view.

    The cell's own blobs come last. Were they weak, the histograms' maxima would be the keypoints, and those
    stand on edges; were they strong, all descriptors would look alike.
    """
    to = 0
    for row, column in _places(_HISTOGRAM_RADIUS):
        gain = _HISTOGRAM_GAIN * _gaussian(row, column, _HISTOGRAM_SIGMA)
        if row == column == 0:
            gain *= _CENTRAL_HISTOGRAM
        to = _look(filled, to, _HISTOGRAM, row, column, gain)
    for row, column in _places(_LUMINANCE_RADIUS)[1:]:
        gain = _LUMINANCE_GAIN * _gaussian(row, column, _LUMINANCE_SIGMA)
        to = _look(filled, to, _LUMINANCE_BLOBS, row, column, gain)
    for row, column in _places(_COLOUR_RADIUS)[1:]:
        gain = _COLOUR_GAIN * _gaussian(row, column, _COLOUR_SIGMA)
        to = _look(filled, to, _COLOUR_BLOBS, row, column, gain)
    to = _look(filled, to, _LUMINANCE_BLOBS, 0, 0, _LUMINANCE_DETECTOR)
    to = _look(filled, to, _COLOUR_BLOBS, 0, 0, _COLOUR_DETECTOR)
    _silent_frame(filled, to)


def _places(radius: float) -> list[_Position]:
    """Places of a window, (row, column) in steps of two cells, the centre first."""
    steps = range(-3, 4)
    inside = [(row, column) for row in steps for column in steps if row**2 + column**2 <= radius**2]
    return sorted(inside, key=lambda place: (place[0] ** 2 + place[1] ** 2, place))


def _gaussian(row: int, column: int, sigma: float) -> float:
    return float(np.exp(-(row**2 + column**2) / (2 * sigma**2)))


def _look(filled: _Arrays, to: int, sources: Iterable[int], row: int, column: int, gain: float) -> int:
    """Output channels from ``to`` on: the given channels of conv3_3, (row, column) steps away, times gain.

    Returns
    -------
    int
        The next free output channel.
    """
    for source in sources:
        channel, y, x = source, row, column
        for layer, scale in (("conv4_1", 1.0), ("conv4_2", 1.0), ("conv4_3", gain)):
            step_y, step_x = int(np.sign(y)), int(np.sign(x))
            filled[f"{layer}/weight"][to, channel, 1 + step_y, 1 + step_x] = scale
            channel, y, x = to, y - step_y, x - step_x
        to += 1
    return to


def _without_padding(filled: _Arrays) -> None:
    """conv1_1 to conv3_3: what the zeros around the image have made is taken out again.

    To a network they look like an edge, and a flat image would have keypoints all along its frame. One
    channel is 1 in the image, and zeros stand around it too; from conv2_1 on it becomes 0 wherever a layer
    has looked at such a zero. Where it has not, nothing is taken away, not even a rounding error.
    """
    inside, excess = _INSIDE
    filled["conv1_1/bias"][inside] = 1
    filled["conv1_2/weight"][inside, inside] = _IDENTITY
    for layer in ("conv2_1", "conv2_2", "conv3_1", "conv3_2", "conv3_3"):
        weight, bias = filled[f"{layer}/weight"], filled[f"{layer}/bias"]
        # All 9 neighbours are inside, or 8 at most. Rounded to 1 or 0, lest errors grow from layer to layer.
        weight[_INSIDE, inside], weight[_INSIDE, excess] = 4, -4
        bias[_INSIDE] = -34, -35
        weight[_REACHED, inside], weight[_REACHED, excess] = -1, 1
        bias[_REACHED] = 8.5
    for layer, channels in (("conv2_2", _HISTOGRAM), ("conv3_2", _SIGNED), ("conv3_3", _SIGNED)):
        filled[f"{layer}/weight"][channels, _REACHED] = -_SILENCE


def _silent_frame(filled: _Arrays, frame: int) -> None:
    """conv4_1 to conv4_3: nothing fires within six cells of the image's frame.

    The frame is where the camera stopped looking, not a thing in the scene, and a slope that ends where
    something was taken out looks like a blob. conv4_1 makes a channel that is 1 where no cell around was
    reached by the padding, conv4_2 one that is 1 elsewhere, and conv4_3 takes more than there can be from
    every channel there. The channel itself never shows in the map.
    """
    filled["conv4_1/weight"][frame, _REACHED] = -8
    filled["conv4_1/bias"][frame] = 1
    filled["conv4_2/weight"][frame, frame, 1, 1] = -1
    filled["conv4_2/bias"][frame] = 1 - _ROUNDING
    filled["conv4_3/weight"][:frame, frame, 1, 1] = -_FRAME_GAIN
    filled["conv4_3/bias"][:frame] = -_ROUNDING


if __name__ == "__main__":
    made = arrays()
    # Under the name that this file had in version 1.0, so that the weights stay the same byte for byte.
    name = "d2np/weights/analytic.py"
    save(sys.argv[1], made, Provenance(name, Provenance.of_arrays(made).sha256, "Python"))
