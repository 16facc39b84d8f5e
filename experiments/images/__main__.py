"""``python -m experiments.images``"""

import sys

from tfm_jax.console import run_program

if __name__ == "__main__":
    sys.exit(run_program("images", "experiments.images.run:main"))
