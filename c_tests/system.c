// system(): no interposable symbol is called inside.
// case system on all: child=pin returned=0 parent=pin -> child=full returned=0 parent=pin
// case status on all: returned=7 parent=pin -> returned=7 parent=pin
// case null on all: returned=1 parent=pin -> returned=1 parent=pin
#include "test.h"

int main(int argc, char **argv) {
    pin();
    if (!strcmp(argv[1], "null")) show_number("returned", !!system(NULL));
    else if (!strcmp(argv[1], "status")) show_number("returned", WEXITSTATUS(system("exit 7")));
    else show_number("returned", system("report child"));
    show("parent");
}
