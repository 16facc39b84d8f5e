"""``python -m experiments.classification``"""

from experiments.classification.run import main

if __name__ == "__main__":
    main()
