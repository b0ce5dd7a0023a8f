/* Set-uid: says who runs it, and which preloads the loader took. */
#include "inway.h"

int main(void) {
    char line[4096];
    FILE *maps = fopen("/proc/self/maps", "r");
    int loaded = 0;
    while (maps && fgets(line, sizeof line, maps)) loaded |= strstr(line, "libknlfix") != NULL;
    printf("uid %d euid %d library %d variable %d\n", getuid(), geteuid(), loaded, getenv("LD_PRELOAD") != NULL);
    fflush(stdout);
    int status = system("exit 4"); /* the shell drops the privilege, the program goes on with it */
    return WEXITSTATUS(status) + (maps == NULL);
}
