"""Images: open them, check them, resize and normalise them, read them by rows, fetch them from URLs."""
