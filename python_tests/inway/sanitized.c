/* To be built with a sanitizer, and linked to libgomp, which pins: makes children, a thread, and uses the heap. */
#include "inway.h"
#include <omp.h>
#include <pthread.h>

static void say(const char *label, const char *memory) {
    char mask[256];
    mask_text(mask, sizeof mask);
    printf("%s %s %d\n", label, mask, memory[99]);
    fflush(stdout);
}

static void *thread_main(void *memory) {
    say("thread", memory);
    return NULL;
}

int main(void) {
    char *memory = malloc(100);
    memset(memory, 1 + omp_get_level(), 100);
    pid_t pid = fork();
    if (pid == 0) {
        say("fork", memory);
        free(memory);
        return 0;
    }
    int status = wait_for(pid);
    pthread_t thread;
    status |= pthread_create(&thread, NULL, thread_main, memory) || pthread_join(thread, NULL);
    free(memory);
    status |= system("exit 0");
    printf("status %d\n", status);
    return 0;
}
