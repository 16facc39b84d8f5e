"""``python -m experiments.digits``: ``experiments.images`` under its former name."""

import sys

from tfm_jax.console import run_program

if __name__ == "__main__":
    sys.exit(run_program("digits", "experiments.digits.run:main"))
