"""``python -m balance_hil``: the command ``hil``."""

from balance_hil.cli import main

if __name__ == "__main__":
    main()
