"""``python -m experiments.translation``"""

from experiments.translation.run import main

if __name__ == "__main__":
    main()
