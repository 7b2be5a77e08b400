"""`python -m benchmarks.evidence`: run the sections in order and write the report."""

import sys

from benchmarks.evidence.run import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
