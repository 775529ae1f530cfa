"""A program to watch: runs each line of its input as Python and answers `ok`, in the directory it was started in."""

import os
import sys

NEW = os.O_CREAT | os.O_RDWR
names = {"os": os, "NEW": NEW}
for line in sys.stdin:
    try:
        exec(line, names)
        print("ok", flush=True)
    except OSError as error:
        print(error.errno, flush=True)
