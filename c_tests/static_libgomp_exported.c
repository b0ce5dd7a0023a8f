// As static_libgomp.c, with a program that exports the entry points of its own libgomp.
// case {fork,_Fork,vfork,posix_spawn,system,clone,pthread_create}:runtime on libgomp: child=pin parent=pin -> child=full parent=pin
// case exec:runtime on libgomp: child=pin -> child=full
// case {fork,vfork,system,pthread_create}:program on libgomp: child=last parent=last -> child=last parent=last
// case {fork,vfork,system,pthread_create}:program_equal on libgomp: child=first parent=first -> child=first parent=first
// case {fork,vfork,system,pthread_create}:program_pthread on libgomp: child=last parent=last -> child=last parent=last
// link: -static-runtime -rdynamic
#include "static_libgomp.c"
