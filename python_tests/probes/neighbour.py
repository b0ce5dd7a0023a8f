"""A process in default-sized libgomp regions until its input ends: argument 1 is a library made of team.c.

Prints one line when it has begun. With argument 2 it pauses for so many milliseconds between bursts of regions.
"""

import ctypes
import select
import sys
import time

team = ctypes.CDLL(sys.argv[1]).team
places = (ctypes.c_int * 1024)()
pause = float(sys.argv[2]) / 1000 if len(sys.argv) > 2 else 0
print("begun", flush=True)
while not select.select([sys.stdin], [], [], 0)[0]:
    end = time.monotonic() + 0.03
    while time.monotonic() < end:
        team(places, 1024)
    time.sleep(pause)
