"""The suites of laws, one file per suite."""
