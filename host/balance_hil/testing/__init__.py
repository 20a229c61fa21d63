"""Test support, also for users: a fake board, a model builder, checks of the emulators."""
