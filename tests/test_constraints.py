"""The files of versions that .ci/run and .ci/compatibility install keep up with what d2np needs."""

from __future__ import annotations

from importlib.metadata import requires
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

CONSTRAINTS = Path(__file__).parent / "constraints"
# For those who run d2np; the others are for those who work on it.
EXTRAS = {"onnx", "mat", "fetch", "colmap", "verify", "opencv", "tiff", "dask", "cloud"}
NEEDED = [Requirement(text) for text in requires("d2np") or []]


def pinned(name: str) -> dict[str, Version]:
    lines = (CONSTRAINTS / f"{name}.txt").read_text().splitlines()
    pairs = [line.split("==") for line in lines if not line.startswith("#")]
    assert len({package for package, _ in pairs}) == len(pairs)
    return {package: Version(version) for package, version in pairs}


def wanted_by(requirement: Requirement, extras: set[str]) -> bool:
    marker = requirement.marker
    return marker is None or any(marker.evaluate({"extra": extra}) for extra in extras)


@pytest.mark.parametrize("name", ["oldest", "newest"])
def test_each_package_of_a_user_is_named(name):
    needed = {one.name for one in NEEDED if wanted_by(one, EXTRAS)}
    assert len(needed) > 10
    assert needed <= pinned(name).keys()


def test_each_package_of_a_developer_is_named():
    # torch is large, and .ci/run names its version where it installs it.
    assert {one.name for one in NEEDED} - {"torch"} <= pinned("newest").keys()


@pytest.mark.parametrize("name", ["oldest", "newest"])
def test_each_version_is_one_that_d2np_asks_for(name):
    versions = pinned(name)
    for one in NEEDED:
        if one.name in versions and (name == "newest" or wanted_by(one, EXTRAS)):
            assert one.specifier.contains(versions[one.name]), (one.name, versions[one.name])


def test_the_oldest_are_the_older_ones():
    newest = pinned("newest")
    for package, version in pinned("oldest").items():
        assert version < newest[package], package
