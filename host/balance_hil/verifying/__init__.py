"""``hil verify``: proof that the HIL suite can fail. One fault at a time is put into the device; the suite must name it."""
