#%Module1.0
# Every program that the shell starts gets libknlfix.so, beside what is preloaded already.

# The file may be a link to the one in the installed tree; the tree is found from where the file really is.
set tree [file normalize [file join $ModulesCurrentModulefile here]]
for {set up 0} {$up < 6} {incr up} { set tree [file dirname $tree] }
set library [file join $tree @LIBDIR@ libknlfix.so]

if {![file exists $library]} {
    puts stderr "knlfix-preload: no $library: use or link the modulefile in its tree, don't copy it"
    break
}
if {[regexp {[\s:]} $library]} {
    puts stderr "knlfix-preload: $library: LD_PRELOAD can't hold a path with a blank or a colon; move it"
    break
}

proc ModulesHelp {} {
    puts stderr "Puts libknlfix.so in LD_PRELOAD: every child process and thread of an OpenMP program gets its"
    puts stderr "CPUs back, and the processes of a job share its CPUs. KNLFIX=off turns it off for one program;"
    puts stderr "knlfix env shows all settings."
}
module-whatis "knlfix-preload: libknlfix.so for every program started from this shell"

conflict knlfix-preload

# The loader takes blanks and colons alike; a list is taken apart where ours stands, or else as it is now.
set delimiter :
if {[info exists env(LD_PRELOAD)]} {
    set list $env(LD_PRELOAD)
    set at [string first $library $list]
    if {$at >= 0} {
        set around [string index $list [expr {$at - 1}]][string index $list [expr {$at + [string length $library]}]]
        if {[string first " " $around] >= 0} { set delimiter " " }
    } elseif {[string first " " $list] >= 0 && [string first ":" $list] < 0} {
        set delimiter " "
    }
}
prepend-path --delim=$delimiter LD_PRELOAD $library
