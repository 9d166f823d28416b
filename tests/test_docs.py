"""The README and the pages of ``docs/`` name commands, options and extras that there are.

Here commands are parsed and Python is compiled, in an instant; ``.ci/docs`` runs all of it.
"""

from __future__ import annotations

import re
import shlex
import subprocess
import sys

import pytest
from pages import PAGES, ROOT, Failed, Step, blocks, check, extras, prepare, steps

from d2np import cli

README = ROOT / "README.md"


def name(page):
    return page.relative_to(ROOT).with_suffix("").as_posix()


def refusal(arguments):
    """Return the exit code of the command line's parser, 0 where it is content."""
    try:
        cli._parser().parse_args(arguments)
    except SystemExit as end:
        return end.code
    return 0


@pytest.mark.parametrize("page", [README, *PAGES], ids=name)
def test_page(page):
    for step in steps(page.read_text()):
        if step.language == "python":
            compile(step.text, f"{page.name}, line {step.line}", "exec")
            continue
        assert step.extras <= extras()
        for command in re.split(r"\n|&&|;|\|", step.text):
            if command.startswith("d2np "):
                assert not refusal(shlex.split(command, comments=True)[1:]), command
            elif named := re.match(r"pip install .*\[([\w,]+)\]", command):
                assert set(named[1].split(",")) <= extras()


@pytest.mark.parametrize("page", [README, *PAGES], ids=name)
def test_blocks_are_marked_as_what_is_run_or_not_at_all(page):
    assert page.read_text().count("\n```") == 2 * len(blocks(page))
    assert {language for language, _ in blocks(page)} <= {"sh", "python", "text", ""}


@pytest.mark.parametrize("page", [README, *PAGES], ids=name)
def test_a_page_begins_with_something_to_copy(page):
    beginning = page.read_text().partition("\n## ")[0]
    assert any(step.language == "python" or "\n" in step.text for step in steps(beginning))


def test_readme(tmp_path):
    prepare(tmp_path)
    examples = [text for language, text in blocks(README) if language == "python"]
    assert examples
    for text in examples:
        command = [sys.executable, "-W", "error", "-c", text]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    assert (tmp_path / "matches.png").exists()


PAGE = """\
# Title

Whole: `d2np info d2.h5`. Mentioned: `d2np extract`, `d2np pairs --half`, `d2np pairs ... -o m.h5`.

| | needs | |
| --- | --- | --- |
| `d2np demo` | `mat` | `net.dense(image)` |

```sh
d2np warmup
```

```text
every kernel is ready after ... s
```
"""


def test_what_a_page_has_its_reader_run():
    prose, row, calls, block = steps(PAGE)
    assert (prose.line, prose.text, prose.extras) == (3, "d2np info d2.h5", frozenset())
    assert (row.line, row.text, row.extras) == (7, "d2np demo", {"mat"})
    assert (calls.language, calls.text.splitlines()[-1]) == ("python", "net.dense(image)")
    assert (block.line, block.text) == (9, "d2np warmup\n")
    check(block, "other\nevery kernel is ready after 2.0 s\n")
    with pytest.raises(Failed, match="line 9: no line 'every kernel"):
        check(block, "every kernel is ready\n")


def test_a_block_that_is_neither_run_nor_named_is_an_error():
    with pytest.raises(Failed, match="line 1: neither"):
        list(steps("```\nrm -r photos\n```\n"))
    with pytest.raises(Failed, match="line 1: no block before it"):
        list(steps("```text\nprinted by what?\n```\n"))


def test_lines_are_compared_in_order():
    with pytest.raises(Failed):
        check(Step(1, "sh", "", printed="a\nb\n"), "b\na\n")
