"""`python -m benchmarks`: run the measurements in order and write the report."""

import sys

from benchmarks.run import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
