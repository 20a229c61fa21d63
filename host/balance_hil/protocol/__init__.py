"""The wire protocol: ``schema.toml`` (the one source), generated ``messages``, and ``codec`` (bytes in, messages out, no I/O)."""
