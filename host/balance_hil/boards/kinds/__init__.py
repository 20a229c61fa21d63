"""Board kinds: how each sort of board is started, reached and stopped."""
