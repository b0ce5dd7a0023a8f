// The execl family with forty arguments: each arrives, in order, and the environment of execle after them.
// case {execl,execlp}:{vfork,in_place} on libgomp,libomp19: count=40 first=a1 last=a40 sum=820 -> count=40 first=a1 last=a40 sum=820
// case execle:{vfork,in_place} on libgomp,libomp19: count=40 first=a1 last=a40 sum=820 extra=there child=pin -> count=40 first=a1 last=a40 sum=820 extra=there child=full
// case none:in_place on libgomp,libomp19: count=-1 -> count=-1
#include "test.h"

#define FORTY \
    "a1", "a2", "a3", "a4", "a5", "a6", "a7", "a8", "a9", "a10", "a11", "a12", "a13", "a14", "a15", "a16", "a17", "a18", \
    "a19", "a20", "a21", "a22", "a23", "a24", "a25", "a26", "a27", "a28", "a29", "a30", "a31", "a32", "a33", "a34", "a35", \
    "a36", "a37", "a38", "a39", "a40", (char *)NULL

static int received(int argc, char **argv) {
    long sum = 0;
    show_number("count", argc - 2);
    if (argc < 3) return 0;
    for (int i = 2; i < argc; i++) sum += atoi(argv[i] + 1);
    show_text("first", argv[2]);
    show_text("last", argv[argc - 1]);
    show_number("sum", sum);
    if (getenv("EXTRA")) {
        show_text("extra", getenv("EXTRA"));
        show("child"); /* no variable that pins, and no LD_PRELOAD */
    }
    return 0;
}

int main(int argc, char **argv) {
    if (argc != 2 || !strchr(argv[1], ':')) return received(argc, argv);
    char *environment[] = {"EXTRA=there", NULL}, self[4096], *form = strtok(argv[1], ":");
    ssize_t length = readlink("/proc/self/exe", self, sizeof self - 1);
    self[length > 0 ? length : 0] = 0;
    pin();
    pid_t pid = strcmp(strtok(NULL, ":"), "vfork") ? 0 : vfork();
    if (pid == 0) {
        if (!strcmp(form, "execl")) execl(self, self, "received", FORTY);
        if (!strcmp(form, "execlp")) execlp(self, self, "received", FORTY);
        if (!strcmp(form, "execle")) execle(self, self, "received", FORTY, environment);
        if (!strcmp(form, "none")) execl(self, self, (char *)NULL);
        _exit(127);
    }
    wait_for(pid);
}
