// A mask the user sets must reach every child, whoever sets it and when. LLVM's atfork handler overwrites it in fork
// children, with a pinning variable and without one. The name is WAY:SETTER, with a "+" where the runtime pins.
// case {fork,forkpty}:before on all: child=last parent=last -> child=last parent=last
// case {fork,forkpty}:{after,by_tid,by_peer,taskset} on libgomp: child=last parent=last -> child=last parent=last
// case {fork,forkpty}:{after,by_tid,by_peer,taskset} on llvm: child=full parent=last -> child=last parent=last
// case {fork,forkpty}:{after,by_tid,by_peer,taskset}+ on libgomp: child=last parent=last -> child=last parent=last
// case {fork,forkpty}:{after,by_tid,by_peer,taskset}+ on llvm: child=full parent=last -> child=last parent=last
// case {fork,forkpty}:before+ on all: child=last parent=last -> child=last parent=last
// case {fork,forkpty}:equal+ on libgomp: child=first parent=first -> child=first parent=first
// case {fork,forkpty}:equal+ on llvm: child=full parent=first -> child=first parent=first
// case {vfork,posix_spawn,system,popen,_Fork,clone,syscall_fork,pthread_create,thrd_create}:after+ on all: child=last parent=last -> child=last parent=last
// case {vfork,posix_spawn,system,popen,_Fork,clone,syscall_fork,pthread_create,thrd_create}:equal+ on all: child=first parent=first -> child=first parent=first
// case exec:after+ on all: child=last -> child=last
// case exec:equal+ on all: child=first -> child=first
// pinning *: off
// pinning *+: on
#include "ways.h"

static pid_t main_tid;
static pthread_t main_thread;

static void *set_by_tid(void *argument) {
    choose(main_tid, last_cpu());
    return NULL;
}
static void *set_by_peer(void *argument) {
    cpu_set_t set;
    set_only(&set, last_cpu());
    pthread_setaffinity_np(main_thread, sizeof set, &set);
    return NULL;
}
static void from_thread(void *(*setter)(void *)) {
    pthread_t thread;
    pthread_create(&thread, NULL, setter, NULL);
    pthread_join(thread, NULL);
}

int main(int argc, char **argv) {
    char *way = strtok(argv[1], ":"), *setter = strtok(NULL, "+"), command[256];
    main_tid = gettid();
    main_thread = pthread_self();
    if (!strcmp(setter, "before")) choose(0, last_cpu());
    pin();
    if (!strcmp(setter, "after")) choose(0, last_cpu());
    if (!strcmp(setter, "equal")) choose(0, first_cpu());
    if (!strcmp(setter, "by_tid")) from_thread(set_by_tid);
    if (!strcmp(setter, "by_peer")) from_thread(set_by_peer);
    if (!strcmp(setter, "taskset")) {
        /* -c LIST, from another process, which no hook of ours sees in this one. */
        snprintf(command, sizeof command, "taskset -pc %d %d > /dev/null", last_cpu(), main_tid);
        if (system(command)) return 1;
    }
    make_child(way);
    show("parent");
}
