"""The law suites, one file each."""
