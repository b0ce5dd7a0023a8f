/* Runs the checks of shared libraries as it is told to, one command a line on standard input:

     rounds N    so many rounds of all checks
     quit

   usage: results_main LIBRARY... Each library has a function `checks` that calls back with names and values. With
   two or more, a round runs them one after another, and then at once, each in a thread of its own. What it says on
   standard output: "ready", after each round "LIBRARY.CHECK VALUE" lines, after all rounds "done". */
#include <dlfcn.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { LIBRARIES = 4, TEXT = 1 << 14 };

typedef void say_function(void *out, const char *name, long value);

struct library {
    void (*checks)(say_function *say, void *out);
    int number;
    size_t used;
    char text[TEXT];
};

static struct library libraries[LIBRARIES];

static void say(void *out, const char *name, long value) {
    struct library *library = out;
    int more = snprintf(library->text + library->used, TEXT - library->used, "%d.%s %ld\n", library->number, name,
                        value);
    if (more < 0 || (library->used += more) >= TEXT) abort();
}

static void *run(void *out) {
    struct library *library = out;
    library->used = 0;
    library->checks(say, library);
    return NULL;
}

static void print(int count) {
    for (int i = 0; i < count; i++) fwrite(libraries[i].text, 1, libraries[i].used, stdout);
}

int main(int argc, char **argv) {
    int count = argc - 1;
    char line[64];
    if (count < 1 || count > LIBRARIES) return 2;
    for (int i = 0; i < count; i++) {
        void *handle = dlopen(argv[i + 1], RTLD_NOW | RTLD_LOCAL);
        if (!handle) {
            fprintf(stderr, "%s\n", dlerror());
            return 3;
        }
        *(void **)&libraries[i].checks = dlsym(handle, "checks");
        if (!libraries[i].checks) return 4;
        libraries[i].number = i;
    }
    puts("ready");
    fflush(stdout);
    while (fgets(line, sizeof line, stdin)) {
        if (strncmp(line, "rounds ", 7)) break;
        for (int left = atoi(line + 7); left > 0; left--) {
            for (int i = 0; i < count; i++) run(&libraries[i]);
            print(count);
            if (count > 1) {
                pthread_t threads[LIBRARIES];
                for (int i = 0; i < count; i++)
                    if (pthread_create(&threads[i], NULL, run, &libraries[i])) return 5;
                for (int i = 0; i < count; i++) pthread_join(threads[i], NULL);
                print(count);
            }
        }
        puts("done");
        fflush(stdout);
    }
    return 0;
}
