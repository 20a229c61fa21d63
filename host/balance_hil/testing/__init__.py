"""Test gear that users may use too: a fake board, a model builder, checks of the emulators."""
