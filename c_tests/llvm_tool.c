// A tool of the program's own watches regions by OMPT: it is told where they are, in the program, and what size they have.
// case watched on libomp14,libomp19,iomp2026: begin=program end=program team=3 -> begin=program end=program team=3
// pinning: off
// link: -rdynamic -ldl
#include "kmpc.h"

typedef union {
    uint64_t value;
    void *pointer;
} tool_data_t;
typedef void (*callback_t)(void);
typedef callback_t (*lookup_t)(const char *);
typedef struct {
    int (*initialize)(lookup_t, int, tool_data_t *);
    void (*finalize)(tool_data_t *);
    tool_data_t data;
} tool_t;

static const char *owner(const void *address) {
    Dl_info info;
    return dladdr(address, &info) && info.dli_fbase == ({ Dl_info ours; dladdr((void *)(uintptr_t)owner, &ours); ours.dli_fbase; }) ? "program" : "other";
}

static void begin(tool_data_t *task, const void *frame, tool_data_t *region, unsigned requested, int flags, const void *code) {
    show_text("begin", owner(code));
}

static void end(tool_data_t *region, tool_data_t *task, int flags, const void *code) { show_text("end", owner(code)); }

static int initialize(lookup_t lookup, int device, tool_data_t *data) {
    int (*set_callback)(int, callback_t) = (int (*)(int, callback_t))lookup("ompt_set_callback");
    set_callback(3, (callback_t)begin); /* ompt_callback_parallel_begin */
    set_callback(4, (callback_t)end);   /* ompt_callback_parallel_end */
    return 1;
}

static void finalize(tool_data_t *data) {}

tool_t *ompt_start_tool(unsigned version, const char *runtime) {
    static tool_t tool = {initialize, finalize, {0}};
    return &tool;
}

int main(void) { show_number("team", explicit_team(3)); }
