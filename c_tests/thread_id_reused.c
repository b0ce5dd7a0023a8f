// A thread gets the id of one that has ended: what was known of the old one is forgotten. The name is OLD:NEW.
// case user:runtime on none: first=@second second=@first child=first -> first=@second second=@first child=full
// case runtime:user on none: first=@second second=@first child=first -> first=@second second=@first child=first
// case runtime:nothing on none: first=@second second=@first child=full -> first=@second second=@first child=full
// case user:nothing on none: first=@second second=@first child=full -> first=@second second=@first child=full
// env *: KNLFIX_RUNTIMES=+libbinder
// link: -Wl,--no-as-needed @binder
#include "ways.h"

void bind_caller_to(int cpu);
static const char *label;
static char *makes_child;

static volatile pid_t asked, tid;

static void *bound(void *who) {
    if (gettid() != asked) return NULL;
    show_number(label, tid = gettid());
    if (!strcmp(who, "user")) choose(0, first_cpu());
    if (!strcmp(who, "runtime")) bind_caller_to(first_cpu());
    if (who == makes_child) make_child("vfork");
    return NULL;
}

/* Runs a thread with the given id. Another process may take it first: then again. */
static void run_as(pid_t wanted, char *who) {
    pthread_t thread;
    for (int tries = 0; tid != wanted && tries < 200; tries++) {
        int file = open("/proc/sys/kernel/ns_last_pid", O_WRONLY);
        if (file < 0 || dprintf(file, "%d", wanted - 1) < 0) {
            show_text("skip", "may not write /proc/sys/kernel/ns_last_pid");
            exit(0);
        }
        close(file);
        asked = wanted;
        pthread_create(&thread, NULL, bound, who);
        pthread_join(thread, NULL);
    }
}

int main(int argc, char **argv) {
    char *old = strtok(argv[1], ":"), *new = strtok(NULL, ":");
    makes_child = new;
    label = "first";
    run_as(gettid() > 16000 ? 8000 : 24000, old);
    pid_t reused = tid;
    tid = 0;
    label = "second";
    run_as(reused, new);
}
