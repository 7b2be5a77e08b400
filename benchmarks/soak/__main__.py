"""`python -m benchmarks.soak`: run every fault and write the report."""

import sys

from benchmarks.soak.run import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
