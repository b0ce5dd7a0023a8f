/* Runs OpenMP regions of the default size as it is told to, one command a line on standard input, one answer a line:

     run MS    regions for so many milliseconds; answers with the smallest and the largest team
     once      one region; answers with its team
     hold      enters a region, says so, and stays in it until the next line; answers when it has left
     fork      what follows is for a forked child, until it is told to quit
     exec      becomes itself again, and says so
     quit      ends (a forked child without atexit handlers)

   Nothing here asks a runtime for its maximum: the library leaves objects alone that do. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

extern int omp_get_num_threads(void);

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1e3 + t.tv_nsec / 1e6;
}

static int region(double ms) {
    int team = 0;
#pragma omp parallel
    {
        double begin = now();
        while (now() - begin < ms) {}
#pragma omp master
        team = omp_get_num_threads();
    }
    return team;
}

int main(int argc, char **argv) {
    char line[64];
    int is_child = 0;
    if (argc > 1) {
        puts(argv[1]);
        fflush(stdout);
    }
    while (fgets(line, sizeof line, stdin)) {
        if (!strncmp(line, "run", 3)) {
            double begin = now(), ms = atof(line + 3);
            int least = 1 << 30, most = 0;
            while (now() - begin < ms) {
                int team = region(1);
                if (team < least) least = team;
                if (team > most) most = team;
            }
            printf("%d %d\n", least, most);
        } else if (!strncmp(line, "once", 4)) {
            printf("%d\n", region(0.1));
        } else if (!strncmp(line, "hold", 4)) {
#pragma omp parallel
            {
#pragma omp master
                {
                    printf("holding %d\n", omp_get_num_threads());
                    fflush(stdout);
                    if (!fgets(line, sizeof line, stdin)) exit(3);
                }
            }
            puts("left");
        } else if (!strncmp(line, "fork", 4)) {
            pid_t child = fork();
            if (child == 0) {
                is_child = 1;
                printf("child %d\n", (int)getpid());
            } else {
                int status;
                waitpid(child, &status, 0);
                printf("child ended %d\n", status);
            }
        } else if (!strncmp(line, "exec", 4)) {
            fflush(stdout);
            execv("/proc/self/exe", (char *[]){argv[0], "again", NULL});
            return 4;
        } else {
            break;
        }
        fflush(stdout);
    }
    fflush(stdout);
    if (is_child) _exit(0);
    return 0;
}
