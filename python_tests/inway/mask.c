/* mask FD LABEL: prints "LABEL MASK" to the descriptor. What a probe's children execute. */
#include "inway.h"

int main(int argc, char **argv) {
    char mask[256];
    mask_text(mask, sizeof mask);
    return dprintf(argc > 1 ? atoi(argv[1]) : 1, "%s %s\n", argc > 2 ? argv[2] : "mask", mask) < 0;
}
