"""Run what the README and the pages of docs/ tell readers to run, and compare what they say is printed.

``.ci/docs`` calls it with a folder that holds two environments: ``empty``, and ``bare``, in which d2np is
installed without extras. Each page works on copies of them, in a folder with what a reader has
(``tests/pages.py``). Run are, from top to bottom:

- blocks marked ``sh`` and ``python``, and unmarked ones that begin with a command;
- whole commands in running text and tables, and calls in tables. Extras that a paragraph or a table's row
  names, as ``d2np[mat]`` or ``mat``, are there for its own commands only.

A block marked ``text`` is what the block before it prints; ``...`` in it stands for anything.
"""

from __future__ import annotations

import argparse
import os
import re
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from pages import INSTEAD, PAGES, ROOT, Failed, Step, check, mirror, prepare, prepare_downloads, steps


class Page:
    """A page, its folder and its environment."""

    def __init__(self, path: Path, work: Path, address: str) -> None:
        self.name = path.relative_to(ROOT).as_posix()
        self.work = work
        self.place = work / "pages" / self.name.replace("/", "-")
        self.folder = self.place / "folder"
        self.address = address
        self.steps = list(steps(path.read_text()))

    def follow(self) -> Iterator[str]:
        """Run each step once; yields what is wrong."""
        if not self.steps:
            return
        text = "\n".join(step.text for step in self.steps)
        if re.search(r"pip install (-e )?'?\.|python benchmarks/", text):
            tracked = subprocess.check_output(["git", "ls-files", "-z"], cwd=ROOT, text=True)
            for name in filter(None, tracked.split("\0")):
                target = self.folder / name
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(ROOT / name, target)
        shutil.copytree(self.work / "reader", self.folder, dirs_exist_ok=True)
        starts_empty = re.search(r"^pip install \.", self.steps[0].text, re.MULTILINE)
        environment = self.environment("own", self.work / ("empty" if starts_empty else "bare"))
        done: set[str] = set()
        for number, step in enumerate(self.steps):
            if step.text not in done:
                done.add(step.text)
                try:
                    self.run(step, number, environment)
                except (Failed, subprocess.TimeoutExpired) as error:
                    yield str(error)

    def environment(self, name: str, source: Path) -> Path:
        """Copy an environment by hard links; installing replaces files and never writes into them."""
        copy = self.place / name
        shutil.copytree(source, copy, symlinks=True, copy_function=os.link)
        for script in (copy / "bin").iterdir():
            content = b"" if script.is_symlink() else script.read_bytes()
            if bytes(source) in content:
                script.unlink()
                script.write_bytes(content.replace(bytes(source), bytes(copy)))
                script.chmod(0o755)
        return copy

    def run(self, step: Step, number: int, environment: Path) -> None:
        if step.extras:
            environment = self.environment(f"extras-{number}", environment)
            self.call(step, environment, ["pip", "install", "-q", f"d2np[{','.join(sorted(step.extras))}]"])
        if step.language == "python":
            script = self.place / f"step-{number}.py"  # elsewhere: a checkout in the folder is not imported
            script.write_text(step.text)
            printed = self.call(step, environment, ["python", "-W", "error", str(script)])
        else:
            text = step.text
            for pattern, replacement, _ in INSTEAD:
                text = re.sub(pattern, replacement, text, flags=re.MULTILINE)
            printed = self.call(step, environment, ["bash", "-ec", text])
        check(step, printed)

    def call(self, step: Step, environment: Path, command: list[str]) -> str:
        places = [self.folder / ".venv" / "bin", environment / "bin", *os.environ["PATH"].split(os.pathsep)]
        variables = {
            **os.environ,
            "PATH": os.pathsep.join(map(str, places)),
            "D2NP_CACHE": str(self.folder / "cache"),
            "D2NP_FETCH_MIRROR": self.address,
            "PIP_NO_COMPILE": "1",
            "NO_PROXY": "127.0.0.1",
        }
        quiet = {"stdin": subprocess.DEVNULL, "capture_output": True, "text": True}
        done = subprocess.run(command, cwd=self.folder, env=variables, timeout=600, **quiet)
        if done.returncode:
            raise Failed(f"line {step.line}: {step.text}\n{done.stdout}{done.stderr}")
        return done.stdout


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("work", type=Path)
    parser.add_argument("pages", type=Path, nargs="*")
    options = parser.parse_args()
    chosen = [path.resolve() for path in options.pages] or [ROOT / "README.md", *PAGES]

    def follow(path: Path) -> int:
        """Return how many steps of a page fail."""
        start = time.perf_counter()
        page = Page(path, options.work, address)
        problems = list(page.follow())
        shutil.rmtree(page.place, ignore_errors=True)
        summary = f"{time.perf_counter() - start:6.1f} s  {page.name}, {len(page.steps)} steps"
        print("\n".join([summary, *(f"FAILED: {page.name}, {problem}" for problem in problems)]), flush=True)
        return len(problems)

    reader = options.work / "reader"
    reader.mkdir()
    prepare(reader)
    prepare_downloads(reader)
    with mirror() as address, ThreadPoolExecutor(os.cpu_count()) as pool:
        failed = sum(pool.map(follow, chosen))
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    print(
        f"{len(chosen)} pages, {failed} steps failed, {used.ru_utime + used.ru_stime:.0f} s of processor time"
    )
    return bool(failed)


if __name__ == "__main__":
    sys.exit(main())
