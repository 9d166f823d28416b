"""The adapters of ``docs/adapters.md``, as they stand there, in vismatch and in hloc.

Not collected by default: run ``pytest tests/with_adapters`` where PyTorch and both are installed.
"""

from __future__ import annotations

import runpy
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from pages import ROOT, SIZE, blocks, prepare, truth

import d2np
from d2np.formats import hloc, hloc_matches
from d2np.verification import transformed

pytestmark = [
    # PyTorch's remarks on how hloc reads images.
    pytest.mark.filterwarnings("ignore:'pin_memory' argument:UserWarning"),
    pytest.mark.filterwarnings("ignore:This DataLoader will create:UserWarning"),
]

NAMES = ["left.jpg", "right.jpg", "yard/gate.jpg"]


def block(folder, beginning):
    """Save the one block that begins so, as ``adapter.py`` in a folder, and return its path."""
    found = [text for _, text in blocks(ROOT / "docs" / "adapters.md") if text.startswith(beginning)]
    assert len(found) == 1
    folder.mkdir()
    path = folder / "d2np.py"
    path.write_text(found[0])
    return path


@pytest.fixture
def reader(tmp_path, monkeypatch):
    """A reader's folder, to work in."""
    prepare(tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def correct(a, b):
    """Return the share of matches within 3 px of ground truth."""
    return (np.linalg.norm(transformed(truth(), a) - b, axis=1) < 3).mean()


def test_vismatch(reader, capsys):
    names = runpy.run_path(str(block(reader / "block", "import d2np\nfrom vismatch")))
    result = names["result"]
    a, b = (d2np.Net.load("d2np")(f"{name}.jpg", max_keypoints=4096) for name in "AB")
    matches = d2np.match(a, b)
    np.testing.assert_array_equal(result["all_kpts0"], a.keypoints[:, :2])
    np.testing.assert_array_equal(result["all_desc1"], b.descriptors)
    np.testing.assert_array_equal(result["matched_kpts1"], b.keypoints[matches.indices[:, 1], :2])
    np.testing.assert_array_equal(result["matched_confidences"], matches.similarities)
    assert len(result["inlier_kpts0"]) > 100
    assert correct(result["inlier_kpts0"], result["inlier_kpts1"]) > 0.9
    printed = f"{result['num_inliers']} of {len(result['matched_kpts0'])} matches are inliers\n"
    assert capsys.readouterr().out == printed

    seen = names["D2np"](weights="analytic", max_num_keypoints=50).extract(torch.full((3, 64, 64), 1.1))
    assert seen["all_kpts0"].shape == (0, 2)


def test_hloc(reader, monkeypatch):
    # imcui's copy writes a log into the folder where it is imported.
    from hloc import extract_features, extractors

    # In place of saving the file in hloc's own folder.
    adapter = block(reader / "extractors", "import torch\n\nimport d2np")
    monkeypatch.setattr(extractors, "__path__", [*extractors.__path__, str(adapter.parent)])
    names = runpy.run_path(str(block(reader / "block", "from pathlib import Path\n\nfrom hloc import")))

    written = names["features"]
    assert written == Path("outputs/feats-d2np.h5")
    assert sorted(hloc.names(written)) == NAMES
    a, b = (hloc.read(written, name) for name in ("left.jpg", "right.jpg"))
    assert a.image_size == (SIZE, SIZE)
    own = d2np.Net.load("d2np")("photos/left.jpg", scales=(0.5, 1, 2), max_keypoints=4096)
    # OpenCV has decoded the image, and features are stored in half precision.
    assert len(a) == pytest.approx(len(own), rel=0.02)
    same = d2np.match(a, own, min_similarity=0.99).indices
    assert len(same) > 0.95 * len(own)
    assert np.median(np.abs(a.keypoints[same[:, 0]] - own.keypoints[same[:, 1]])) < 0.1

    first, second = hloc_matches.read(names["matches"], "left.jpg", "right.jpg").indices.T
    assert correct(a.keypoints[first, :2], b.keypoints[second, :2]) > 0.4

    small = {**names["conf"], "output": "small", "preprocessing": {"resize_max": SIZE // 2}}
    small["model"] = {"name": "d2np", "weights": "analytic", "scales": [1.0]}
    with h5py.File(extract_features.main(small, Path("photos"), Path("outputs"), as_half=False)) as file:
        assert set(file["yard/gate.jpg"]["scales"][:]) == {2}
        assert SIZE / 2 < file["yard/gate.jpg"]["keypoints"][:].max() < SIZE
