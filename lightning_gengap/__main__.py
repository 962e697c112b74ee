"""Lets `python -m lightning_gengap` do what the console command `gengap` does."""

import sys

from lightning_gengap.cli import main

if __name__ == "__main__":
    sys.exit(main())
