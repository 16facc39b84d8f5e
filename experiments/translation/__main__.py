"""``python -m experiments.translation``"""

import sys

from tfm_jax.console import run_program

if __name__ == "__main__":
    sys.exit(run_program("translation", "experiments.translation.run:main"))
