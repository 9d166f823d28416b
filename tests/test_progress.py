"""Progress: a bar on a terminal, lines in a log. No test waits: clocks are stand-ins."""

from __future__ import annotations

import io

import numpy as np
import pytest

from d2np import Options
from d2np.cli import network, progress
from d2np.cli.report import count, file_size
from d2np.images.open import open_source


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def logged(capsys):
    """Makes a log with a clock, and updates it at given times; returns what is written."""

    def call(what, total, done, told, updates):
        now = [0.0]
        with progress.Log(what, total, done, told, clock=lambda: now[0]) as log:
            for now[0], number in updates:
                log.update(number)
        return capsys.readouterr().err.splitlines()

    return call


def images(amount):
    return count(round(amount), "image")


def test_a_line_every_half_minute(logged):
    assert logged("extracting", 3000, 0, images, [(second, 2) for second in range(1, 91)]) == [
        "extracting: 60 of 3,000 images (2%), 120 images a minute, 24 min left",
        "extracting: 120 of 3,000 images (4%), 120 images a minute, 24 min left",
        "extracting: 180 of 3,000 images (6%), 120 images a minute, 24 min left",
    ]


def test_short_jobs_leave_no_line(logged):
    assert logged("extracting", 9, 0, images, [(3 * k, 1) for k in range(1, 10)]) == []


def test_what_was_there_before_does_not_count_for_the_rate(logged):
    assert logged("extracting", 3000, 2000, images, [(31, 31)]) == [
        "extracting: 2,031 of 3,000 images (68%), 60 images a minute, 16 min left"
    ]


@pytest.mark.parametrize(
    ("updates", "end"),
    [
        ([(30, 6000)], "200 images a second, 63 min left"),
        ([(1800, 1), (3600, 1)], "2 images an hour, 381,037 h 30 min left"),
        ([(40, 0)], "extracting: 0 of 762,077 images (0%)"),
    ],
)
def test_rates_and_times_fit_what_they_tell(logged, updates, end):
    assert logged("extracting", 762_077, 0, images, updates)[-1].endswith(end)


def test_bytes_of_a_server_that_does_not_tell_how_many(logged):
    assert logged("d2_tf.pth", None, 0, file_size, [(60, 6_000_000)]) == [
        "d2_tf.pth: 6.0 MB, 100.0 kB a second"
    ]
    assert logged("d2_tf.pth", 12_000_000, 0, file_size, [(60, 6_000_000)]) == [
        "d2_tf.pth: 6.0 of 12.0 MB (50%), 100.0 kB a second, 60 s left"
    ]


def test_begun_again(logged, capsys):
    now = [0.0]
    log = progress.Log("d2_tf.pth", 10, 5, file_size, clock=lambda: now[0])
    log.reset(200)
    now[0] = 30.0
    log.update(100)
    assert capsys.readouterr().err == "d2_tf.pth: 100 of 200 bytes (50%), 200 bytes a minute, 30 s left\n"


def test_a_bar_on_a_terminal_and_nothing_where_it_is_quiet(monkeypatch):
    for quiet in (False, True):
        terminal = Terminal()
        monkeypatch.setattr("sys.stderr", terminal)
        with progress.bar("extracting", "image", 2, quiet=quiet) as bar:
            bar.update(2)
        assert ("extracting: 100%" in terminal.getvalue()) == (not quiet)


@pytest.mark.parametrize("scales", [(1.0,), (0.5, 1.0, 2.0)])
def test_an_image_tells_how_far_it_is(net, make_image, monkeypatch, assert_same_features, scales):
    """All rows, in several steps, and the features are the same."""
    image = make_image(160, 400)
    seen = []

    class Bar(progress.Log):
        def update(self, n=1):
            seen.append(n)
            self.n += n

    monkeypatch.setattr(progress, "bar", lambda what, unit, total, **_: Bar(what, total, 0, str))
    found = network.features(net, image, Options(scales=scales, max_edge=None, max_sum_edges=None))
    assert_same_features(found, net(image, scales=scales, max_edge=None, max_sum_edges=None))
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
