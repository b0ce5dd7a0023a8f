/* The three situations an exec form is tested in. The including file defines try_exec(path), which calls its form with
 * the arguments {path, "child"} and returns only on failure. */
#include "test.h"

static int try_exec(const char *path);

int main(int argc, char **argv) {
    pin();
    if (!strcmp(argv[1], "vfork")) { /* what subprocess does */
        pid_t pid = vfork();
        if (pid == 0) {
            try_exec(reporter());
            _exit(127);
        }
        wait_for(pid);
    } else if (!strcmp(argv[1], "failed")) {
        errno = 0;
        show_number("returned", try_exec("/nonexistent/program"));
        show_errno("errno", errno);
    } else { /* in_place */
        try_exec(reporter());
        return 127;
    }
    show("parent");
}
