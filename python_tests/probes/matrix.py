"""Brings a runtime up on the main thread, then makes children in every way. One line of report per way.

Each line carries the children's masks and the main thread's own mask afterwards.
"""

import ways
from probe import bring_up, main_mask, report


def main():
    report(before=main_mask())
    report(runtimes=bring_up(), pinned=main_mask())
    for name, (_, make) in ways.WAYS.items():
        try:
            report(way=name, masks=make(), parent=main_mask())
        except Exception as error:  # the other ways still have to be tried
            report(way=name, error=repr(error), parent=main_mask())


if __name__ == "__main__":
    main()
