"""`python -m inference`: the `hetconv` command where it is not on the path."""

from .cli import main

main()
