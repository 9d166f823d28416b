"""Progress: a bar on a terminal, lines in a log. No test waits: clocks are stand-ins."""

from __future__ import annotations

import io

import numpy as np
import pytest
from tqdm import std

from d2np.cli import _parser, files, progress
from d2np.cli.progress import Bar
from d2np.images.open import open_source


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def logged(capsys, monkeypatch):
    """Makes a log with a clock, and updates it at given times; returns what is written."""
    now = [0.0]
    monkeypatch.setattr(std, "time", lambda: now[0])

    def call(updates, **options):
        now[0] = 0.0
        with Bar(**options) as bar:
            for now[0], number in updates:
                bar.update(number)
        return capsys.readouterr().err.splitlines()

    return call


def test_a_line_every_half_minute(logged):
    assert logged([(second, 2) for second in range(1, 91)], desc="extracting", total=3000, unit="image") == [
        "extracting: 60 of 3000 (2%), 2.00image/s, 24:30 left",
        "extracting: 120 of 3000 (4%), 2.00image/s, 24:00 left",
        "extracting: 180 of 3000 (6%), 2.00image/s, 23:30 left",
    ]


def test_short_jobs_leave_no_line(logged):
    assert logged([(3 * k, 1) for k in range(1, 10)], desc="extracting", total=9, unit="image") == []


def test_what_was_there_before_does_not_count_for_the_rate(logged):
    assert logged([(31, 31)], desc="extracting", total=3000, initial=2000, unit="image") == [
        "extracting: 2031 of 3000 (68%), 1.00image/s, 16:09 left"
    ]


def test_bytes_of_a_server_that_does_not_tell_how_many(logged):
    (line,) = logged([(60, 6_000_000)], desc="d2_tf.pth", unit="B", unit_scale=True)
    assert line == "d2_tf.pth: 6.00M, 100kB/s"
    (line,) = logged([(60, 6_000_000)], desc="d2_tf.pth", total=12_000_000, unit="B", unit_scale=True)
    assert line == "d2_tf.pth: 6.00M of 12.0M (50%), 100kB/s, 01:00 left"


def test_a_bar_on_a_terminal_and_nothing_where_it_is_quiet(monkeypatch):
    for quiet in (False, True):
        terminal = Terminal()
        monkeypatch.setattr("sys.stderr", terminal)
        with Bar(desc="extracting", total=2, disable=quiet) as bar:
            bar.update(2)
        assert ("extracting: 100%" in terminal.getvalue()) == (not quiet)


@pytest.mark.parametrize("scales", [(1.0,), (0.5, 1.0, 2.0)])
def test_an_image_tells_how_far_it_is(net, make_image, monkeypatch, assert_same_features, scales):
    """All rows, in several steps, and the features are the same."""
    image = make_image(160, 400)
    seen = []

    class Seen(Bar):
        def update(self, n=1):
            seen.append(n)
            self.n += n

    monkeypatch.setattr(progress, "Bar", Seen)
    many = ["--multiscale"] if len(scales) > 1 else []
    limits = ["--max-edge", "none", "--max-sum-edges", "none"]
    options = _parser().parse_args(["show", "it", "-o", "k.png", *many, *limits])
    expected = net(image, scales=scales, max_edge=None, max_sum_edges=None)
    assert_same_features(files.features(net, image, options), expected)
    assert sum(seen) == 160 * len(scales)
    assert len(seen) > 1


def test_what_is_watched_is_read_and_closed_as_ever(tmp_path):
    path = tmp_path / "rows.npy"
    np.save(path, np.arange(20 * 9 * 3, dtype=np.uint8).reshape(20, 9, 3))
    source = open_source(np.load(path, mmap_mode="r"))
    rows = []
    source.on_read = rows.append
    with source:
        source.read(3, 7)
    assert rows == [4]
