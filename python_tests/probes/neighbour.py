"""A process in libgomp regions of every CPU until its parent ends: argument 1 is a library made of team.c.

Prints one line when it has begun. With argument 2 it pauses for so many milliseconds between bursts of regions.
"""

import ctypes
import os
import sys
import time

team = ctypes.CDLL(sys.argv[1]).team
places = (ctypes.c_int * 1024)()
pause = float(sys.argv[2]) / 1000 if len(sys.argv) > 2 else 0
parent = os.getppid()
print("begun", flush=True)
while os.getppid() == parent:
    end = time.monotonic() + 0.03
    while time.monotonic() < end:
        team(places, 1024)
    time.sleep(pause)
