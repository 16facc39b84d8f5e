"""Inspection of jaxprs."""

import jax.extend.core


def equations(jaxpr):
    """Every equation of a jaxpr, including those of inner jaxprs."""
    for equation in jaxpr.eqns:
        yield equation
        for inner in jax.extend.core.jaxprs_in_params(equation.params):
            yield from equations(inner)
