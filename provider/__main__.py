"""`python -m provider` is `bootwright`."""

from provider.cli.main import main

main()
