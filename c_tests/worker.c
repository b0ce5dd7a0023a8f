// Children made by a worker of the team, inside the region: they get the user's mask, the worker keeps its place.
// case thread on all: worker=narrow child=@worker worker_after=@worker parent=pin -> worker=narrow child=full worker_after=@worker parent=pin
// case system on all: worker=narrow child=@worker worker_after=@worker parent=pin -> worker=narrow child=full worker_after=@worker parent=pin
// case fork on libgomp: worker=narrow child=@worker worker_after=@worker parent=pin -> worker=narrow child=full worker_after=@worker parent=pin
// case fork on llvm: worker=narrow child=full worker_after=@worker parent=pin -> worker=narrow child=full worker_after=@worker parent=pin
// case vfork_exec on all: worker=narrow child=@worker worker_after=@worker parent=pin -> worker=narrow child=full worker_after=@worker parent=pin
// case nothing on all: worker=narrow worker_after=@worker parent=pin -> worker=narrow worker_after=@worker parent=pin
// case nested on libomp14,libomp19,iomp2026: worker=narrow child=narrow parent=pin -> worker=narrow child=full parent=pin
// case nested_as_of_old on libgomp,iomp2018: worker=narrow child=narrow parent=pin -> worker=narrow child=full parent=pin
// env nested*: OMP_MAX_ACTIVE_LEVELS=2
// env nested_as_of_old: OMP_NESTED=true
// env fork: KMP_WARNINGS=FALSE
#include "test.h"

static void *run(void *argument) {
    show("child");
    return NULL;
}

static void make_child(const char *name) {
    pthread_t thread;
    pid_t pid;
    if (!strcmp(name, "thread")) {
        pthread_create(&thread, NULL, run, NULL);
        pthread_join(thread, NULL);
    } else if (!strcmp(name, "system")) {
        if (system("report child")) show_text("child", "failed");
    } else if (!strcmp(name, "fork")) {
        if ((pid = fork()) == 0) {
            show("child");
            _exit(0);
        }
        wait_for(pid);
    } else if (!strcmp(name, "vfork_exec")) {
        if ((pid = vfork()) == 0) {
            execl(reporter(), "report", "child", (char *)NULL);
            _exit(127);
        }
        wait_for(pid);
    }
}

/* A team within a team: its members' children. */
static void nested(void) {
#pragma omp parallel num_threads(2)
    if (omp_get_thread_num() == 1) {
#pragma omp parallel num_threads(2)
        if (omp_get_thread_num() == 1) {
            show("worker");
            make_child("vfork_exec");
        }
    }
}

int main(int argc, char **argv) {
    pin();
    if (!strncmp(argv[1], "nested", 6)) {
        nested();
        show("parent");
        return 0;
    }
#pragma omp parallel num_threads(2)
    if (omp_get_thread_num() == 1) {
        show("worker");
        make_child(argv[1]);
        show("worker_after");
    }
    show("parent");
}
