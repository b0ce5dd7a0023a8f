-- Every program that the shell starts gets libknlfix.so, beside what is preloaded already.

-- share/knlfix/modulefiles/NAME/VERSION.lua, up to the tree that it is in.
local function tree_of(file)
   for _ = 1, 5 do file = dirname(file):gsub("(.)/+$", "%1") end
   return file
end

local library = pathJoin(tree_of(myFileName()), "@LIBDIR@/libknlfix.so")
if not isFile(library) then
   -- A link to the file in the installed tree.
   local file = capture("readlink -f '" .. myFileName() .. "'"):gsub("%s+$", "")
   library = pathJoin(tree_of(file), "@LIBDIR@/libknlfix.so")
end
if not isFile(library) then
   LmodError("no ", library, ": use or link the modulefile in its tree, don't copy it")
end
if library:find("[%s:]") then
   LmodError(library, ": LD_PRELOAD can't hold a path with a blank or a colon; move it")
end

help([[Puts libknlfix.so in LD_PRELOAD: every child process and thread of an OpenMP program gets its
CPUs back, and the processes of a job share its CPUs. KNLFIX=off turns it off for one program;
knlfix env shows all settings.]])
whatis("knlfix-preload: libknlfix.so for every program started from this shell")

-- The loader takes blanks and colons alike; a list is taken apart where ours stands, or else as it is now.
local list = os.getenv("LD_PRELOAD") or ""
local delimiter = ":"
local first, last = list:find(library, 1, true)
if first then
   if (list:sub(first - 1, first - 1) .. list:sub(last + 1, last + 1)):find(" ") then delimiter = " " end
elseif list:find(" ") and not list:find(":") then
   delimiter = " "
end
prepend_path("LD_PRELOAD", library, delimiter)
