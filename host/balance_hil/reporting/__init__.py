"""Drawing a recording: a self-contained HTML page, and the picture of a run alone."""
