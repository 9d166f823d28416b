"""Every command and example of the pages in ``docs/`` runs as it stands there: see ``test_docs.py``."""

import pytest
from test_docs import PAGES, folder, follow, mirror, name, runs  # noqa: F401


@pytest.mark.parametrize("page", [page for page in PAGES if runs(page)], ids=name)
def test_page(page, folder):  # noqa: F811
    follow(page, folder)
