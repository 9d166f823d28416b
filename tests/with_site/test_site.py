"""The documentation site: it can be built without a warning, and what finds bad links does find them.

Needs the extra ``docs``. Not collected by default: run ``pytest tests/with_site``.
"""

from __future__ import annotations

import html
import importlib.util
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

import d2np

ROOT = Path(__file__).parents[2]


def tool(name):
    spec = importlib.util.spec_from_file_location(name, ROOT / "docs" / "tools" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


links, hooks = tool("links"), tool("hooks")


@pytest.fixture(scope="session")
def site(tmp_path_factory):
    folder = tmp_path_factory.mktemp("built") / "site"
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def test_every_page_is_there(site):
    pages = [path.relative_to(ROOT / "docs") for path in (ROOT / "docs").rglob("*.md")]
    for page in [*pages, *map(Path, hooks.PAGES.values())]:
        assert (site / page.with_suffix(".html")).is_file()


def test_tools_are_no_part_of_it(site):
    assert not list(site.rglob("*.py"))


def test_links_are_good(site):
    assert list(links.complaints(site)) == []


def test_public_names_are_in_the_reference(site):
    anchors = set()
    for path in (site / "api").glob("*.html"):
        anchors |= links.Page(path.read_text()).anchors
    modules = {name for name in d2np.__all__ if isinstance(getattr(d2np, name), ModuleType)}
    assert {f"d2np.{name}" for name in set(d2np.__all__) - modules} <= anchors
    assert {"d2np.options.Detector", "d2np.demo.run", "d2np.verification.verify"} <= anchors
    assert {
        f"d2np.Net.{name}" for name in ("load", "save", "dense", "strength", "describe", "profile")
    } <= anchors
    assert {"d2np.Net.__call__", "d2np.Features.select", "d2np.opencv.D2Net", "d2np.draw.heatmap"} <= anchors


def test_signatures_have_one_parameter_a_line(site):
    signatures = re.findall(
        r'<div class="doc-signature[^>]*>.*?</div>', (site / "api" / "net.html").read_text(), re.DOTALL
    )
    lines = "\n".join(html.unescape(re.sub(r"<[^>]+>", "", text)) for text in signatures).splitlines()
    assert "    *," in lines
    assert "    max_keypoints: int | None = None," in lines
    assert max(map(len, lines)) <= 90


def test_no_role_is_left_in_the_reference(site):
    for path in (site / "api").glob("*.html"):
        text = path.read_text()
        assert ":class:" not in text
        assert ":func:" not in text
        assert ":meth:" not in text


@pytest.mark.parametrize(
    ("body", "complaint"),
    [
        ('<a href="other.html">', ""),
        ('<a href="other.html#there">', ""),
        ('<a href="#here"></a><h2 id="here">', ""),
        ('<a href="https://example.org/any#thing">', ""),
        ('<a href="missing.html">', "links to missing.html, which does not exist"),
        ('<a href="other.html#nowhere">', "links to other.html#nowhere, where there is no such anchor"),
        ('<a href="#nowhere">', "where there is no such anchor"),
        ('<img src="missing.png">', "links to missing.png, which does not exist"),
        ('<img src="https://example.org/a.png">', "loads https://example.org/a.png from another host"),
        ('<script src="//example.org/a.js"></script>', "from another host"),
        ('<link rel="stylesheet" href="https://example.org/a.css">', "from another host"),
        ('<link rel="canonical" href="https://example.org/">', ""),
        ('<a href="ftp:thing">', "whose kind is not known"),
    ],
)
def test_bad_links_are_found(tmp_path, body, complaint):
    (tmp_path / "other.html").write_text('<h2 id="there">There</h2>')
    (tmp_path / "page.html").write_text(f"<html><body>{body}</body></html>")
    found = list(links.complaints(tmp_path))
    if complaint:
        assert len(found) == 1
        assert found[0].startswith("page.html ")
        assert complaint in found[0]
    else:
        assert found == []


def test_a_site_without_pages_is_a_complaint(tmp_path):
    assert len(list(links.complaints(tmp_path))) == 1


@pytest.mark.parametrize(
    ("page", "given", "wanted"),
    [
        ("index.md", "[a](docs/many.md#x) ![b](docs/demo.jpg)", "[a](many.md#x) ![b](demo.jpg)"),
        ("index.md", "see [docs/many.md](docs/many.md)", "see [Many images](many.md)"),
        ("scale.md", "[many.md](many.md) [many](many.md)", "[Many images](many.md) [many](many.md)"),
        ("index.md", "[a](SECURITY.md) [b](LICENSE)", "[a](security.md) [b](licence.md)"),
        ("how/bands.md", "[a](../../README.md#speed)", "[a](../index.md#speed)"),
        ("fuzzing.md", "[a](../docs/reliability.md)", "[a](reliability.md)"),
        ("index.md", "[a](#here) [b](https://x.org/docs/a.md)", "[a](#here) [b](https://x.org/docs/a.md)"),
        ("index.md", "```\n[a](docs/many.md)\n```", "```\n[a](docs/many.md)\n```"),
    ],
)
def test_links_lead_to_pages(page, given, wanted):
    assert hooks.rewritten(given, page, {"many.md": "Many images"}) == wanted


def test_titles_are_those_of_the_navigation():
    nav = [{"Home": "index.md"}, {"API": [{"Overview": "api/index.md"}]}]
    assert hooks.titles(nav) == {"index.md": "Home", "api/index.md": "Overview"}


def test_a_link_to_no_page_is_a_warning(caplog):
    assert hooks.rewritten("[a](pyproject.toml)", "index.md", {}) == "[a](pyproject.toml)"
    assert "pyproject.toml, which is no page of the site" in caplog.text
