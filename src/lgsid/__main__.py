"""``python -m lgsid``."""

from lgsid.cli import main

main()
