"""`python -m kvsteer_lab.cli` is `kvsteer`."""

from .main import main

main()
