"""The Dask cluster that a command may use."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ..errors import OptionError
from .report import note

HELP = """\
  With --dask the same job runs on a Dask cluster. Its workers must see the
  {what} under the same path, and the folder {out}/ as well; if
  they do not see that folder, --shards says where else they can leave their
  results. A worker that is killed loses no more than what it was working on,
  which others do again; when this process is killed, the same command goes on.
  Needs pip install 'd2np[dask]'.
"""


def add(parser: argparse.ArgumentParser) -> None:
    """The options ``--dask`` and ``--shards``."""
    group = parser.add_argument_group("cluster")
    group.add_argument(
        "--dask",
        metavar="WHERE",
        help="let a Dask cluster work: the address of its scheduler, such as tcp://host:8786, or local:N for "
        "N processes on this machine",
    )
    group.add_argument(
        "--shards",
        metavar="PLACE",
        help="where its workers leave their results: a folder that they and this process see, or a URL "
        "that fsspec knows, such as s3://bucket/folder; default: OUT.parts",
    )


def check(options: argparse.Namespace) -> None:
    """Refuse options that make no sense, before any work is done.

    Raises
    ------
    OptionError
    """
    if options.dask is not None:
        from ..dataset.cluster import local_processes

        local_processes(options.dask)
    elif options.shards is not None:
        raise OptionError("--shards is for --dask only")


@contextmanager
def connected(options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """What to hand on to :func:`d2np.dataset.extract` or :func:`d2np.dataset.match_pairs`."""
    if options.dask is None:
        yield {}
        return
    from ..dataset import cluster

    with cluster.connected(options.dask) as client:
        note(f"Dask's dashboard: {client.dashboard_link}")
        yield {"client": client, "shards": options.shards}
