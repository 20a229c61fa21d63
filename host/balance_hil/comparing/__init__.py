"""Comparing runtimes and boards on equal inputs, bit for bit."""
