"""Jobs that are killed again and again, at any moment."""

from test_resume import kill_again_and_again, photos  # noqa: F401


def test_twenty_kills(photos, tmp_path):  # noqa: F811
    kill_again_and_again(photos, tmp_path, 20)
