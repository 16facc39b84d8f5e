"""What the laws are checked on: strategies of inputs, and the subjects that take them."""
