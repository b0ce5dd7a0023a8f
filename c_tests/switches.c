// The variables that turn the library off, whole or in part. KNLFIX_AFFINITY
// turns off KNLFIX_THREADS too. The name is SWITCH:WAY.
// case {off,no,false,zero}:{fork,_Fork,vfork,posix_spawn,system,popen,clone,syscall_fork,pthread_create,thrd_create} on libgomp: child=pin seen=pin parent=pin -> child=pin seen=pin parent=pin
// case off:{fork,forkpty} on llvm: child=full seen=pin parent=pin -> child=full seen=pin parent=pin
// case off:{vfork,system,pthread_create} on llvm: child=pin seen=pin parent=pin -> child=pin seen=pin parent=pin
// case off:exec on libgomp: child=pin -> child=pin
// case affinity_off:{fork,_Fork,vfork,posix_spawn,system,popen,clone,syscall_fork} on libgomp: child=pin seen=pin parent=pin -> child=pin seen=full parent=pin
// case affinity_off:exec on libgomp: child=pin -> child=pin
// case affinity_off:{pthread_create,thrd_create} on libgomp: child=pin seen=pin parent=pin -> child=pin seen=full parent=pin
// case threads_off:{pthread_create,thrd_create} on all: child=pin seen=pin parent=pin -> child=pin seen=full parent=pin
// case threads_off:{fork,vfork,system,clone} on libgomp: child=pin seen=pin parent=pin -> child=full seen=full parent=pin
// case on:{fork,vfork,pthread_create} on libgomp: child=pin seen=pin parent=pin -> child=full seen=full parent=pin
// env off:*: KNLFIX=off
// env no:*: KNLFIX=No
// env false:*: KNLFIX=FALSE
// env zero:*: KNLFIX=0
// env on:*: KNLFIX=yes KNLFIX_AFFINITY=on KNLFIX_THREADS=1 KNLFIX_VIRTUAL_MASK=True
// env affinity_off:*: KNLFIX_AFFINITY=0
// env threads_off:*: KNLFIX_THREADS=0
#include "ways.h"

int main(int argc, char **argv) {
    unsigned char mask[MASK_BYTES] = {0};
    char text[512];
    pin();
    if (!strstr(argv[1], ":exec")) { /* what this thread is told, the virtual mask */
        sched_getaffinity(0, sizeof mask, (cpu_set_t *)mask);
        format_mask(mask, text, sizeof text);
        show_text("seen", text);
    }
    make_child(strchr(argv[1], ':') + 1);
    show("parent");
}
