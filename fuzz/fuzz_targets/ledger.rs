//! A process lives on a segment that holds arbitrary bytes.
#![no_main]

#[path = "../../src/core/tests/ledger_common/anything.rs"]
mod anything;
#[path = "../../src/core/tests/ledger_common/mod.rs"]
mod ledger_common;

use ledger_common::Segment;
use std::cell::RefCell;

thread_local! {
    /// One for all runs: it is large.
    static SEGMENT: RefCell<Segment> = RefCell::new(Segment::zeroed());
}

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| SEGMENT.with_borrow_mut(|segment| anything::live_on(segment, bytes)));
