//! The atomics of what is shared between processes: the hardware's, or loom's when its model checker runs the protocol.

#[cfg(not(loom))]
pub(crate) use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};
#[cfg(loom)]
pub(crate) use model::{AtomicU32, AtomicU64, Ordering};

/// Loom takes sequentially consistent accesses for acquire and release, and only its fences keep the single order that
/// the protocol rests on. So here a fence follows each such write, as it does in the machine code.
#[cfg(loom)]
mod model {
    pub(crate) use loom::sync::atomic::Ordering;
    use loom::sync::atomic::{self, fence};

    fn written<T>(order: Ordering, value: T) -> T {
        if order == Ordering::SeqCst {
            fence(order);
        }
        value
    }

    macro_rules! modelled {
        ($name:ident, $int:ty) => {
            #[derive(Debug)]
            pub(crate) struct $name(atomic::$name);

            impl $name {
                #[cfg(test)]
                pub(crate) fn new(value: $int) -> Self {
                    Self(atomic::$name::new(value))
                }

                pub(crate) fn load(&self, order: Ordering) -> $int {
                    self.0.load(order)
                }

                pub(crate) fn store(&self, value: $int, order: Ordering) {
                    written(order, self.0.store(value, order));
                }
            }
        };
    }

    modelled!(AtomicU32, u32);
    modelled!(AtomicU64, u64);

    impl AtomicU64 {
        pub(crate) fn compare_exchange(
            &self,
            current: u64,
            new: u64,
            success: Ordering,
            failure: Ordering,
        ) -> Result<u64, u64> {
            written(success, self.0.compare_exchange(current, new, success, failure))
        }
    }

    impl AtomicU32 {
        pub(crate) fn fetch_add(&self, value: u32, order: Ordering) -> u32 {
            written(order, self.0.fetch_add(value, order))
        }

        pub(crate) fn fetch_sub(&self, value: u32, order: Ordering) -> u32 {
            written(order, self.0.fetch_sub(value, order))
        }
    }
}
