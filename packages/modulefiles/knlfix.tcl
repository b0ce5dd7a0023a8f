#%Module1.0
# The knlfix command and its man page. For the library in every program: knlfix-preload.

# The file may be a link to the one in the installed tree; the tree is found from where the file really is.
set tree [file normalize [file join $ModulesCurrentModulefile here]]
for {set up 0} {$up < 6} {incr up} { set tree [file dirname $tree] }

if {![file exists [file join $tree bin knlfix]]} {
    puts stderr "knlfix: no [file join $tree bin knlfix]: use or link the modulefile in its tree, don't copy it"
    break
}

proc ModulesHelp {} {
    puts stderr "The knlfix command: knlfix run PROGRAM gives all children of an OpenMP program their CPUs back."
    puts stderr "knlfix --help, man knlfix"
}
module-whatis "knlfix: gives every child process and thread of an OpenMP program its CPUs back (the command)"

conflict knlfix
prepend-path PATH [file join $tree bin]
prepend-path MANPATH [file join $tree share man]
# An empty part stands for the system's own man pages.
append-path MANPATH {}
