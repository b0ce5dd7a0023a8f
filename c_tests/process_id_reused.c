// Another process gets the id of a pinned thread that has ended, and chooses the same CPU: asking for its mask gives its own.
// case {function,syscall} on none: thread=@process process=@thread heard=first -> thread=@process process=@thread heard=first
// env: KNLFIX_RUNTIMES=+libbinder
// link: -Wl,--no-as-needed @binder
#include "test.h"

void bind_caller_to(int cpu);

static void *bound(void *tid) {
    bind_caller_to(first_cpu());
    *(pid_t *)tid = gettid();
    return NULL;
}

/* Forks a process that has this id and the first CPU. Another process may take the id first: then again. */
static pid_t fork_as(pid_t wanted) {
    int ready[2];
    char byte;
    for (int tries = 0; tries < 200; tries++) {
        int file = open("/proc/sys/kernel/ns_last_pid", O_WRONLY);
        if (file < 0 || dprintf(file, "%d", wanted - 1) < 0) {
            show_text("skip", "may not write /proc/sys/kernel/ns_last_pid");
            exit(0);
        }
        close(file);
        if (pipe(ready)) exit(1);
        pid_t pid = fork();
        if (pid == 0) {
            choose(0, first_cpu());
            if (write(ready[1], "x", 1) != 1) _exit(1);
            for (;;) pause();
        }
        if (read(ready[0], &byte, 1) != 1) exit(1);
        close(ready[0]), close(ready[1]);
        if (pid == wanted) return pid;
        kill(pid, SIGKILL);
        wait_for(pid);
    }
    return -1;
}

int main(int argc, char **argv) {
    unsigned char mask[MASK_BYTES] = {0};
    char text[512];
    pthread_t thread;
    pid_t tid;
    pthread_create(&thread, NULL, bound, &tid);
    pthread_join(thread, NULL);
    show_number("thread", tid);
    pid_t process = fork_as(tid);
    show_number("process", process);
    if (!strcmp(argv[1], "function")) sched_getaffinity(process, sizeof mask, (cpu_set_t *)mask);
    else syscall(SYS_sched_getaffinity, process, sizeof mask, mask);
    format_mask(mask, text, sizeof text);
    show_text("heard", text);
    if (process > 0) kill(process, SIGKILL);
}
