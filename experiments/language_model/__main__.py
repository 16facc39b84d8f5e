"""``python -m experiments.language_model``"""

from experiments.language_model.run import main

if __name__ == "__main__":
    main()
