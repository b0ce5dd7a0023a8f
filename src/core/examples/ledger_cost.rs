//! What the ledger costs: nanoseconds for entering and leaving a region, and for a look at all others, with 1 to 4096
//! processes in it. A second thread keeps writing the others' lines, as their owners would.
//!
//!     cargo run --release -p knlfix-core --example ledger_cost

use knlfix_core::cpumask::SparseMask;
use knlfix_core::ledger::{Ledger, Me, Owner, layout};
use knlfix_core::share::share;
use std::alloc::{Layout, alloc_zeroed};
use std::hint::black_box;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

const ROUNDS: usize = 21;

fn main() {
    println!("{:>10} {:>16} {:>12}", "processes", "enter and leave", "look");
    for processes in [1, 2, 16, 64, 272, 1024, 4096] {
        let ledger = filled(processes);
        let is_over = AtomicBool::new(false);
        let (pair, look) = std::thread::scope(|scope| {
            scope.spawn(|| others(ledger, processes, &is_over));
            let figures = (median(|| pairs(ledger)), median(|| looks(ledger)));
            is_over.store(true, Ordering::Relaxed);
            figures
        });
        println!("{processes:>10} {pair:>13.1} ns {look:>9.0} ns");
    }
}

fn filled(processes: usize) -> Ledger<'static> {
    let memory = Layout::from_size_align(layout::SIZE, 4096).expect("a page is a power of two");
    // SAFETY: not empty.
    let base = unsafe { alloc_zeroed(memory) };
    assert!(!base.is_null(), "no memory");
    // SAFETY: so long, aligned so, and never freed.
    let ledger = unsafe { Ledger::at(base) };
    ledger.create();
    for pid in 1..=processes {
        let owner = Owner::new(pid as i32, 1).expect("a small number");
        let index = ledger.claim(owner, 1, None, 0, |_| true, |_| true).expect("there is room");
        if index > 0 {
            ledger.enter(index, 1, 4, 0);
        }
    }
    ledger
}

fn others(ledger: Ledger<'_>, processes: usize, is_over: &AtomicBool) {
    while !is_over.load(Ordering::Relaxed) {
        for index in 1..processes {
            ledger.enter(index, 1, 4, 0);
            ledger.leave(index, 1, 0);
        }
    }
}

fn pairs(ledger: Ledger<'_>) -> f64 {
    let count = 100_000;
    let begin = Instant::now();
    for _ in 0..count {
        black_box(ledger.enter(0, 4, 4, 0));
        ledger.leave(0, 4, 0);
    }
    begin.elapsed().as_nanos() as f64 / f64::from(count)
}

fn looks(ledger: Ledger<'_>) -> f64 {
    let count = 1000;
    let mask = SparseMask::from_bytes(&[0xff; 34]);
    let begin = Instant::now();
    for _ in 0..count {
        let me = Me { index: 0, fingerprint: 1, mask: mask.as_ref() };
        black_box(share(272, 272, ledger.look(me, 0)));
    }
    begin.elapsed().as_nanos() as f64 / f64::from(count)
}

fn median(measure: impl Fn() -> f64) -> f64 {
    let mut figures: Vec<_> = (0..ROUNDS).map(|_| measure()).collect();
    figures.sort_by(f64::total_cmp);
    figures.get(ROUNDS / 2).copied().unwrap_or(f64::NAN)
}
