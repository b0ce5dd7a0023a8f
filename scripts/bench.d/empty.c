/* Built with `gcc -shared`: the cheapest preload there can be. What it costs is ld.so's and the kernel's price, not a library's. */
