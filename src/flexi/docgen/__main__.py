"""`python -m flexi.docgen` writes the generated pages; with `--check` it only says whether they are fresh."""

import sys

from flexi.docgen.pages import main

sys.exit(main(sys.argv[1:]))
