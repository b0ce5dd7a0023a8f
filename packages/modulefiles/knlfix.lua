-- The knlfix command and its man page. For the library in every program: knlfix-preload.

-- share/knlfix/modulefiles/NAME/VERSION.lua, up to the tree that it is in.
local function tree_of(file)
   for _ = 1, 5 do file = dirname(file):gsub("(.)/+$", "%1") end
   return file
end

local tree = tree_of(myFileName())
if not isFile(pathJoin(tree, "bin/knlfix")) then
   -- A link to the file in the installed tree.
   tree = tree_of((capture("readlink -f '" .. myFileName() .. "'"):gsub("%s+$", "")))
end
if not isFile(pathJoin(tree, "bin/knlfix")) then
   LmodError("no ", pathJoin(tree, "bin/knlfix"), ": use or link the modulefile in its tree, don't copy it")
end

help([[The knlfix command: knlfix run PROGRAM gives all children of an OpenMP program their CPUs back.
knlfix --help, man knlfix]])
whatis("knlfix: gives every child process and thread of an OpenMP program its CPUs back (the command)")

prepend_path("PATH", pathJoin(tree, "bin"))
prepend_path("MANPATH", pathJoin(tree, "share/man"))
-- An empty part stands for the system's own man pages.
append_path("MANPATH", "")
