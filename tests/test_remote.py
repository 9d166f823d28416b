"""Images by URL: what they are called, what they hold, and what is said when they cannot be had."""

from __future__ import annotations

import gzip
import hashlib
import io
import ntpath
import subprocess
import sys
from pathlib import PureWindowsPath

import fsspec
import numpy as np
import pytest
import tifffile
from loopback import File, redirect, reply, reset, serving, status
from PIL import Image

from d2np.dataset import Entry, KaptureOutput, NpzOutput, Settings, extract, features_of, listing, pipeline
from d2np.errors import ImageError, OptionError
from d2np.features import Features
from d2np.images import index_pages, remote
from d2np.images.open import open_image
from d2np.images.remote import RemoteFile


def encoded(image, format):
    stream = io.BytesIO()
    Image.fromarray(image).save(stream, format)
    return stream.getvalue()


@pytest.fixture
def memory(image):
    """A file system in memory that holds images under ``/photos``."""
    system = fsspec.filesystem("memory")
    for name, format in (
        ("b.png", "PNG"),
        ("a.JPG", "JPEG"),
        ("sub/a.jpg", "JPEG"),
        ("sub/deep/c.tif", "TIFF"),
        (".hidden/d.png", "PNG"),
        ("sub/.e.png", "PNG"),
    ):
        system.pipe(f"/photos/{name}", encoded(image, format))
    system.pipe("/photos/notes.txt", b"no image")
    yield system
    system.rm("/", recursive=True)


@pytest.fixture
def web(image, monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with serving() as server:
        page = b'<a href="../">up</a> <a href="?C=N;O=D">sort</a> <a href="a.png">a</a> <a href="sub/">s</a>'
        html = {"Content_Type": "text/html"}
        server.answers = {
            "/photos/": status(200, page, **html),
            "/photos/sub": redirect("/photos/sub/"),
            "/photos/sub/": status(200, b'<a href="b%20c.png">b</a>', **html),
            "/photos/a.png": File(encoded(image, "PNG"), etag='"1"'),
            "/photos/a.png?size=full": File(encoded(image, "PNG")),
            "/photos/sub/b%20c.png": File(encoded(image, "PNG")),
            "/list.txt": File(b"photos/a.png\n"),
            "/private.png": status(403),
            "/broken.png": status(500),
            "/reset.png": reset,
        }
        yield server


def names(*sources):
    return [entry.name for entry in listing(sources)]


def test_what_is_a_url():
    for text in (
        "s3://bucket/a.jpg",
        "HTTPS://x",
        "memory://",
        "zip::s3://bucket/a.zip",
        "zip://a.jpg::/b.zip",
    ):
        assert remote.is_url(text)
    for text in (
        "a.jpg",
        "/s3:/a",
        "./a://b",
        "C:\\a.jpg",
        "C://a.jpg",
        "camera::left.jpg",
        "://a",
        "3d://a",
    ):
        assert not remote.is_url(text)


def test_folders_and_files(memory):
    everything = ["a.JPG", "b.png", "sub/a.jpg", "sub/deep/c.tif"]
    assert names("memory://photos") == everything
    assert names("memory://photos/") == everything
    assert names("memory://") == [f"photos/{name}" for name in everything]
    assert names("memory://photos/sub/a.jpg", "memory://photos/b.png") == ["a.jpg", "b.png"]
    for pattern in ("memory://photos/*.png", "http://host/**"):
        with pytest.raises(ImageError, match="patterns are for files of this machine"):
            names(pattern)
    memory.mv("/photos/b.png", "/photos/b[1].png")
    assert names("memory://photos/b[1].png") == ["b[1].png"]
    assert names("memory://photos", "memory://photos") == sorted({*everything, "b[1].png"} - {"b.png"})


def test_lists(memory, tmp_path):
    memory.pipe(
        "/list.txt", "\ufeffphotos/b.png\n# a remark\n\nmemory://photos/sub/a.jpg\nfile:///x/y.png\n".encode()
    )
    entries = listing(["@memory://list.txt"])
    assert [(entry.name, str(entry.path)) for entry in entries] == [
        ("photos/b.png", "memory://photos/b.png"),
        ("a.jpg", "memory://photos/sub/a.jpg"),
        ("y.png", "/x/y.png"),
    ]
    (tmp_path / "list.txt").write_text("memory://photos/b.png\nc.png\n")
    assert listing([f"@{tmp_path}/list.txt"]) == [
        Entry(RemoteFile("memory://photos/b.png"), "b.png"),
        Entry(tmp_path / "c.png", "c.png"),
    ]


def test_two_images_of_one_name(memory):
    with pytest.raises(OptionError, match=r"both be filed under a\.jpg"):
        listing(["memory://photos/sub/a.jpg", "memory://elsewhere/a.jpg"])


def test_images_are_those_of_files(memory, tmp_path):
    for url in ("memory://photos/a.JPG", "memory://photos/sub/deep/c.tif"):
        (tmp_path / "local").write_bytes(memory.cat_file(url))
        for limit in (None, 10**6):
            np.testing.assert_array_equal(
                open_image(RemoteFile(url), max_pixels=limit), open_image(tmp_path / "local")
            )


def test_tiff_that_pillow_does_not_read(memory, image):
    stream = io.BytesIO()
    deep = image.astype(np.uint16) * 257
    tifffile.imwrite(stream, deep, photometric="rgb", rowsperstrip=7)
    memory.pipe("/deep.tif", stream.getvalue())
    np.testing.assert_array_equal(open_image(RemoteFile("memory://deep.tif")), image)


def test_features_are_those_of_files(memory, net, tmp_path, assert_same_features):
    (tmp_path / "b.png").write_bytes(memory.cat_file("/photos/b.png"))
    (entry,) = listing(["memory://photos/b.png"])
    assert_same_features(net(entry.path), net(tmp_path / "b.png"))


def test_what_is_fetched_is_fetched_once(memory, net, monkeypatch, assert_same_features):
    """Images that are worked on side by side and those that are worked on alone."""
    fetched = []
    read = type(memory).open
    monkeypatch.setattr(
        type(memory), "open", lambda self, path, *o, **n: (fetched.append(path), read(self, path, *o, **n))[1]
    )
    entries = listing(["memory://photos"])
    usual = list(features_of(net, entries, Settings()))
    for free in (1, 1 << 34):
        fetched.clear()
        monkeypatch.setattr(pipeline, "free_memory", lambda free=free: free)
        for (_, features), (_, expected) in zip(features_of(net, entries, Settings()), usual, strict=True):
            assert_same_features(features, expected)
        assert sorted(fetched) == [f"/photos/{entry.name}" for entry in entries]


def test_failures_are_tried_again_once_they_have_changed(memory, web, tmp_path):
    """Of what a server does not answer for, that is not known."""
    memory.pipe("/photos/bad.png", b"no image")
    tried = []

    def failing(path, **_):
        tried.append(str(path))
        raise ImageError(f"{path}: not an image")

    def again(retry=False):
        tried.clear()
        urls = [f"memory://photos/{name}.png" for name in ("bad", "none")]
        entries = listing([*urls, f"{web.address}/broken.png"])
        report = extract(failing, entries, NpzOutput(tmp_path / "out"), Settings(), retry_failed=retry)
        assert len(report.failed) == 3
        return [url.rpartition("/")[2] for url in tried]

    assert again() == ["bad.png", "none.png", "broken.png"]
    assert again() == ["broken.png"]
    memory.pipe("/photos/none.png", b"there now")
    assert again() == ["none.png", "broken.png"]
    memory.pipe("/photos/bad.png", b"other")
    assert again() == ["bad.png", "broken.png"]
    assert again() == ["broken.png"]
    assert len(again(retry=True)) == 3


def test_limits(memory):
    with pytest.raises(ImageError, match=r"memory://photos/b.png is too large to open unasked: 83 x 61"):
        open_image(RemoteFile("memory://photos/b.png"), max_pixels=5000)
    with pytest.raises(ImageError, match="more than 10 bytes"):
        RemoteFile("memory://photos/b.png").read(10)


def test_versions(memory):
    (entry,) = listing(["memory://photos/b.png"])
    before = entry.path.version()
    assert before["size"] == len(memory.cat_file("/photos/b.png"))
    memory.pipe("/photos/b.png", b"other")
    assert entry.path.version() != before


def test_web_server(web, image):
    photos = f"{web.address}/photos/"
    assert names(photos) == ["a.png", "sub/b c.png"]
    assert names(f"{photos}a.png?size=full") == ["a.png"]
    assert names(f"@{web.address}/list.txt") == ["photos/a.png"]
    for entry in [*listing([photos]), *listing([f"{photos}a.png?size=full"])]:
        np.testing.assert_array_equal(open_image(entry.path), image)
    (entry,) = listing([f"{photos}a.png"])
    assert entry.path.version()["version"] == '"1"'


def test_names_from_a_server_stay_inside_the_output(web, image, tmp_path):
    links = [
        *("%2Ftmp%2Fx%2Fpwn.png", "..%2F..%2Fpwn.png", "%2e%2e%2Fpwn.png", "b.png%2Fx.png", "%2Fa.png"),
        *("a%2F%2Fb.png", "a%2F.%2Fc.png", "%1B%5B2J.png", "n%00.png", ".e.png", "b.png"),
    ]
    page = "".join(f'<a href="/evil/{link}">x</a>' for link in links).encode()
    web.answers["/evil/"] = status(200, page, Content_Type="text/html")
    web.answers |= {f"/evil/{link}": File(encoded(image, "PNG")) for link in links}
    bad = ["%2e", "%2e%2e", "a%2F%2e%2e"]
    web.answers |= {f"/{link}": File(encoded(image, "PNG")) for link in bad}
    entries = listing([f"{web.address}/evil/", *(f"{web.address}/{link}" for link in bad)])
    for output in (NpzOutput(tmp_path / "npz"), KaptureOutput(tmp_path / "kapture")):
        report = extract(Widths(), entries, output, Settings())
        assert (report.done, len(report.failed)) == (1, 9 + len(bad))
        assert all("rename" in reason for _, reason in report.failed)
    found = [path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*png*")]
    assert sorted(found) == [
        "kapture/reconstruction/descriptors/d2_net/b.png.desc",
        "kapture/reconstruction/keypoints/d2_net/b.png.kpt",
        "kapture/sensors/records_data/b.png",
        "npz/b.png.d2-net",
    ]
    assert {path.name for path in tmp_path.iterdir()} == {
        *("npz", "npz.failed.txt", "kapture", "kapture.failed.txt")
    }


class Widths:
    """Gives every image as many keypoints as it is wide."""

    provenance = None

    def __call__(self, path, *, threads=None, **options):
        height, width = open_image(path).shape[:2]
        return Features(np.ones((width, 3)), np.ones(width), np.ones((width, 512)), (width, height))


def sends(body, **headers):
    """A server that says 1000 bytes, and sends this again and again."""

    def answer(request):
        if request.command == "HEAD":
            reply(request, 200, b"", {"Content-Length": "1000", "Accept-Ranges": "bytes"})
            return
        reply(request, 206 if "Range" in request.headers else 200, b"", {"Content-Length": None, **headers})
        for _ in range(1000):
            request.wfile.write(body)
            answer.sent += len(body)

    answer.sent = 0
    return answer


@pytest.mark.parametrize("where", ["", "folder/"])
def test_answers_end(web, where, monkeypatch):
    """Whatever the server says of their size; also files inside an archive there."""
    monkeypatch.setattr(index_pages, "LONGEST_PAGE", 1000)
    answer = web.answers[f"/endless/{where}"] = sends(bytes(2**18))
    url = f"{web.address}/endless/{where}"
    with pytest.raises(ImageError, match=r"more than 1,?000 bytes"):
        listing([url]) if where else RemoteFile(url).read(1000)
    assert answer.sent < 100 * 2**18


def test_images_that_are_read_again_end(web, image, tmp_path, monkeypatch):
    """kapture copies an image, and a checksum is taken of it, once the server has sent one."""
    monkeypatch.setattr("d2np.images.open._MOST_BYTES_AROUND", 1000)
    monkeypatch.setattr(remote, "_SECONDS", 0.2)
    endless = web.answers["/photos/sub/b%20c.png"] = sends(bytes(2**18))
    first, second = listing([f"{web.address}/photos/"])
    output = KaptureOutput(tmp_path / "out")
    output.start()
    features = Features(np.ones((1, 3)), np.ones(1), np.ones((1, 512)), (10, 10))
    with pytest.raises(ImageError, match="too large: it has more than 2600 bytes"):
        output.put(second, features, 1.0)
    output.close()
    assert endless.sent < 100 * 2**18
    assert not list((tmp_path / "out").rglob("*b c.png*"))
    web.answers["/photos/sub/b%20c.png"] = drips(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n")
    with pytest.raises(ImageError, match="no answer in time"):
        second.path.sha256()
    assert first.path.sha256() == hashlib.sha256(encoded(image, "PNG")).hexdigest()


@pytest.mark.parametrize("url", ["zip://a.png::{}/a.zip", "simplecache::{}/a.png"])
def test_web_servers_are_not_asked_for_parts(web, url):
    """Each part might be without end, and what is kept on the disk as well."""
    with pytest.raises(ImageError, match="cannot be read in parts from a web server: download the archive"):
        RemoteFile(url.format(web.address)).read(1000)
    assert not web.requests


@pytest.mark.parametrize(("path", "message"), [("/a.png", "is not an image"), ("/a/", "holds no images")])
def test_compressed_answers_are_not_unpacked(web, path, message):
    """Few bytes may be gigabytes once they are unpacked. They are not asked for, either."""
    page = gzip.compress(b'<a href="a.png">')
    web.answers[path] = status(200, page, Content_Encoding="GZip")
    with pytest.raises(ImageError, match=message):
        open_image(listing([web.address + path])[0].path)
    assert {asked["Accept-Encoding"] for asked in web.requests} == {"identity"}


def drips(beginning):
    """A server that sends a byte now and then."""

    def answer(request):
        request.wfile.write(beginning)
        while not request.server.over.wait(0.02):
            request.wfile.write(b"x")

    return answer


def continues(request):
    while not request.server.over.is_set():
        request.wfile.write(b"HTTP/1.1 100 Continue\r\n\r\n")


@pytest.mark.parametrize(
    "answer",
    [
        drips(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n"),
        drips(b"HTTP/1.1 200 OK\r\nX-Long: "),
        continues,
    ],
    ids=["body", "headers", "100"],
)
@pytest.mark.parametrize("path", ["/slow.png", "/slow/"])
def test_servers_that_take_their_time(web, answer, path, monkeypatch):
    monkeypatch.setattr(remote, "_SECONDS", 0.2)
    web.answers[path] = answer
    with pytest.raises(ImageError, match="no answer in time"):
        open_image(listing([web.address + path])[0].path)


def test_settings_for_fsspec_are_kept(web, monkeypatch):
    given = {"headers": {"Authorization": "token"}}
    monkeypatch.setitem(fsspec.config.conf, "http", {"client_kwargs": given})
    RemoteFile(f"{web.address}/photos/a.png").read(10**6)
    assert web.requests[-1]["Authorization"] == "token"
    assert web.requests[-1]["Accept-Encoding"] == "identity"


def test_few_requests(web):
    """One for an image, and one for a page."""
    RemoteFile(f"{web.address}/photos/a.png").read(10**6)
    assert len(web.requests) == 1
    names(f"{web.address}/photos/")
    assert len(web.requests) == 3


def test_index_pages_without_end(web, monkeypatch):
    """Each leads to two more. What they may take by default is in test_index_pages.py."""
    monkeypatch.setattr(index_pages, "MOST_FOLDERS", 50)

    class Everywhere(dict):
        def get(self, path, default):
            return status(200, b'<a href="a/">a</a><a href="b/">b</a>')

    web.answers = Everywhere()
    with pytest.raises(ImageError, match="more than 50 folders"):
        listing([f"{web.address}/tree/"])
    assert len(web.requests) < 60


def test_what_goes_wrong_is_said(web, memory):
    with serving() as gone:
        closed = gone.address
    for url, reason in (
        ("memory://none.png", "there is no such file"),
        ("memory://photos/notes.txt", "not an image in a format"),
        (f"{web.address}/none.png", "there is no such file"),
        (f"{web.address}/private.png", "no permission"),
        (f"{web.address}/broken.png", "500"),
        (f"{web.address}/reset.png", "reset by peer|cannot be used"),
        (f"{closed}/a.png", "Connect call failed|Cannot connect"),
        (f"{closed}/", "Connect call failed|Cannot connect"),
        (f"{web.address}/none/", "there is no such file"),
        ("nonsense://a.png", "cannot be used: Protocol not known"),
        ("file://elsewhere/a.png", "on another machine"),
        ("@memory://none.txt", "there is no such file"),
    ):
        with pytest.raises(ImageError, match=reason) as caught:
            open_image(listing([url])[0].path)
        assert url.removeprefix("@") in str(caught.value)
        assert "\n" not in str(caught.value)


def test_file_urls(tmp_path):
    Image.new("RGB", (9, 8)).save(tmp_path / "a b.png")
    for url in (f"file://{tmp_path}", f"file://localhost{tmp_path}/", f"FILE://{tmp_path}/*"):
        assert listing([url]) == [Entry(tmp_path / "a b.png", "a b.png")]
    assert names(f"file://{tmp_path}/a%20b.png") == ["a b.png"]


@pytest.mark.parametrize(
    ("url", "path"),
    [
        ("file:///C:/photos/a%20b.png", "C:\\photos\\a b.png"),
        ("file://localhost/C:/a.png", "C:\\a.png"),
        ("file:///C:/", "C:\\"),
    ],
)
def test_file_urls_of_windows(url, path):
    found = remote.local_path(url, windows=True)
    assert ntpath.normpath(found) == path
    assert ntpath.isabs(found)
    assert PureWindowsPath(found).as_posix() == found


def test_missing_packages(tmp_path):
    """Local files do without fsspec; and what is missing is named."""
    Image.new("RGB", (9, 8)).save(tmp_path / "a.png")
    (tmp_path / "list.txt").write_text("a.png\n")
    script = f"""
import sys
sys.modules["fsspec"] = sys.modules["s3fs"] = None
from d2np.dataset import listing
from d2np.errors import ImageError
folder = {str(tmp_path)!r}
for source in (folder, folder + "/*.png", "file://" + folder, "@" + folder + "/list.txt"):
    assert listing([source])[0].path.exists()
try:
    listing(["s3://bucket/a.png"])
except ImageError as error:
    print(error)
del sys.modules["fsspec"]
try:
    listing(["s3://bucket/a.png"])
except ImageError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    without, half = done.stdout.splitlines()
    assert without == "s3://bucket/a.png: URLs need the package fsspec: pip install 'd2np[cloud]'"
    assert half.startswith("s3://bucket/a.png: cannot be used: ")
    assert "s3fs" in half
