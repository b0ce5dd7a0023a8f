//! How many threads a process may run: the share policy of the budget, without the ledger.
//!
//! * **Alone, nothing is changed.** While no other process is active on our CPUs, the share is the ask.
//! * **Equal parts of the budget** among the processes that are active: in a region now, or in one at most
//!   [`LATELY_MS`] ago. Nobody gets less than that part, whatever the others hold; the remainder goes to the first by
//!   slot order.
//! * **What a small asker leaves goes to the others**, in equal parts again (max-min fairness, "water filling").
//! * A process whose mask overlaps ours in part counts with the part of its threads that runs on our CPUs, its
//!   [`weight`](Claim::weight).
//!
//! Processes decide each for itself, from what they last saw of the ledger. From the same snapshot the shares of
//! processes with the same mask add up to no more than the budget (or to one thread each, where there are more
//! processes than threads in the budget).
//!
//! The claims are read from shared memory and may hold anything. A claim can at worst be one active process more: no
//! value in it costs us more than an equal part.
//!
//! The constants were chosen by simulation: `examples/share_policies.rs`, described in `docs/budget-policy.md`.

/// A process that was in a region at most this long ago is active: its part is kept for it.
pub const LATELY_MS: u32 = 20;
/// A process looks at the ledger again after this time although nothing was signalled.
pub const REFRESH_MS: u32 = 2;
/// A held team size changes when the share has differed from it for this long.
pub const HOLD_MS: u32 = 50;

/// The weight of a process all of whose CPUs are ours too.
pub const WHOLE: u16 = 256;

/// Rounds of water filling. Two are the rule, and each further one needs askers of yet another size; stopping early
/// only leaves some threads unused.
const ROUNDS: usize = 8;

/// What the ledger says of another process.
#[derive(Debug, Clone, Copy)]
pub struct Claim {
    /// Threads its last region asked for.
    pub ask: u32,
    /// Threads it runs in regions now.
    pub held: u32,
    /// It is in a region.
    pub in_region: bool,
    /// Time since it was last in a region.
    pub idle_ms: u32,
    /// Of [`WHOLE`]: the part of its threads that runs on our CPUs.
    pub weight: u16,
    /// Its slot comes before ours, and so does its claim to a remainder.
    pub is_before_us: bool,
}

impl Claim {
    /// Whether a part of the budget is kept for it.
    #[must_use]
    pub const fn is_active(&self) -> bool {
        self.weight > 0 && (self.in_region || self.idle_ms <= LATELY_MS)
    }

    /// Threads it can make use of: explicit and nested regions may hold more than the last one asked for.
    fn need(&self) -> u64 {
        let held = if self.in_region { self.held } else { 0 };
        u64::from(self.ask.max(held).max(1))
    }

    fn weight(&self) -> u64 {
        u64::from(self.weight.min(WHOLE))
    }
}

/// What a process may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Share {
    /// Between 1 and the ask.
    pub threads: u32,
    /// Another process is active on our CPUs.
    pub crowded: bool,
}

/// The share of a process that asks for `ask` threads, of `budget` threads on its own CPUs.
///
/// Reads `others` twice as a rule, and at most nine times; no lock or allocation.
pub fn share(budget: u32, ask: u32, others: impl Iterator<Item = Claim> + Clone) -> Share {
    let ask = ask.max(1);
    let others = others.filter(Claim::is_active);
    let elsewhere = others.clone().fold(0_u64, |sum, claim| sum.saturating_add(claim.weight()));
    if elsewhere == 0 {
        return Share { threads: ask, crowded: false };
    }
    let threads = fill(budget.max(1), ask, elsewhere, others).clamp(1, u64::from(ask));
    Share { threads: u32::try_from(threads).unwrap_or(ask), crowded: true }
}

/// Raises the water until it meets the budget. All products count threads in 256ths.
fn fill(budget: u32, ask: u32, elsewhere: u64, others: impl Iterator<Item = Claim> + Clone) -> u64 {
    let ours = u64::from(WHOLE);
    let ask = u64::from(ask);
    let room = ours * u64::from(budget);
    let mut level = room / ours.saturating_add(elsewhere);
    let mut spare = 0;
    for _ in 0..ROUNDS {
        if ask <= level {
            return ask;
        }
        // Who needs no more than the level is served; the rest of the room is for the others, and for us.
        let (mut left, mut open, mut before) = (room, ours, 0_u64);
        for claim in others.clone() {
            if claim.need() <= level {
                left = left.saturating_sub(claim.weight() * claim.need());
            } else {
                open = open.saturating_add(claim.weight());
                before = before.saturating_add(if claim.is_before_us { claim.weight() } else { 0 });
            }
        }
        let raised = left / open;
        spare = (left % open).saturating_sub(before);
        if raised <= level {
            break;
        }
        level = raised;
    }
    level + u64::from(spare >= ours)
}

/// The team size of a runtime that pays for every change of it, except between 1 and one size.
///
/// libgomp destroys and creates threads when a team changes from one size above 1 to another, which takes up to a
/// millisecond or more; running a region on one thread between two of the same size costs nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Held {
    /// The size of the team that the runtime has; 0: none yet.
    size: u32,
    /// When the share was first seen to differ from `size`; 0: it does not.
    since_ms: u32,
}

impl Held {
    /// As one word, for those who keep it in an atomic.
    #[must_use]
    pub const fn bits(self) -> u64 {
        (self.since_ms as u64) << 32 | self.size as u64
    }

    /// What [`bits`](Self::bits) made.
    #[must_use]
    pub const fn from_bits(bits: u64) -> Self {
        Self { size: bits as u32, since_ms: (bits >> 32) as u32 }
    }

    /// The threads to run the next region with, given the share now: 1, the held size, or a new one that is then held.
    ///
    /// The whole ask is granted at once. Anything else changes the held size only when it has differed for
    /// [`HOLD_MS`]; until then a larger share goes unused.
    #[must_use]
    pub fn next(&mut self, share: u32, ask: u32, now_ms: u32) -> u32 {
        let ask = ask.max(1);
        let share = share.clamp(1, ask);
        if share == 1 {
            return 1;
        }
        let no_team = self.size < 2 || self.size > ask;
        if share == ask || share == self.size || no_team {
            *self = Self { size: share, since_ms: 0 };
            return share;
        }
        if self.since_ms == 0 {
            self.since_ms = now_ms.max(1);
        }
        if now_ms.wrapping_sub(self.since_ms) >= HOLD_MS && now_ms != 0 {
            *self = Self { size: share, since_ms: 0 };
            return share;
        }
        self.size
    }
}
