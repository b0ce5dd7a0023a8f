/*
 * step: counts the user instructions or the system calls of a program, its threads and forked children, exactly, where the machine
 * has no counters to do it (many virtual machines). It single-steps them with ptrace, about a million steps in two seconds.
 *
 *     step instructions|syscalls|marked|alone OUTPUT PRELOAD PROGRAM [ARGUMENT...]      ("-" is no preload)
 *
 * The count goes to the file OUTPUT. It runs from the program's first instruction after its exec to its exit; with "marked",
 * instructions from the first SIGSTOP that the program sends itself to the second; with "alone", the same without its children. A
 * `rep` instruction counts once per repetition.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/wait.h>
#include <unistd.h>

static void die(const char *what)
{
    fprintf(stderr, "step: %s: %s\n", what, strerror(errno));
    exit(1);
}

int main(int argc, char **argv)
{
    if (argc < 5) {
        fprintf(stderr, "usage: step instructions|syscalls|marked|alone OUTPUT PRELOAD PROGRAM [ARGUMENT...]\n");
        return 2;
    }
    int calls = !strcmp(argv[1], "syscalls"), alone = !strcmp(argv[1], "alone"), marked = alone || !strcmp(argv[1], "marked");
    enum __ptrace_request one_step = calls ? PTRACE_SYSCALL : PTRACE_SINGLESTEP;
    pid_t first = fork();
    if (first < 0)
        die("fork");
    if (first == 0) {
        if (strcmp(argv[3], "-"))
            setenv("LD_PRELOAD", argv[3], 1);
        if (ptrace(PTRACE_TRACEME, 0, 0, 0))
            die("ptrace");
        raise(SIGSTOP); /* the exec's own trap then comes under our options */
        execv(argv[4], argv + 4);
        die(argv[4]);
    }
    int status, result = 1, counting = 0;
    if (waitpid(first, &status, 0) != first || !WIFSTOPPED(status))
        die("the program could not be traced");
    long options = PTRACE_O_TRACEEXEC | PTRACE_O_TRACECLONE | PTRACE_O_EXITKILL | PTRACE_O_TRACESYSGOOD;
    if (!alone)
        options |= PTRACE_O_TRACEFORK | PTRACE_O_TRACEVFORK;
    if (ptrace(PTRACE_SETOPTIONS, first, 0, options) || ptrace(PTRACE_CONT, first, 0, 0))
        die("ptrace");

    long long count = 0;
    for (;;) {
        pid_t pid = waitpid(-1, &status, __WALL);
        if (pid < 0)
            break; /* nobody left */
        if (WIFEXITED(status) || WIFSIGNALED(status)) {
            if (pid == first)
                result = WIFEXITED(status) ? WEXITSTATUS(status) : 1;
            continue;
        }
        int event = status >> 16, stop = WSTOPSIG(status), deliver = 0;
        if (event == PTRACE_EVENT_EXEC) {
            counting = !marked;
        } else if (event) {
            /* a new thread or child; it reports itself with a SIGSTOP */
        } else if (stop == (SIGTRAP | 0x80)) {
            count += counting;
        } else if (stop == SIGTRAP) {
            count += counting && !calls;
        } else if (stop == SIGSTOP) {
            if (marked && pid == first)
                counting = !counting;
        } else {
            deliver = stop;
        }
        if (ptrace(counting ? one_step : PTRACE_CONT, pid, 0, deliver) && errno != ESRCH)
            die("ptrace");
    }
    FILE *out = fopen(argv[2], "w");
    if (!out)
        die(argv[2]);
    /* Every system call stops twice, but for the last: exit_group does not return. */
    fprintf(out, "%lld\n", calls ? (count + 1) / 2 : count);
    if (fclose(out))
        die(argv[2]);
    return result;
}
