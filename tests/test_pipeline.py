import gc
import os
import signal
import sys
import threading
import time
import weakref
from concurrent.futures import Future
from contextlib import closing
from itertools import islice, repeat
from pathlib import Path

import numpy as np
import pytest
import tifffile
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from PIL import ExifTags, Image

import d2np
from d2np.dataset import Entry, Settings, features_of, pipeline
from d2np.images.open import Source, open_source

SCALES = (0.5, 1.0, 2.0)


def entries_of(paths):
    return [Entry(Path(path), Path(path).name) for path in paths]


def some_features(count=3, size=(8, 8)):
    rng = np.random.default_rng(count)
    return d2np.Features(rng.random((count, 3)), rng.random(count), rng.random((count, 512)), size)


def interrupt():
    """Ctrl-C, while the main thread waits for a result."""
    main = threading.main_thread().ident

    def waits():
        frame = sys._current_frames()[main]
        is_waiting = frame.f_code is threading.Condition.wait.__code__
        return is_waiting and frame.f_back.f_code is Future.result.__code__

    wait_for(waits)
    os.kill(os.getpid(), signal.SIGINT)


def wait_for(condition):
    """Return when it holds; ten minutes are for a machine that is busy."""
    until = time.monotonic() + 600
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.001)


class Stub(d2np.Net):
    """Takes opened images as a network does, and does with them what it is told."""

    def __init__(self, work=lambda image, threads: None):
        self.work = work
        self.lock = threading.Lock()
        self.running = self.most_running = self.busy = self.most_busy = self.calls = 0

    def __call__(self, image, *, threads=None, **options):
        with self.lock:
            self.calls += 1
            self.running += 1
            self.busy += threads
            self.most_running = max(self.most_running, self.running)
            self.most_busy = max(self.most_busy, self.busy)
        try:
            self.work(image, threads)
            return some_features(size=image.given[::-1])
        finally:
            with self.lock:
                self.running -= 1
                self.busy -= threads


class Crowd(Stub):
    """Works on each image until so many are worked on at a time, and a little longer, for more to come."""

    def __init__(self, count):
        super().__init__(lambda *_: (wait_for(lambda: self.most_running >= count), time.sleep(0.005)))


@pytest.fixture(autouse=True)
def no_thread_is_left():
    before = set(threading.enumerate())
    yield
    assert not set(threading.enumerate()) - before


@pytest.fixture
def photos(tmp_path):
    """Twelve images that are told apart by their widths, from 10 on."""
    for width in range(10, 22):
        Image.new("RGB", (width, 8)).save(tmp_path / f"{width}.png")
    return entries_of(sorted(tmp_path.iterdir()))


@pytest.fixture
def alive(monkeypatch):
    """Counts the opened images that are not closed: how many, and how many there ever were at a time."""
    count = {"now": 0, "most": 0}
    lock = threading.Lock()

    def counted(*arguments, **options):
        source = open_source(*arguments, **options)
        with lock:
            count["now"] += 1
            count["most"] = max(count["most"], count["now"])
        close, closed = source.close, []

        def closing_once():
            with lock:
                count["now"] -= not closed
                closed.append(True)
            close()

        source.close = closing_once
        return source

    monkeypatch.setattr(pipeline, "open_source", counted)
    return count


# In order, and no more than allowed


@hypothesis_settings(deadline=None, max_examples=25, derandomize=True)
@given(st.lists(st.sampled_from([0, 0, 0.001, 0.01]), max_size=20), st.integers(1, 5))
def test_everything_comes_once_and_in_order(pauses, threads):
    """Of a network that opens its images itself, one at a time."""
    entries = entries_of(map(str, range(len(pauses))))
    seen = []

    def net(path, *, threads, **options):
        time.sleep(pauses[int(path.name)])
        if int(path.name) % 5 == 3:
            raise d2np.ImageError(str(path))
        seen.append(threads)
        return some_features(int(path.name))

    found = list(features_of(net, entries, Settings(), threads=threads))
    assert [entry for entry, _ in found] == entries
    for number, (_, features) in enumerate(found):
        if number % 5 == 3:
            assert isinstance(features, d2np.ImageError)
        else:
            assert len(features) == number
    assert set(seen) <= {threads}


@pytest.mark.parametrize("threads", [1, 2, 3, 7])
def test_no_more_threads_than_asked_for(photos, threads):
    """Images side by side, as many as there are threads: they wait for each other."""
    net = Crowd(threads)
    assert len(list(features_of(net, photos, Settings(), threads=threads))) == 12
    assert net.most_running == net.most_busy == threads


@pytest.mark.parametrize(("count", "shares"), [(1, [4]), (2, [2, 2]), (3, [1, 1, 1])])
def test_few_images_share_all_threads(photos, count, shares):
    barrier, seen = threading.Barrier(count, timeout=600), []

    def work(image, threads):
        seen.append(threads)
        barrier.wait()

    list(features_of(Stub(work), photos[:count], Settings(), threads=4))
    assert sorted(seen) == shares


def memory_of(height, width):
    """The memory that an image is taken to need while it is worked on."""
    return pipeline.working_bytes(height, width, (1.0,)) + 2 * 3 * height * width


def test_little_memory_means_fewer_side_by_side(photos, monkeypatch, caplog):
    """It is said once in a job."""
    fewer = "at a time instead of 4: little memory is free"
    for share, running, told in (
        (None, 4, []),
        (8, 4, []),
        (2.5, 2, [f"2 images {fewer}"]),
        (1, 1, [f"1 image {fewer}"]),
        (0, 1, [f"1 image {fewer}"]),
    ):
        caplog.clear()
        free = None if share is None else 2 * int(memory_of(8, 21) * share)
        monkeypatch.setattr(pipeline, "free_memory", lambda free=free: free)
        # Too little for the features that wait, too, which are counted by themselves.
        monkeypatch.setattr(pipeline, "_FEATURE_BYTES", 1000)
        net = Crowd(running)
        list(features_of(net, [photos[-1]] * 12, Settings(), threads=4))
        assert net.most_running == running
        assert net.most_busy <= 4
        assert caplog.messages == told
        assert {record.name for record in caplog.records} <= {"d2np"}


def test_little_memory_means_fewer_that_wait(photos, monkeypatch):
    taken = []
    entries = (taken.append(entry) or entry for entry in photos)
    monkeypatch.setattr(pipeline, "free_memory", lambda: 600 << 20)
    with closing(features_of(Stub(), entries, Settings(), threads=4)) as found:
        next(found)
        assert len(taken) <= 4
    monkeypatch.setattr(pipeline, "free_memory", lambda: None)
    taken.clear()
    with closing(features_of(Stub(), iter(photos), Settings(), threads=3)) as found:
        assert len(list(found)) == 12


@pytest.mark.parametrize(("threads", "fit"), [(4, 3), (7, 2.5), (5, 1.2)])
def test_images_of_all_sizes_share_the_memory(tmp_path, monkeypatch, threads, fit):
    """Those that are worked on at a time fit into the memory together, or there is one of them only."""
    entries = []
    for width in (8, 300, 40, 90, 8, 8, 200, 150, 8, 120, 60, 8, 300):
        path = tmp_path / f"{len(entries)}.png"
        Image.new("RGB", (width, 40)).save(path)
        entries.append(Entry(path, path.name))
    memory = int(fit * memory_of(40, 200))
    monkeypatch.setattr(pipeline, "free_memory", lambda: 2 * memory)
    monkeypatch.setattr(pipeline, "_FEATURE_BYTES", 1000)
    used, most = [], []

    def work(image, threads):
        used.append(memory_of(*image.shape[:2]))
        most.append((sum(used), len(used)))
        time.sleep(0.01)
        used.remove(memory_of(*image.shape[:2]))

    assert len(list(features_of(Stub(work), entries, Settings(), threads=threads))) == len(entries)
    assert all(total <= memory or running == 1 for total, running in most)
    assert max(running for _, running in most) <= threads


def test_no_more_decoded_images_than_are_worked_on(photos, alive):
    list(features_of(Stub(lambda image, threads: time.sleep(0.002)), photos, Settings(), threads=2))
    assert (alive["now"], alive["most"]) == (0, 2)


def test_large_images_are_opened_when_it_is_their_turn_and_alone(photos, alive, monkeypatch):
    monkeypatch.setattr(pipeline, "free_memory", lambda: 2 * (2 * memory_of(8, 21) - 1))
    monkeypatch.setattr(pipeline, "_FEATURE_BYTES", 1000)

    def work(image, threads):
        time.sleep(0.005)
        if image.shape[1] == 21:
            assert (alive["now"], net.running, threads) == (1, 1, 2)

    net = Stub(work)
    found = list(features_of(net, [photos[-1], *photos] * 2, Settings(), threads=2))
    assert [features.image_size[0] for _, features in found] == [21, *range(10, 22)] * 2
    assert alive["now"] == 0


def test_an_endless_stream_of_images(photos):
    """The memory does not depend on how many there are, nor are they looked at before they are needed."""
    taken, features_alive = [], weakref.WeakSet()

    class Counting(Stub):
        def __call__(self, *arguments, **options):
            features = super().__call__(*arguments, **options)
            features_alive.add(features)
            return features

    def endless():
        while True:
            taken.append(None)
            yield photos[len(taken) % 12]

    found = features_of(Counting(), endless(), Settings(), threads=1)
    with closing(found):
        for number, _ in zip(range(100), found, strict=False):
            assert len(taken) <= number + 5
            if number % 10 == 0:
                gc.collect()
                assert len(features_alive) <= 6


# Failures


def test_images_without_features_are_handed_out_among_the_others(photos, tmp_path):
    (tmp_path / "12.png").write_text("no image")
    (tmp_path / "15.png").unlink()

    def work(image, threads):
        if image.shape[1] == 18:
            raise MemoryError

    found = list(features_of(Stub(work), photos, Settings(), threads=2))
    kinds = [type(features).__name__ for _, features in found]
    expected = ["Features"] * 12
    expected[2] = expected[5] = "ImageError"
    expected[8] = "MemoryError"
    assert kinds == expected
    assert "is not an image" in str(found[2][1])
    assert "No such file" in str(found[5][1])


@pytest.mark.parametrize("error", [LookupError, KeyboardInterrupt, d2np.OptionError])
@pytest.mark.parametrize("threads", [1, 3])
def test_other_errors_are_raised_where_they_belong(photos, alive, error, threads):
    def work(image, threads):
        if image.shape[1] == 14:
            raise error

    found = features_of(Stub(work), photos, Settings(), threads=threads)
    assert [entry.name for entry, _ in islice(found, 4)] == [f"{width}.png" for width in range(10, 14)]
    with pytest.raises(error):
        next(found)
    assert alive["now"] == 0


def test_an_error_of_the_entries_is_raised(photos):
    def entries():
        yield from photos[:3]
        raise LookupError("entries")

    with pytest.raises(LookupError, match="entries"):
        list(features_of(Stub(), entries(), Settings()))


def test_senseless_options():
    with pytest.raises(d2np.OptionError, match="threads must be a whole number"):
        features_of(Stub(), [], Settings(), threads=0)


# Ending early


def reading_for_ever(image, threads):
    while True:
        image.read(0, 1)
        time.sleep(0.001)


@pytest.mark.parametrize("threads", [1, 3])
def test_what_is_worked_on_is_given_up_when_closed(photos, alive, threads):
    def work(image, threads):
        if image.shape[1] > 10:
            reading_for_ever(image, threads)

    found = features_of(Stub(work), photos, Settings(), threads=threads)
    assert next(found)[0] == photos[0]
    found.close()
    assert alive["now"] == 0
    assert list(found) == []


def test_an_iterator_that_is_forgotten_ends_its_threads(photos, alive):
    found = features_of(Stub(), photos, Settings(), threads=2)
    next(found)
    del found
    gc.collect()
    assert alive["now"] == 0
    features_of(Stub(), photos, Settings())  # never begun


def test_an_error_of_the_caller_ends_the_threads(photos, alive):
    first = threading.Lock()

    def work(image, threads):
        if first.acquire(blocking=False):
            interrupt()
        reading_for_ever(image, threads)

    with pytest.raises(KeyboardInterrupt):
        next(features_of(Stub(work), photos, Settings(), threads=2))
    assert alive["now"] == 0

    def write():
        with closing(features_of(Stub(), photos, Settings(), threads=2)) as found:
            for _ in found:
                raise LookupError

    with pytest.raises(LookupError):
        write()
    assert alive["now"] == 0


@pytest.mark.parametrize(("opens", "threads"), [(True, 1), (True, 2), (False, 1)])
def test_once_stopped_only_what_was_begun_is_handed_out(photos, alive, opens, threads):
    stop, begun, go_on = threading.Event(), threading.Semaphore(0), threading.Event()

    def work(image, threads):
        begun.release()
        assert go_on.wait(timeout=600)

    def net(path, **options):
        work(None, None)
        return some_features()

    def press():
        for _ in range(threads):
            assert begun.acquire(timeout=600)
        stop.set()
        go_on.set()

    presser = threading.Thread(target=press)
    presser.start()
    # Endless, as it must not be gone through to its end.
    net = Stub(work) if opens else net
    found = list(features_of(net, repeat(photos[0]), Settings(), threads=threads, stop=stop))
    presser.join()
    assert [entry for entry, _ in found] == [photos[0]] * threads
    assert alive["now"] == 0


# The real network


@pytest.fixture
def assorted(tmp_path, make_image):
    """Images of all kinds that are opened in different ways, and one that is none."""
    image = make_image(40, 56)
    Image.fromarray(image).save(tmp_path / "a.png")
    tags = Image.Exif()
    tags[ExifTags.Base.Orientation] = 6
    Image.fromarray(image).save(tmp_path / "b.jpg", exif=tags)
    # 16 bits, so dark that as floats they would be taken for fractions.
    Image.fromarray(image[:, :, 0].astype(np.uint16)).save(tmp_path / "c.png")
    Image.fromarray(make_image(70, 90)).save(tmp_path / "d.png")
    (tmp_path / "e.png").write_text("no image")
    tifffile.imwrite(tmp_path / "f.tif", image.astype(np.float32), photometric="rgb")
    tifffile.imwrite(tmp_path / "g.tif", image.astype(np.uint16) * 257, photometric="rgb", compression="zlib")
    Image.fromarray(image[:7]).save(tmp_path / "h.png")
    Image.fromarray(image).convert("P").save(tmp_path / "i.gif")
    return entries_of(sorted(tmp_path.iterdir()))


@pytest.mark.parametrize(
    "settings",
    [
        Settings(max_edge=64),
        Settings(orient=True, detector="strength", max_keypoints=20),
        Settings(scales=SCALES, max_edge=None, max_sum_edges=None, preprocessing="torch", max_pixels=3000),
    ],
    ids=["shrunk", "turned", "three scales"],
)
def test_features_are_those_of_the_paths(net, assorted, settings, assert_same_features, monkeypatch):
    expected = []
    for entry in assorted:
        try:
            expected.append(net(entry.path, **settings.options()))
        except d2np.ImageError as error:
            expected.append(str(error))
    assert sum(isinstance(features, str) for features in expected) >= 2
    for options in ({}, {"threads": 1}, {"threads": 4}, "alone"):
        if options == "alone":
            monkeypatch.setattr(pipeline, "free_memory", lambda: 1)
            options = {}
        found = list(features_of(net, assorted, settings, **options))
        assert [entry for entry, _ in found] == assorted
        for (_, features), other in zip(found, expected, strict=True):
            if isinstance(other, str):
                assert str(features) == other
            else:
                assert_same_features(features, other)


def test_the_network_itself_is_given_up(net, tmp_path, make_image, monkeypatch):
    """Long before it has come to the image's end."""
    Image.fromarray(np.tile(make_image(64, 64), (100, 1, 1))).save(tmp_path / "tall.png")
    settings = Settings(max_edge=None, max_sum_edges=None)
    rows, interrupted = [], threading.Event()

    class Slow(Source):
        def read(self, first, last):
            if not rows:
                interrupt()
                assert interrupted.wait(timeout=600)
            rows.append(last)
            return super().read(first, last)

    def opened(*arguments, **options):
        source = open_source(*arguments, **options)
        source.__class__ = Slow
        return source

    def handler(*_):
        interrupted.set()
        raise KeyboardInterrupt

    monkeypatch.setattr(pipeline, "open_source", opened)
    before = signal.signal(signal.SIGINT, handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            next(features_of(net, entries_of([tmp_path / "tall.png"]), settings))
    finally:
        signal.signal(signal.SIGINT, before)
    assert rows[-1] < 3200
