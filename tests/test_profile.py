import numpy as np
import pytest

import d2np
from d2np.kernels import winograd
from d2np.layers import LAYERS

IMAGE = np.random.RandomState(0).randint(0, 256, (48, 56, 3)).astype(np.uint8)
CONVOLUTIONS = [layer.name for layer in LAYERS if layer.type == "convolution"]


def test_every_layer_and_phase(net):
    profile = net.profile(IMAGE, threads=2)
    found = {(row.name, row.phase) for row in profile.rows}
    assert ("conv1_1", "direct convolution") in found
    for name in CONVOLUTIONS[1:]:
        assert {(name, phase) for phase in winograd.PHASES} <= found
    assert ("pool3", "pooling") in found
    assert ("detection", "detection, localisation") in found
    names = [row.name for row in profile.rows if row.name.startswith(("conv", "pool"))]
    assert names == sorted(names, key=[layer.name for layer in LAYERS].index)
    assert all(row.seconds > 0 for row in profile.rows)
    assert sum(profile.phases().values()) == pytest.approx(profile.total_seconds)
    # No thread can have worked for longer than the whole took.
    assert profile.total_seconds <= 2 * profile.wall_seconds
    assert profile.threads == 2


def test_direct_convolution(weights_arrays):
    profile = d2np.Net(weights_arrays, algorithm="direct").profile(IMAGE, scales=(0.5, 1.0))
    assert {row.name for row in profile.rows if row.phase == "direct convolution"} == set(CONVOLUTIONS)


def test_table(net):
    profile = net.profile(IMAGE, threads=1)
    lines = str(profile).splitlines()
    assert lines[0].split() == ["layer", "phase", "ms", "share"]
    for name in CONVOLUTIONS:
        assert any(line.startswith(name) for line in lines)
    assert "on 1 thread," in lines[-1]


def test_options_are_checked(net):
    with pytest.raises(TypeError, match="detecter"):
        net.profile(IMAGE, detecter="d2")
    with pytest.raises(d2np.OptionError, match="detector must be one of"):
        net.profile(IMAGE, detector="sift")
