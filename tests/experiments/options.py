"""What tests of messages share."""

import re


def python_names(message):
    """The arguments and fields of Python that a message names as ``name=``, outside of variants."""
    return re.findall(r"(?<![-\w.(' ])[a-z_.]+=|(?<= )[a-z_.]+=", re.sub(r"[A-Z]\w+\([^()]*\)", "", message))
