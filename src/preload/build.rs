//! How the library is linked: every exec of every program pays for each segment and each start-up object.

fn main() {
    // gcc's start-up objects only serve C++ destructors and unloading. The library is never unloaded: programs hold on to
    // its hooks, and libc to its fork handlers.
    println!("cargo:rustc-cdylib-link-arg=-nostartfiles");
    println!("cargo:rustc-cdylib-link-arg=-Wl,-z,nodelete");
    // Constants and code in one segment: one mapping less.
    println!("cargo:rustc-cdylib-link-arg=-Wl,--no-rosegment");
    // The libc crate does not ask for it where another member of the workspace has turned its `std` on.
    println!("cargo:rustc-link-lib=dylib=c");
    println!("cargo:rerun-if-changed=build.rs");
}
