"""`python -m ctsft` is `ctsft`."""

from ctsft.cli import main

main()
