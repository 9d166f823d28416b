"""The benchmarks' scripts run and print their tables, at sizes that tell nothing."""

import os
import subprocess
import sys
from pathlib import Path

import d2np

ROOT = Path(__file__).parents[2]


def table(script, *options):
    """The rows of all the tables that the script prints, as lists of cells, without their headings."""
    environment = {**os.environ, "PYTHONPATH": str(Path(d2np.__file__).parents[1])}
    command = [sys.executable, str(ROOT / "benchmarks" / script), *options]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in done.stdout.splitlines()
        if line.startswith("|")
    ]
    assert len({len(row) for row in rows}) == 1
    return [row for row in rows if row[0][:1].isdigit()]


def test_size():
    rows = table("size.py", "--megapixels", "0.02", "0.04", "--scales", "1", "3", "--rounds", "1")
    assert [row[:2] for row in rows] == [["0.02", "163 x 122"], ["0.04", "231 x 173"]] * 2
    for *_, keypoints, seconds, peak, beyond in rows:
        assert int(keypoints) > 0
        assert float(seconds) > 0
        assert 50 < int(beyond) <= int(peak) < 2000


def test_memory():
    rows = table("memory.py", "--sizes", "160x120", "160x240", "--threads", "1")
    assert [row[:2] for row in rows] == [[size, n] for n in "13" for size in ("160 x 120", "160 x 240")]
    assert [row[4] for row in rows] == ["500", "", "750", ""]
    assert [row[6] for row in rows] == ["", "1.05", "", "1.1"]
    assert all(int(row[2]) > 0 and int(row[3]) > 50 for row in rows)
    assert rows[0][5] == rows[2][5] == "1.00"


def test_matching():
    (row,) = table("matching.py", "--size", "300", "--rounds", "2")
    assert float(row[2]) > 0
    assert int(row[5]) >= 150  # those that have a partner
    assert row[6] == "0"


def test_dataset():
    rows = table("dataset.py", "--sizes", "96x80", "--count", "4", "--rounds", "1", "--memory")
    assert [row[0] for row in rows] == ["96 x 80"] * 4
    assert rows[0][1] == "one core"
    assert all(float(row[2]) > 0 and float(row[3]) > 0 and float(row[5]) > 0 for row in rows)
    assert all(float(row[4]) > 0 for row in rows)
    assert [bool(row[6]) for row in rows] == [False, True, False, False]


def test_memory_and_open_files_stay_flat_over_many_images():
    """The script fails where they do not."""
    rows = table("soak.py", "--count", "200", "--size", "24x16", "--warm-up", "50")
    assert rows[0][0] == "1 to 20"
    assert all(float(row[1]) > 50 for row in rows)


def test_scale():
    rows = table("scale.py", "--entries", "40", "--full", "3", "50", "--tasks", "60")
    assert [row[:3] for row in rows[:6]] == [
        ["960", "0", "receipts through Dask"],
        ["40", "2", "archives are written"],
        ["40", "2", "client takes them in"],
        ["40", "2", "client, started again, finds them"],
        ["40", "2", "the file is assembled"],
        ["40", "2", "the file is looked through"],
    ]
    assert len(rows) == 11
    assert all(float(row[3]) >= 0 and float(row[4]) > 0 and float(row[7]) > 50 for row in rows)
    # 512 floats for each keypoint, and what comes with them.
    assert 50 * 2068 < int(rows[9][6]) < 50 * 2068 + 5000


def test_neon():
    rows = table("neon.py", "--cores")
    assert [row[0] for row in rows] == [
        f"{rows} x 8, {system}" for system in ("aarch64-linux-gnu", "arm64-apple-macosx") for rows in (12, 9)
    ]
    assert [row[1:3] for row in rows] == [["16", "384"], ["16", "288"]] * 2
    assert all(int(row[3]) < int(row[2]) / 2 for row in rows)
    assert all(row[4] == "0" for row in rows)
