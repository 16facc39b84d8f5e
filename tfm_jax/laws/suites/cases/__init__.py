"""Hypothesis strategies of cases, the subjects that take them, and the laws that several suites share."""
