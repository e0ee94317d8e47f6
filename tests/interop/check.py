"""One line for each thing checked, in the form that run.py counts."""


def check(claim, holds, found=None):
    """Prints whether `claim` holds, and if not, what was found instead."""
    print(f"ok      {claim}" if holds else f"FAILED  {claim}: {found!r}", flush=True)
