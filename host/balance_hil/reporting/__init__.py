"""Draws a recording: a self-contained HTML page, or a picture alone."""
