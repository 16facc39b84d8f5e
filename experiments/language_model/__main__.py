"""``python -m experiments.language_model``"""

import sys

from tfm_jax.console import run_program

if __name__ == "__main__":
    sys.exit(run_program("language_model", "experiments.language_model.run:main"))
