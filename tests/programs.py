"""What a traced program holds."""

import jax.extend.core


def equations(jaxpr):
    """Every equation of a jaxpr, those of the programs inside it too."""
    for equation in jaxpr.eqns:
        yield equation
        for inner in jax.extend.core.jaxprs_in_params(equation.params):
            yield from equations(inner)
