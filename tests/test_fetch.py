"""Fetching weights from a server on this machine that does everything a server can do wrong."""

from __future__ import annotations

import functools
import gzip
import hashlib
import io
import os
import re
import signal
import ssl
import subprocess
import sys
import threading
import time

import h5py
import numpy as np
import pooch
import pytest
import trustme
from checkpoints import legacy, repeated, state_dict, tensor, zipped
from loopback import File, endless, in_turn, redirect, reply, reset, serving, silence, stalled, status

from d2np import OptionError, WeightsError, weights
from d2np.cli import main
from d2np.layers import PARAMETER_SHAPES
from d2np.weights import catalogue, fetch

MEGABYTE = 2**20
PROGRAM = [sys.executable, "-m", "d2np", "fetch"]


@functools.cache
def checkpoint(write=legacy, value=1.0):
    """A checkpoint of a megabyte: each array repeats one number, and something large comes along."""
    state = state_dict({name: repeated(value, shape) for name, shape in PARAMETER_SHAPES.items()})
    ballast = np.random.RandomState(0).standard_normal(MEGABYTE // 4).astype("f4")
    return write({"model": state, "optimizer": tensor(ballast)})


def sha256(content):
    return hashlib.sha256(content).hexdigest()


@pytest.fixture
def server():
    with serving() as running:
        yield running


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch, server):
    """An empty cache; the working folder beside it; the server in place of the authors'."""
    folder = tmp_path / "cache"
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    monkeypatch.setenv("D2NP_CACHE", str(folder))
    monkeypatch.setenv("D2NP_FETCH_MIRROR", server.address)
    monkeypatch.setenv("NO_PROXY", "*")
    for variable in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setattr(fetch, "TIMEOUT", 10)
    monkeypatch.setattr(fetch, "LARGEST", 4 * MEGABYTE)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "downloads"))
    (tmp_path / "downloads").mkdir()
    monkeypatch.setattr(pooch.core.time, "sleep", lambda seconds: None)
    return folder


@pytest.fixture
def run(capsys):
    """Runs `d2np fetch`: exit code, standard output, standard error."""

    def call(*arguments):
        code = main(["fetch", *map(str, arguments)])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return call


def holds(path, value=1.0):
    """Whether a file holds the weights of :func:`checkpoint`."""
    arrays = weights.load(path)[0]
    return all((array == value).all() for array in arrays.values())


def left(folder):
    """The files in the cache, and those of downloads beside it."""
    return sorted(path.name for path in folder.parent.rglob("*") if path.is_file())


def wait_for(happens):
    until = time.monotonic() + 600
    while not happens():
        assert time.monotonic() < until
        time.sleep(0.01)


# --- all is well -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("write", [legacy, zipped], ids=["legacy", "zip"])
def test_by_name(run, server, cache, capsys, write):
    content = checkpoint(write)
    server.answers["/d2_tf.pth"] = File(content)
    code, out, err = run()
    assert code == 0
    assert out.splitlines() == [
        f"{cache / 'tf.h5'}: from {server.address}/d2_tf.pth, SHA-256 {sha256(content)}",
        "use it as --weights tf",
    ]
    assert err.startswith(f"fetching {server.address}/d2_tf.pth\n")
    assert err.count("\n") == 1
    assert left(cache) == ["tf.h5"]
    assert os.listdir() == []

    assert holds("tf")
    assert weights.load("tf")[1] == weights.Provenance(
        "d2_tf.pth", sha256(content), "HDF5", f"{server.address}/d2_tf.pth"
    )
    assert main(["info"]) == 0
    shown = capsys.readouterr()
    assert shown.err == "weights: tf (published, from the cache)\n"
    assert re.search(rf"^fetched +from {server.address}/d2_tf\.pth$", shown.out, re.M)


def test_what_is_there_is_not_fetched_again(run, server, cache):
    server.answers["/d2_tf.pth"] = File(checkpoint())
    assert fetch.fetch() == cache / "tf.h5"
    before = (cache / "tf.h5").stat()
    code, out, err = run("tf")
    assert (code, err) == (0, "")
    assert out.startswith(f"{cache / 'tf.h5'}: from {server.address}/d2_tf.pth, ")
    assert fetch.fetch("tf") == cache / "tf.h5"
    assert (cache / "tf.h5").stat() == before
    assert len(server.requests) == 1

    server.answers["/d2_tf.pth"] = File(checkpoint(value=2.0))
    assert run("tf", "--overwrite")[0] == 0
    assert holds("tf", 2.0)
    assert len(server.requests) == 2


def test_damaged_cache_is_fetched_again(run, server, cache):
    server.answers["/d2_tf.pth"] = File(checkpoint())
    cache.mkdir()
    (cache / "tf.h5").write_bytes(b"\x89HDF\r\n\x1a\n and then the disk was full")
    assert run("tf")[0] == 0
    assert holds("tf")


def test_without_a_mirror_it_is_the_known_sources(monkeypatch):
    monkeypatch.delenv("D2NP_FETCH_MIRROR")
    assert fetch._addresses("tf", None) == catalogue.SOURCES["tf"]
    assert [len(catalogue.SOURCES[name]) for name in ("tf", "ots", "tf_no_phototourism")] == [3, 2, 1]
    assert all(urls[0].startswith("https://dusmanu.com/") for urls in catalogue.SOURCES.values())


def test_weights_that_are_hdf5_already(server, tmp_path):
    content = catalogue.resolve("analytic").read_bytes()
    server.answers["/d2.h5"] = File(content)
    found = weights.load(fetch.fetch(url=f"{server.address}/d2.h5"))[1]
    assert (found.name, found.sha256, found.url) == ("d2.h5", sha256(content), f"{server.address}/d2.h5")


def test_secrets_in_an_address_are_sent_but_not_kept(run, server):
    server.answers["/d2.pth?token=hush"] = in_turn(status(403), File(checkpoint()))
    url = server.address.replace("//", "//me:whisper@") + "/d2.pth?token=hush"
    for expected in (1, 0):
        code, out, err = run("--url", url)
        assert code == expected
        assert "whisper" not in out + err
        assert "hush" not in out + err
    assert server.requests[0]["Authorization"].startswith("Basic ")
    assert weights.load("tf")[1].url == f"{server.address}/d2.pth"
    assert b"hush" not in catalogue.cached_file("tf").read_bytes()


def test_length_unknown(run, server):
    server.answers["/d2_tf.pth"] = _unmeasured
    assert run()[0] == 0
    assert holds("tf")


def _unmeasured(request):
    reply(request, 200, checkpoint(), {"Content-Length": None})


def test_chunked(server):
    def chunked(request):
        request.protocol_version = "HTTP/1.1"
        reply(request, 200, b"", {"Content-Length": None, "Transfer-Encoding": "chunked"})
        content = checkpoint()
        for start in range(0, len(content), 100_000):
            piece = content[start : start + 100_000]
            request.wfile.write(b"%x\r\n%b\r\n" % (len(piece), piece))
        request.wfile.write(b"0\r\n\r\n")

    server.answers["/d2_tf.pth"] = chunked
    fetch.fetch()
    assert holds("tf")


def test_redirects_are_followed(server):
    server.answers["/d2_tf.pth"] = redirect("/moved")
    server.answers["/moved"] = redirect(f"{server.address}/away/d2.pth")
    server.answers["/away/d2.pth"] = File(checkpoint())
    fetch.fetch()
    assert weights.load("tf")[1].url == f"{server.address}/d2_tf.pth"


def test_progress_and_notes(server):
    seen, notes = [], []
    server.answers["/d2_tf.pth"] = in_turn(status(503), File(checkpoint()))
    fetch.fetch(progress=lambda *state: seen.append(state), note=notes.append)
    size = len(checkpoint())
    assert seen[-1] == (size, size)
    assert seen == sorted(seen)
    assert notes == [f"fetching {server.address}/d2_tf.pth"]


# --- several sources -------------------------------------------------------------------------------------


@pytest.fixture
def sources(server, monkeypatch):
    """Three sources of `tf` and two of `ots` on this machine; the second of `ots` as Keras keeps it."""
    monkeypatch.delenv("D2NP_FETCH_MIRROR")
    tf = tuple(f"{server.address}/{place}/d2_tf.pth" for place in "abc")
    ots = (f"{server.address}/d2_ots.pth", f"{server.address}/vgg16.h5")
    monkeypatch.setattr(catalogue, "SOURCES", {**catalogue.SOURCES, "tf": tf, "ots": ots})
    monkeypatch.setattr(catalogue, "MD5", {"vgg16.h5": hashlib.md5(keras()).hexdigest()})
    return {"tf": tf, "ots": ots}


@functools.cache
def keras():
    """A file as Keras writes it: each array repeats one number."""
    stream = io.BytesIO()
    with h5py.File(stream, "w") as file:
        for name, shape in PARAMETER_SHAPES.items():
            layer, kind = name.split("/")
            turned = shape if kind == "bias" else (*shape[2:], shape[1], shape[0])
            block = f"block{layer[4]}_conv{layer[6]}"
            file.create_dataset(f"{block}/{block}_{kind}:0", turned, "<f4", fillvalue=1)
    return stream.getvalue()


def test_known_addresses():
    assert catalogue.SOURCES["tf"][1:] == (
        "https://huggingface.co/vismatch/d2net/resolve/main/d2_tf.pth",
        "https://huggingface.co/Realcat/imcui_checkpoints/resolve/main/d2net/d2_tf.pth",
    )
    folder, _, name = catalogue.SOURCES["ots"][1].rpartition("/")
    assert folder == "https://storage.googleapis.com/tensorflow/keras-applications/vgg16"
    assert {name: "6d6bbae143d832006294945121d1f1fc"} == catalogue.MD5


def test_sources_are_tried_in_order(run, server, sources, cache):
    server.answers["/a/d2_tf.pth"] = status(404)
    server.answers["/b/d2_tf.pth"] = status(200, b"moved elsewhere")
    server.answers["/c/d2_tf.pth"] = File(checkpoint())
    code, out, err = run()
    assert code == 0
    a, b, c = sources["tf"]
    lines = err.splitlines()
    assert lines[:3] == [f"fetching {a}", f"{a}: the server answers 404 Not Found", f"fetching {b}"]
    assert lines[3].startswith(f"{b}: is of an unknown kind, and starts with b'moved elsewhere'")
    assert f"fetching {c}" in lines
    assert out.startswith(f"{cache / 'tf.h5'}: from {c}, SHA-256 {sha256(checkpoint())}\n")
    assert weights.load("tf")[1].url == c
    assert len(server.requests) == 3


def test_the_first_that_works_is_taken(run, server, sources):
    server.answers["/a/d2_tf.pth"] = File(checkpoint())
    assert run()[0] == 0
    assert len(server.requests) == 1


def test_no_source_works(run, server, sources, cache, monkeypatch):
    monkeypatch.setattr(fetch, "TIMEOUT", 1.0)
    server.answers["/a/d2_tf.pth"] = silence
    server.answers["/b/d2_tf.pth"] = reset
    code, out, err = run()
    assert (code, out) == (1, "")
    a, b, c = sources["tf"]
    failures = [
        f"{a}: it cannot be downloaded: timed out",
        f"{b}: it cannot be downloaded: Connection reset by peer",
        f"{c}: the server answers 404 Not Found",
    ]
    assert [line for line in err.splitlines() if line.startswith("http")] == failures
    last = f"{'; '.join(failures)}; {BY_HAND} `d2np convert`"
    assert err.splitlines()[-1] == f"d2np: {last}"
    assert left(cache) == []
    with pytest.raises(WeightsError) as caught:
        fetch.fetch()
    assert str(caught.value) == last


def test_another_checksum_is_refused(run, server, sources):
    content = checkpoint()
    server.answers["/a/d2_tf.pth"] = File(checkpoint(value=2.0))
    server.answers["/b/d2_tf.pth"] = File(content)
    code, _, err = run("--sha256", sha256(content))
    assert code == 0
    assert f"expected {sha256(content)}\n" in err
    assert weights.load("tf")[1].url == sources["tf"][1]


def test_ots_from_keras(run, server, sources, capsys):
    server.answers["/vgg16.h5"] = File(keras())
    code, _, err = run("ots")
    assert code == 0
    assert f"{sources['ots'][0]}: the server answers 404 Not Found\n" in err
    arrays, provenance = weights.load("ots")
    assert holds("ots")
    assert provenance == weights.Provenance("vgg16.h5", sha256(keras()), "HDF5", sources["ots"][1])
    assert provenance.preprocessing == "caffe"
    digest = weights.Provenance.of_arrays(arrays).sha256
    assert main(["info", "ots"]) == 0
    told = capsys.readouterr().out
    assert re.search(rf"^source +vgg16\.h5, SHA-256 {sha256(keras())}$", told, re.M)
    assert re.search(rf"^fetched +from {sources['ots'][1]}$", told, re.M)
    assert re.search(r"^licence +its authors' terms \(https://github.com/mihaidusmanu/d2-net\)$", told, re.M)
    assert re.search(rf"^parameters .+ SHA-256 {digest}$", told, re.M)


@pytest.mark.parametrize("by_url", [False, True])
def test_a_file_of_keras_with_another_sum(run, server, sources, cache, by_url):
    changed = keras() + b"!"
    server.answers["/vgg16.h5"] = File(changed)
    code, out, err = run("ots", *(["--url", sources["ots"][1]] if by_url else []))
    assert (code, out) == (1, "")
    found, expected = hashlib.md5(changed).hexdigest(), hashlib.md5(keras()).hexdigest()
    last = err.splitlines()[-1]
    told = f"it is another file: its checksum is {found}, expected {expected}"
    assert f"{sources['ots'][1]}: {told}; {BY_HAND}" in last
    assert left(cache) == []


def test_mirror(run, server, sources, monkeypatch):
    """It is asked for the file of each source, and nobody else is asked."""
    monkeypatch.setenv("D2NP_FETCH_MIRROR", f"{server.address}/mirror/")
    server.answers["/mirror/vgg16.h5"] = File(keras())
    server.answers["/d2_ots.pth"] = File(checkpoint(value=2.0))
    assert run("ots")[0] == 0
    assert holds("ots")
    assert weights.load("ots")[1].url == f"{server.address}/mirror/vgg16.h5"
    assert fetch._addresses("tf", None) == (f"{server.address}/mirror/d2_tf.pth",)
    assert fetch._addresses("tf", "https://a.example/b.pth") == ("https://a.example/b.pth",)


def test_url(run, server, sources):
    server.answers["/own/tuned.pth"] = File(checkpoint())
    url = f"{server.address}/own/tuned.pth"
    assert run("tf", "--url", url)[0] == 0
    assert holds("tf")
    assert weights.load("tf")[1].url == url
    assert len(server.requests) == 1
    assert f": from {url}, " in run("tf", "--url", url)[1]
    assert f": from {url}, " in run("tf")[1]
    assert fetch.fetch("tf", url=url) == catalogue.cached_file("tf")
    assert len(server.requests) == 1
    code, _, err = run("tf", "--url", f"{server.address}/none.pth")
    assert code == 1
    assert "/none.pth: the server answers 404 Not Found; by hand" in err
    assert holds("tf")


# --- sources of one name that differ ---------------------------------------------------------------------


@pytest.fixture
def differing(server, sources):
    """The second source of `tf`, with other arrays than the first, fetched before; what is told of it."""
    first, second = checkpoint(), checkpoint(value=3.5)
    server.answers["/a/d2_tf.pth"] = File(first)
    server.answers["/b/d2_tf.pth"] = File(second)
    fetch.fetch()
    a, b, _ = sources["tf"]
    return b, (
        f"{b} (SHA-256 {sha256(second)}) holds other weights than {catalogue.cached_file('tf')}, which "
        f"came from {a} (SHA-256 {sha256(first)})"
    )


def test_another_source_with_other_arrays_is_told_and_not_kept(run, differing, cache):
    url, told = differing
    before = (cache / "tf.h5").read_bytes()
    code, out, err = run("tf", "--url", url)
    assert (code, out) == (1, "")
    assert err.splitlines()[-1] == f"d2np: {told}; these are kept: replace them with --overwrite"
    assert (cache / "tf.h5").read_bytes() == before


def test_other_arrays_replace_what_is_there_if_forced(run, differing):
    url, told = differing
    code, _, err = run("tf", "--url", url, "--overwrite")
    assert code == 0
    assert f"{told}; replacing them" in err.splitlines()
    assert holds("tf", 3.5)
    assert "replacing" not in run("tf", "--url", url, "--overwrite")[2]


def test_another_source_with_the_same_arrays(run, server, sources):
    server.answers["/a/d2_tf.pth"] = File(checkpoint())
    server.answers["/b/d2_tf.pth"] = File(checkpoint(zipped))
    fetch.fetch()
    code, _, err = run("tf", "--url", sources["tf"][1])
    assert code == 0
    assert "other weights" not in err
    # The file tells where it was last fetched from.
    assert weights.load("tf")[1].sha256 == sha256(checkpoint(zipped))


# --- through a proxy -------------------------------------------------------------------------------------


@pytest.fixture
def proxied(monkeypatch):
    """Sends all requests through an address."""

    def through(address):
        for variable in ("HTTP_PROXY", "HTTPS_PROXY"):
            monkeypatch.setenv(variable, address)
            monkeypatch.setenv(variable.lower(), address)
        for variable in ("NO_PROXY", "no_proxy", "ALL_PROXY", "all_proxy"):
            monkeypatch.delenv(variable, raising=False)

    return through


def test_proxy(run, server, proxied):
    """It is asked for the whole address: the name of the host means nothing here."""
    proxied(server.address)
    server.answers["http://weights.invalid/d2.pth"] = File(checkpoint())
    assert run("--url", "http://weights.invalid/d2.pth")[0] == 0
    assert holds("tf")


def test_https_through_a_proxy(run, server, secure, proxied):
    server.answers["/d2.pth"] = File(checkpoint())
    with serving() as proxy:
        proxied(proxy.address)
        proxy.tunnel = True
        assert run("--url", f"{secure}/d2.pth")[0] == 0
        assert len(proxy.requests) == len(server.requests) == 1
        assert holds("tf")


def test_https_through_a_proxy_that_takes_its_time(run, server, secure, proxied, monkeypatch):
    monkeypatch.setattr(fetch, "TOTAL", 0.3)
    server.answers["/d2.pth"] = _drips
    with serving() as proxy:
        proxied(proxy.address)
        proxy.tunnel = True
        assert "it has not come within 0.3 s" in run("--url", f"{secure}/d2.pth")[2]


def test_proxy_that_refuses(run, server, proxied):
    proxied(server.address)
    server.answers["http://weights.invalid/d2.pth"] = status(407)
    assert (
        "the server answers 407 Proxy Authentication Required; by hand"
        in run("--url", "http://weights.invalid/d2.pth")[2]
    )
    code, _, err = run("--url", "https://weights.invalid/d2.pth")
    assert code == 1
    assert "Tunnel connection failed: 403 Forbidden; by hand" in err


def test_proxy_that_cannot_be_used(run, proxied):
    proxied("gopher://127.0.0.1:1")
    code, _, err = run("--url", "http://weights.invalid/d2.pth")
    assert code == 1
    assert "Proxy URL had unsupported scheme gopher" in err


# --- broken off ------------------------------------------------------------------------------------------


def test_begins_anew(run, server, cache):
    # What came in the first attempt was longer.
    server.answers["/d2_tf.pth"] = in_turn(
        File(checkpoint() + bytes(100), cuts=[500_000]), File(checkpoint())
    )
    assert run()[0] == 0
    assert len(server.requests) == 2
    assert "Range" not in server.requests[1]
    assert holds("tf")
    assert left(cache) == ["tf.h5"]


@pytest.mark.parametrize(("sent", "code"), [(9, -9), (signal.SIGINT, 130)])
def test_killed_or_interrupted(server, cache, sent, code):
    asked = threading.Event()

    def answer(request):
        asked.set()
        stalled(checkpoint(), 500_000)(request)

    server.answers["/d2_tf.pth"] = answer
    process = subprocess.Popen(PROGRAM, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert asked.wait(60)
    process.send_signal(sent)
    out, err = process.communicate(timeout=600)
    assert process.returncode == code
    assert (out, "Traceback" in err) == ("", False)
    if sent == signal.SIGINT:
        assert left(cache) == []
    # What a killed process could not remove, the next one does.
    server.answers["/d2_tf.pth"] = File(checkpoint())
    fetch.fetch()
    assert left(cache) == ["tf.h5"]


# --- two at once -----------------------------------------------------------------------------------------


def test_two_processes_at_once(server, cache):
    go = threading.Event()

    def slowly(request):
        go.wait(30)
        File(checkpoint())(request)

    server.answers["/d2_tf.pth"] = slowly
    both = [subprocess.Popen(PROGRAM, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    wait_for(lambda: len(server.requests) == 2)
    go.set()
    for process in both:
        out, _ = process.communicate(timeout=600)
        assert process.returncode == 0
        assert out.startswith(f"{cache / 'tf.h5'}: from ")
    assert holds("tf")
    assert left(cache) == ["tf.h5"]


def test_threads_at_once(server, cache):
    server.answers["/d2_tf.pth"] = File(checkpoint(), cuts=[300_000])
    paths = []
    threads = [
        threading.Thread(target=lambda force=force: paths.append(fetch.fetch(force=force)))
        for force in (False, False, True, True)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert paths == [cache / "tf.h5"] * 4
    assert holds("tf")
    assert left(cache) == ["tf.h5"]


# --- what servers do wrong -------------------------------------------------------------------------------


def _other_network():
    return zipped({"model": {"features.0.weight": tensor(np.zeros((4, 3), "f4"))}})


def _other_shape():
    arrays = {name: repeated(1.0, shape) for name, shape in PARAMETER_SHAPES.items()}
    arrays["conv4_3/bias"] = repeated(1.0, (256,))
    return legacy({"model": state_dict(arrays)})


def _longer(request):
    """Claims more than there is."""
    reply(request, 200, checkpoint(), {"Content-Length": str(len(checkpoint()) + 1000)})


def _shorter(request):
    reply(request, 200, checkpoint(), {"Content-Length": "700000"})


def _loop(request):
    reply(request, 302, b"", {"Location": request.path})


def _endless_redirect(request):
    request.send_response_only(302)
    request.send_header("Location", "/lost")
    request.end_headers()
    for _ in range(100_000):
        request.wfile.write(bytes(2**16))


BY_HAND = "by hand: get the file in another way, such as a browser, and run"
PAGE = b"<!doctype html>\n<html><title>Log in</title></html>"
TRANSPORT = {
    "404": (status(404, PAGE, Content_Type="text/html"), "the server answers 404 Not Found", 1),
    "403": (status(403), "the server answers 403 Forbidden", 1),
    "500": (status(500), "the server answers 500 Internal Server Error", 3),
    "unheard of": (status(799), "the server answers 799", 3),
    "no content": (status(204), "the server answers 204 No Content", 1),
    "not modified": (status(304), "the server answers 304 Not Modified", 1),
    "part": (status(206, b"abc"), "the server answers 206 Partial Content", 1),
    "web page": (
        status(200, PAGE, Content_Type="text/html; charset=utf-8"),
        "is a web page (HTML), not weights; the download probably ended at an error or log-in page",
        1,
    ),
    "redirect loop": (_loop, "it cannot be downloaded: Exceeded 30 redirects", 93),
    "redirect to a file": (
        redirect("file:///etc/passwd"),
        "No connection adapters were found for 'file:///etc/passwd'",
        3,
    ),
    "redirect to nowhere": (
        redirect("http://[::1/"),
        "it cannot be downloaded: Invalid IPv6 URL",
        3,
    ),
    "endless redirect": (_endless_redirect, "the server answers 404 Not Found", 2),
    "hangs up": (reset, "Connection reset by peer", 3),
    "closes": (
        lambda request: None,
        "Remote end closed connection without response",
        3,
    ),
    "too long": (_longer, "1000 more expected)", 3),
    "claims too much": (
        status(200, b"", Content_Length="99999999999"),
        "it cannot be downloaded: IncompleteRead(0 bytes read, 99999999999 more expected)",
        3,
    ),
    "endless": (endless, "the server sends more than 4,194,304 bytes", 1),
    "compressed": (
        status(200, gzip.compress(bytes(MEGABYTE), 1), Content_Encoding="GZip"),
        "the server sends it compressed, though asked for it as it is",
        1,
    ),
    "no number": (status(200, b"abc", Content_Length="many"), "it cannot be downloaded: ", 3),
}
CONTENT = {
    "too short": (_shorter, "truncated: the file ends"),
    "empty": (status(200), "is empty"),
    "web page called a file": (
        status(200, PAGE, Content_Type="application/octet-stream"),
        "is a web page (HTML), not weights",
    ),
    "image": (status(200, b"\x89PNG\r\n\x1a\n" + bytes(100)), "and starts with b'\\x89PNG"),
    "text": (status(200, b"moved elsewhere"), "and starts with b'moved elsewhere'"),
    "noise": (status(200, b"\x01\x02\xff\xfe" * 100), "is of an unknown kind, "),
    "another network": (status(200, _other_network()), "not the 20 arrays of a D2-Net"),
    "another shape": (status(200, _other_shape()), "conv4_3/bias"),
    "not finite": (File(checkpoint(value=np.nan)), "infinite or not a number"),
}


@pytest.mark.parametrize(("answer", "reason", "requests"), TRANSPORT.values(), ids=TRANSPORT)
def test_what_does_not_come(run, server, cache, answer, reason, requests):
    server.answers["/d2_tf.pth"] = answer
    code, out, err = run()
    assert (code, out) == (1, "")
    last = err.splitlines()[-1]
    assert last.startswith(f"d2np: {server.address}/d2_tf.pth: ")
    assert reason in last
    assert last.endswith(f"; {BY_HAND} `d2np convert`")
    assert len(last.replace(str(cache), "")) < 400
    assert left(cache) == []
    assert len(server.requests) == requests

    with pytest.raises(WeightsError) as caught:
        fetch.fetch()
    assert f"d2np: {caught.value}" == last


@pytest.mark.parametrize(("answer", "reason"), CONTENT.values(), ids=CONTENT)
def test_what_is_no_checkpoint(run, server, cache, answer, reason):
    server.answers["/d2_tf.pth"] = answer
    code, out, err = run()
    assert (code, out) == (1, "")
    last = err.splitlines()[-1]
    assert last.startswith(f"d2np: {server.address}/d2_tf.pth: ")
    assert reason in last
    assert left(cache) == []
    assert len(server.requests) == 1

    server.answers["/d2_tf.pth"] = File(checkpoint())
    assert run()[0] == 0
    before = (cache / "tf.h5").read_bytes()
    server.answers["/d2_tf.pth"] = answer
    with pytest.raises(WeightsError) as caught:
        fetch.fetch(force=True)
    assert f"d2np: {caught.value}" == last
    assert (cache / "tf.h5").read_bytes() == before


@pytest.mark.parametrize(
    "answer", [silence, stalled(checkpoint(), 500_000)], ids=["from the start", "half-way"]
)
def test_server_falls_silent(run, server, cache, monkeypatch, answer):
    monkeypatch.setattr(fetch, "TIMEOUT", 1.0)
    server.answers["/d2_tf.pth"] = answer
    code, _, err = run()
    assert code == 1
    assert "it cannot be downloaded: timed out; by hand" in err.splitlines()[-1]
    assert "tf.h5" not in left(cache)


def _continues(request):
    """Says again and again that it is about to answer."""
    while not request.server.over.is_set():
        request.wfile.write(b"HTTP/1.1 100 Continue\r\n\r\n")


def _drips(request):
    """Sends a byte of the body now and then: each time there is a sign of the server, and something new."""
    reply(request, 200, b"", {"Content-Length": str(len(checkpoint()))})
    while not request.server.over.wait(0.02):
        request.wfile.write(b"x")


def _drips_headers(request):
    request.wfile.write(b"HTTP/1.1 200 OK\r\nX-Long: ")
    while not request.server.over.wait(0.02):
        request.wfile.write(b"x")


def _drips_unmeasured(request):
    """Where nobody knows the size, the end of the connection is that of the file."""
    reply(request, 200, b"", {"Content-Length": None})
    while not request.server.over.wait(0.02):
        request.wfile.write(b"x")


@pytest.mark.parametrize("answer", [_continues, _drips, _drips_headers, _drips_unmeasured])
def test_server_takes_its_time(run, server, cache, monkeypatch, answer):
    monkeypatch.setattr(fetch, "TOTAL", 0.3)
    server.answers["/d2_tf.pth"] = answer
    code, _, err = run()
    assert code == 1
    assert "it has not come within 0.3 s; by hand" in err.splitlines()[-1]
    assert left(cache) == []


def test_redirects_that_take_their_time(run, server, monkeypatch):
    monkeypatch.setattr(fetch, "TOTAL", 0.3)

    def answer(request):
        request.server.over.wait(0.05)
        _loop(request)

    server.answers["/d2_tf.pth"] = answer
    assert "it has not come within 0.3 s" in run()[2]
    assert len(server.requests) < 10


def test_endless_size_of_a_chunk(run, server, monkeypatch):
    """It is never kept in memory."""
    monkeypatch.setattr(fetch, "ATTEMPTS", 1)
    sent = []

    def answer(request):
        request.protocol_version = "HTTP/1.1"
        reply(request, 200, b"", {"Content-Length": None, "Transfer-Encoding": "chunked"})
        request.wfile.write(b"1;")
        for _ in range(1000):
            request.wfile.write(b"x" * 2**16)
            sent.append(2**16)

    server.answers["/d2_tf.pth"] = answer
    assert f"d2np: {server.address}/d2_tf.pth: " in run()[2]
    assert sum(sent) < 32 * MEGABYTE


def test_nobody_listens(run, cache):
    with serving() as gone:
        address = gone.address
    code, _, err = run("--url", f"{address}/d2.pth")
    assert code == 1
    assert err.splitlines()[-1] == (
        f"d2np: {address}/d2.pth: it cannot be downloaded: Connection refused; {BY_HAND} `d2np convert`"
    )


def test_unknown_host(run):
    """The name can never exist (RFC 2606); what the system says of it differs."""
    code, _, err = run("--url", "http://nowhere.invalid/d2.pth")
    assert code == 1
    assert re.search(r"it cannot be downloaded: .+; by hand", err)


def test_no_secure_connection(run, server):
    code, _, err = run("--url", server.address.replace("http:", "https:") + "/d2.pth")
    assert code == 1
    assert "it cannot be downloaded: " in err


@pytest.fixture
def secure(server, monkeypatch, tmp_path):
    """The server's address once it talks https, with a certificate that is trusted."""
    authority = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    authority.cert_pem.write_to_path(str(tmp_path / "authority.pem"))
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(tmp_path / "authority.pem"))
    return server.address.replace("http:", "https:")


def test_https(run, server, secure):
    server.answers["/d2.pth"] = File(checkpoint())
    server.answers["/moved.pth"] = redirect("/d2.pth")
    assert run("--url", f"{secure}/moved.pth")[0] == 0
    assert holds("tf")


def test_https_that_takes_its_time(run, server, secure, monkeypatch):
    monkeypatch.setattr(fetch, "TOTAL", 0.3)
    server.answers["/d2.pth"] = _drips
    assert "it has not come within 0.3 s" in run("--url", f"{secure}/d2.pth")[2]


def test_certificate_that_is_not_trusted(run, server, secure, monkeypatch):
    monkeypatch.delenv("REQUESTS_CA_BUNDLE")
    code, _, err = run("--url", f"{secure}/d2.pth")
    assert code == 1
    assert re.search(r"it cannot be downloaded: .* certificate.*; by hand", err)
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", "none.pem")
    assert re.search(r"Could not find .+ none\.pem; by hand", run("--url", f"{secure}/d2.pth")[2])
    assert server.requests == []


def test_redirect_from_https_to_http(run, server, secure):
    server.answers["/d2.pth"] = redirect("HTTP://127.0.0.1:1/d2.pth")
    code, _, err = run("--url", f"{secure}/d2.pth")
    assert code == 1
    assert "the server redirects from https to http, which is not secure; by hand" in err


def test_proxy_that_is_not_there(run, proxied):
    with serving() as gone:
        proxied(gone.address)
    code, _, err = run("--url", "http://weights.invalid/d2.pth")
    assert code == 1
    assert "/d2.pth: it cannot be downloaded: Connection refused; by hand" in err


# --- SHA-256 ---------------------------------------------------------------------------------------------


def test_sha256(run, server, cache):
    server.answers["/d2_tf.pth"] = File(checkpoint())
    right, wrong = sha256(checkpoint()), "ab" * 32
    code, _, err = run("--sha256", wrong)
    assert code == 1
    assert err.splitlines()[-1] == (
        f"d2np: {server.address}/d2_tf.pth: it is another file: its checksum is {right}, expected {wrong}; "
        f"{BY_HAND} `d2np convert`"
    )
    assert left(cache) == []
    assert run("--sha256", right.upper())[0] == 0
    assert holds("tf")

    assert run("--sha256", right)[0] == 0
    code, _, err = run("--sha256", wrong)
    assert code == 1
    assert f"{cache / 'tf.h5'} has another SHA-256, {right}: replace it with --overwrite" in err
    with pytest.raises(WeightsError, match="its checksum is"):
        fetch.fetch(sha256=wrong, force=True)
    assert holds("tf")
    assert len(server.requests) == 3


# --- where it cannot be kept -----------------------------------------------------------------------------


def test_cache_that_cannot_be_written(run, tmp_path, monkeypatch, server):
    server.answers["/d2_tf.pth"] = File(checkpoint())
    (tmp_path / "file").write_text("mine")
    monkeypatch.setenv("D2NP_CACHE", str(tmp_path / "file" / "cache"))
    code, out, err = run()
    assert (code, out) == (1, "")
    assert err.splitlines()[-1].endswith("cache/tf.h5: cannot be written: Not a directory")


@pytest.mark.parametrize("room", [200_000, 3_000], ids=["for some of it", "for next to nothing"])
def test_full_disk(server, cache, room):
    """A limit to the size of files stands in for it: the kernel refuses the write."""
    server.answers["/d2_tf.pth"] = File(checkpoint())
    limited = (
        "import resource, sys; from d2np.cli import main; "
        f"resource.setrlimit(resource.RLIMIT_FSIZE, ({room}, {room})); sys.exit(main(['fetch']))"
    )
    done = subprocess.run([sys.executable, "-c", limited], capture_output=True, text=True, timeout=600)
    assert (done.returncode, done.stdout) == (1, "")
    assert f"/d2_tf.pth: it cannot be downloaded: File too large; {BY_HAND}" in done.stderr
    assert left(cache) == []


def test_full_disk_when_it_is_converted(server, cache):
    server.answers["/d2_tf.pth"] = File(checkpoint())
    limited = (
        "import resource, sys; from d2np.cli import main; from d2np.weights import fetch; "
        "save = fetch.save; full = lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (9999, 9999)); "
        "fetch.save = lambda *given: (full(), save(*given)); "
        "sys.exit(main(['fetch']))"
    )
    done = subprocess.run([sys.executable, "-c", limited], capture_output=True, text=True, timeout=600)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.endswith(f"d2np: {cache / 'tf.h5'}: cannot be written: File too large\n")
    assert left(cache) == []


# --- bad usage, and what is not installed ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["tg"], "must be one of tf, ots, tf_no_phototourism; got 'tg'"),
        (["vgg16"], "must be one of tf, ots, "),
        (["http://127.0.0.1/d2.pth"], "must be one of tf, ots, "),
        (
            ["--url", "ftp://127.0.0.1/b"],
            "ftp://127.0.0.1/b: expected an address that starts with http://",
        ),
        (["--url", "file:///etc/passwd"], "expected an address"),
        (["--url", "http:///d2.pth"], "expected an address"),
        (["--url", "http://[::1/d2.pth"], "expected an address"),
        (["--url", "http://127.0.0.1/\n"], "expected an address"),
        (["--url", "http://127.0.0.1/\x1b"], "expected an address"),
        (["--url", ""], "expected an address"),
    ],
)
def test_bad_usage(run, server, cache, arguments, message):
    code, out, err = run(*arguments)
    assert (code, out) == (2, "")
    assert err.startswith("d2np: ")
    assert err.count("\n") == 1
    assert message in err
    assert server.requests == []
    assert not cache.exists()


def test_mirror_that_is_no_address(run, monkeypatch):
    monkeypatch.setenv("D2NP_FETCH_MIRROR", "mirror.example")
    code, _, err = run()
    assert code == 2
    assert err.startswith("d2np: mirror.example/d2_tf.pth: expected an address that starts with http://")
    with pytest.raises(OptionError):
        fetch.fetch("ots")


def test_missing_extra(run, server, monkeypatch):
    monkeypatch.setitem(sys.modules, "pooch", None)
    code, _, err = run()
    assert code == 1
    assert err.endswith("d2np: fetching weights needs the package pooch: pip install 'd2np[fetch]'\n")
    assert server.requests == []


def test_imports_no_extra():
    script = (
        "import sys, d2np; assert 'd2np.weights' not in sys.modules; import d2np.weights.fetch; "
        "print({'pooch', 'requests', 'urllib3'} & sys.modules.keys())"
    )
    assert subprocess.check_output([sys.executable, "-c", script], text=True) == "set()\n"


def test_other_commands_say_how_to_fetch(capsys, server, cache):
    assert main(["info", "ots"]) == 1
    assert capsys.readouterr().err == (
        "d2np: the published weights `ots` are not on this machine: run `d2np fetch ots`, or download "
        f"{' or '.join(catalogue.SOURCES['ots'])} and run `d2np convert FILE {cache / 'ots.h5'}`\n"
    )
