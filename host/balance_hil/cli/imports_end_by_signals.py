"""Importing this keeps Ctrl-C from being lost while the rest is imported: Python ignores it in the callbacks of its import."""

from balance_hil.interrupt import lose_none

lose_none()
