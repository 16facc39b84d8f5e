"""``python -m experiments.digits``"""

from experiments.digits.run import main

if __name__ == "__main__":
    main()
