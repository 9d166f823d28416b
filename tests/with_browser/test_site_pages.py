"""Each page of the documentation site in a real browser: light and dark, on a wide and on a narrow screen.

Needs the extra ``docs`` too.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from selenium.webdriver.support.wait import WebDriverWait

ROOT = Path(__file__).parents[2]
SCREENS = {"desktop": (1280, 900), "phone": (390, 844), "small phone": (360, 740)}


@pytest.fixture(scope="session")
def site(tmp_path_factory):
    folder = tmp_path_factory.mktemp("built") / "site"
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)]
    subprocess.run(command, cwd=ROOT, check=True)
    return folder


def wait_for(browser, script):
    return WebDriverWait(browser, 10).until(lambda _: browser.execute_script(f"return {script}"))


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("screen", SCREENS)
def test_every_page(browser, site, screen, theme):
    """Nothing is complained about, asked of another host, missing, or wider than the screen."""
    width, height = SCREENS[screen]
    size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": screen != "desktop"}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    features = [{"name": "prefers-color-scheme", "value": theme}]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
    for kind in ("browser", "performance"):
        browser.get_log(kind)
    pages = sorted(path for path in site.rglob("*.html") if path.name != "404.html")
    assert len(pages) > 30
    for page in pages:
        name = page.relative_to(site).as_posix()
        browser.get(page.as_uri())
        wait_for(browser, "document.readyState === 'complete'")
        scheme = browser.execute_script("return document.body.dataset.mdColorScheme")
        assert scheme == {"light": "default", "dark": "slate"}[theme], name
        across = browser.execute_script("return document.documentElement.scrollWidth")
        assert across <= width, f"{name} is {across} px wide"
        broken = browser.execute_script(
            "return [...document.images].filter((image) => image.loading !== 'lazy' && image.complete"
            " && !image.naturalWidth && getComputedStyle(image).display !== 'none').map((image) => image.src)"
        )
        assert broken == [], name
        assert [entry["message"] for entry in browser.get_log("browser")] == [], name
    asked = [
        message["params"]["request"]["url"]
        for message in (json.loads(entry["message"])["message"] for entry in browser.get_log("performance"))
        if message["method"] == "Network.requestWillBeSent"
    ]
    assert asked
    assert [url for url in asked if not url.startswith((site.as_uri(), "data:", "blob:"))] == []


def test_one_of_two_images_is_shown(browser, site):
    for theme in ("light", "dark"):
        features = [{"name": "prefers-color-scheme", "value": theme}]
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
        browser.get((site / "how" / "network.html").as_uri())
        shown = browser.execute_script(
            "return [...document.querySelectorAll('article img')]"
            ".filter((image) => getComputedStyle(image).display !== 'none').map((image) => image.src)"
        )
        assert shown
        assert all(f"-{theme}.svg" in source for source in shown)


def test_search_finds_without_a_server(browser, site):
    browser.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride",
        {"width": 1280, "height": 900, "deviceScaleFactor": 1, "mobile": False},
    )
    browser.get((site / "index.html").as_uri() + "?q=winograd")
    found = wait_for(
        browser, "[...document.querySelectorAll('.md-search-result__link')].map((link) => link.href)"
    )
    assert any("how/winograd.html" in link for link in found)
