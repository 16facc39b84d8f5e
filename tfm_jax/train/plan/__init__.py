"""Planning of training: what a step needs on devices that are not there, read from its compiled program."""
