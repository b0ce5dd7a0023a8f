// libc functions that start a shell or a thread of their own: wordexp(), timer_create() with SIGEV_THREAD, mq_notify(),
// aio_read(), lio_listio(), getaddrinfo_a().
// case wordexp on all: child=pin parent=pin -> child=full parent=pin
// case {timer,queue,aio,list,address} on all: child=pin parent=pin -> child=full parent=pin
// link: -lrt -lanl
#include "test.h"
#include <aio.h>
#include <mqueue.h>
#include <netdb.h>
#include <semaphore.h>
#include <time.h>
#include <wordexp.h>

static sem_t done;

static void in_thread(union sigval value) {
    show("child");
    sem_post(&done);
}

static struct sigevent in_a_thread(void) {
    struct sigevent event = {.sigev_notify = SIGEV_THREAD};
    event.sigev_notify_function = in_thread;
    return event;
}

static int start(const char *which) {
    static struct sigevent event;
    static struct aiocb request;
    static struct aiocb *requests[] = {&request};
    static char byte;
    event = in_a_thread();
    request = (struct aiocb){.aio_fildes = open("/dev/zero", O_RDONLY), .aio_buf = &byte, .aio_nbytes = 1};
    if (!strcmp(which, "timer")) {
        timer_t timer;
        struct itimerspec soon = {.it_value.tv_nsec = 1000000};
        return timer_create(CLOCK_MONOTONIC, &event, &timer) || timer_settime(timer, 0, &soon, NULL);
    }
    if (!strcmp(which, "queue")) {
        char name[64];
        struct mq_attr attributes = {.mq_maxmsg = 1, .mq_msgsize = 1};
        snprintf(name, sizeof name, "/knlfix-test-%d", (int)getpid());
        mqd_t queue = mq_open(name, O_CREAT | O_RDWR, 0600, &attributes);
        mq_unlink(name);
        return mq_notify(queue, &event) || mq_send(queue, "", 1, 0);
    }
    if (!strcmp(which, "aio")) {
        request.aio_sigevent = event;
        return aio_read(&request);
    }
    request.aio_lio_opcode = LIO_READ;
    if (!strcmp(which, "list")) return lio_listio(LIO_NOWAIT, requests, 1, &event);
    static struct gaicb name = {.ar_name = "127.0.0.1"};
    static struct gaicb *names[] = {&name};
    return getaddrinfo_a(GAI_NOWAIT, names, 1, &event);
}

int main(int argc, char **argv) {
    pin();
    sem_init(&done, 0, 0);
    if (!strcmp(argv[1], "wordexp")) {
        wordexp_t words;
        if (wordexp("$(report child)", &words, 0)) return 1;
        for (size_t i = 0; i + 1 < words.we_wordc; i += 2) show_text(words.we_wordv[i], words.we_wordv[i + 1]);
    } else {
        if (start(argv[1])) return 1;
        while (sem_wait(&done)) {}
    }
    show("parent");
}
