// Prints the mask it runs with. Not a test: the child that other programs start.
#include "test.h"

int main(int argc, char **argv) {
    show(argc > 1 ? argv[1] : "child");
    return 0;
}
