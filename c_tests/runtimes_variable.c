// A library that binds its caller is a user of affinity, unless KNLFIX_RUNTIMES calls it a runtime; and the other way
// round: in the case "both" libgomp's pin counts as the user's mask, under the pin of the other library.
// case plain:{fork,vfork,system,exec,pthread_create} on none: child=last -> child=last
// case plus:{fork,vfork,system,exec,pthread_create} on none: child=last -> child=full
// case other:{fork,vfork} on none: child=last -> child=last
// case plain:{fork,vfork,pthread_create} on libgomp: child=last -> child=last
// case plus:{fork,vfork,pthread_create} on libgomp: child=last -> child=full
// case minus:{fork,vfork,system,pthread_create} on libgomp: child=pin -> child=pin
// case both:{fork,vfork} on libgomp: child=last -> child=pin
// case {plus_blanks,plus_tabs}:{fork,vfork} on none: child=last -> child=full
// case {minus_blanks,minus_tabs}:{fork,vfork,system,pthread_create} on libgomp: child=pin -> child=pin
// env plus:*: KNLFIX_RUNTIMES=+libbinder
// env other:*: KNLFIX_RUNTIMES=+libbind_er,+binder
// env minus:*: KNLFIX_RUNTIMES=-libgomp
// env both:*: KNLFIX_RUNTIMES=-libgomp,+libbinder.so
// env plus_blanks:*: KNLFIX_RUNTIMES="  -a ,  +libbinder  "
// env plus_tabs:*: KNLFIX_RUNTIMES="-a,	+libbinder	"
// env minus_blanks:*: KNLFIX_RUNTIMES="+a, -libgomp "
// env minus_tabs:*: KNLFIX_RUNTIMES="	-libgomp	,	+a"
// link: -Wl,--no-as-needed @binder
#include "ways.h"

void bind_caller_to(int cpu);

int main(int argc, char **argv) {
    char *variable = strtok(argv[1], ":"), *way = strtok(NULL, ":");
#ifdef _OPENMP
    pin();
#endif
    if (strncmp(variable, "minus", 5)) bind_caller_to(last_cpu());
    make_child(way);
}
