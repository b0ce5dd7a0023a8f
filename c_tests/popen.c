// popen(), reading and writing.
// case read on all: child=pin closed=0 parent=pin -> child=full closed=0 parent=pin
// case write on all: child=pin closed=0 parent=pin -> child=full closed=0 parent=pin
// case bad_mode on all: returned=NULL errno=EINVAL parent=pin -> returned=NULL errno=EINVAL parent=pin
#include "test.h"

int main(int argc, char **argv) {
    char line[256] = "";
    pin();
    if (!strcmp(argv[1], "bad_mode")) {
        if (!popen("report child", "x")) show_text("returned", "NULL");
        show_errno("errno", errno);
    } else if (!strcmp(argv[1], "read")) {
        FILE *pipe = popen("report child", "r");
        if (fgets(line, sizeof line, pipe)) dprintf(1, "%s", line);
        show_number("closed", pclose(pipe));
    } else {
        FILE *pipe = popen("sh", "w");
        fputs("report child\n", pipe);
        show_number("closed", pclose(pipe));
    }
    show("parent");
}
