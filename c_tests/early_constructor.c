// Children made by another library's constructor, right after libgomp's own has pinned and before main.
// case early on libgomp: at_start=pin early_fork=pin early_system=pin child=pin parent=pin -> at_start=pin early_fork=full early_system=full child=full parent=pin
// link: -Wl,--no-as-needed @early
#include "ways.h"

int main(void) {
    pin();
    make_child("vfork");
    show("parent");
}
