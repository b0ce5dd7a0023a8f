/* rawenv STRING... -- PROGRAM ARG...: runs the program with an environment of exactly these strings. They need not
 * look like NAME=VALUE, which no shell and no Python can do. */
#include "inway.h"

int main(int argc, char **argv) {
    int end = 1;
    while (end < argc && strcmp(argv[end], "--")) end++;
    if (end + 1 >= argc) return 97;
    argv[end] = NULL;
    execve(argv[end + 1], argv + end + 1, argv + 1);
    perror("execve");
    return 98;
}
