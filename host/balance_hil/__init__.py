"""balance_hil: train a balance policy, run it on a microcontroller and prove that it computes what the desktop computes."""

__version__ = "0.1.0"
