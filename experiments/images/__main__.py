"""``python -m experiments.digits``"""

import sys

from tfm_jax.console import run_program

if __name__ == "__main__":
    sys.exit(run_program("digits", "experiments.images.run:main"))
