//! How many threads a process may run: the share policy of the budget, without the ledger.
//!
//! * **Alone, nothing is changed.** While no other process is active on our CPUs, the share is the ask.
//! * **Equal parts of the budget** among the processes that are active: in a region now, or in one at most
//!   [`LATELY_MS`] ago. Nobody gets less than that part, whatever the others hold; the remainder goes to the first by
//!   slot order.
//! * **What a small asker leaves goes to the others**, in equal parts again (max-min fairness, "water filling").
//! * A process whose mask overlaps ours in part counts with the part of its threads that runs on our CPUs, its
//!   [`weight`](field@Claim::weight).
//!
//! Processes decide each for itself, from what they last saw of the ledger. From the same snapshot the shares of
//! processes with the same mask add up to no more than the budget (or to one thread each, where there are more
//! processes than threads in the budget).
//!
//! The claims are read from shared memory and may hold anything. A claim can at worst be one active process more: no
//! value in it costs us more than an equal part (and spinning: see [`Share::over`]).
//!
//! The constants were chosen by simulation: `examples/share_policies.rs`, described in `docs/budget-policy.md`.

/// A process that was in a region at most this long ago is active: its part is kept for it.
pub const LATELY_MS: u32 = 10;
/// A process looks at the ledger again after this time although nothing was signalled.
pub const REFRESH_MS: u32 = 5;
/// A team size that is dear to change is kept at least this long.
pub const HOLD_MS: u32 = 20;

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
        self.held().max(u64::from(self.ask)).max(1)
    }

    fn held(&self) -> u64 {
        if self.in_region { u64::from(self.held) } else { 0 }
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
    /// With these threads the regions of all active processes hold more than the budget: explicit counts, or regions
    /// that were entered when fewer were active. Spinning threads then take CPUs from working ones.
    pub over: bool,
}

/// The share of a process that asks for `ask` threads, of `budget` threads on its own CPUs.
///
/// Reads `others` twice as a rule, and at most nine times; no lock or allocation. They may change from one reading to
/// the next: the answer stays in its bounds.
pub fn share(budget: u32, ask: u32, others: impl Iterator<Item = Claim> + Clone) -> Share {
    let ask = ask.max(1);
    let others = others.filter(Claim::is_active);
    let (elsewhere, held) = others.clone().fold((0_u64, 0_u64), |(weights, held), claim| {
        (weights.saturating_add(claim.weight()), held.saturating_add(claim.weight() * claim.held()))
    });
    if elsewhere == 0 {
        return Share { threads: ask, crowded: false, over: false };
    }
    let budget = budget.max(1);
    let threads = u32::try_from(fill(budget, ask, elsewhere, others)).unwrap_or(ask).clamp(1, ask);
    let over = held.saturating_add(u64::from(WHOLE) * u64::from(threads)) > u64::from(WHOLE) * u64::from(budget);
    Share { threads, crowded: true, over }
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
    /// When it got that size.
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
    /// A size is kept for [`HOLD_MS`], unless the whole ask is granted or is less than it. Meanwhile a larger share
    /// goes unused, and a smaller one is exceeded: the simulation shows that running on one thread instead loses more.
    /// `now_ms` may wrap round.
    #[must_use]
    pub fn next(&mut self, share: u32, ask: u32, now_ms: u32) -> u32 {
        let ask = ask.max(1);
        let share = share.clamp(1, ask);
        if share == 1 {
            return 1;
        }
        let fits = (2..=ask).contains(&self.size);
        let kept = now_ms.wrapping_sub(self.since_ms) < HOLD_MS;
        if share != self.size && (share == ask || !fits || !kept) {
            *self = Self { size: share, since_ms: now_ms };
        }
        self.size
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const IDLE: u32 = LATELY_MS + 1;

    fn claim(ask: u32) -> Claim {
        Claim { ask, held: 0, in_region: true, idle_ms: 0, weight: WHOLE, is_before_us: false }
    }

    /// What each of these processes, all active and with one mask, takes from the same snapshot.
    fn shares(budget: u32, processes: &[Claim]) -> Vec<u32> {
        let others = |i: usize| {
            let all = processes.iter().enumerate().filter(move |&(j, _)| j != i);
            all.map(move |(j, &claim)| Claim { is_before_us: j < i, ..claim })
        };
        processes.iter().enumerate().map(|(i, us)| share(budget, us.ask, others(i)).threads).collect()
    }

    /// Max-min fairness, thread by thread.
    fn one_by_one(budget: u32, asks: &[u32]) -> Vec<u32> {
        let mut taken = vec![0; asks.len()];
        let mut left = budget;
        while left > 0 && taken.iter().zip(asks).any(|(t, a)| t < a) {
            for (taken, &ask) in taken.iter_mut().zip(asks) {
                if *taken < ask && left > 0 {
                    *taken += 1;
                    left -= 1;
                }
            }
        }
        taken.iter().map(|&t| t.max(1)).collect()
    }

    #[test]
    fn alone_is_the_ask() {
        let gone = Claim { in_region: false, idle_ms: IDLE, ..claim(64) };
        let elsewhere = Claim { weight: 0, ..claim(64) };
        let expected = Share { threads: 64, crowded: false, over: false };
        assert_eq!(share(64, 64, [].into_iter()), expected);
        assert_eq!(share(64, 64, [gone, elsewhere].into_iter()), expected);
    }

    #[test]
    fn a_part_is_kept_for_the_lately_active() {
        let lately = Claim { in_region: false, idle_ms: LATELY_MS, held: 64, ..claim(64) };
        assert_eq!(share(64, 64, [lately].into_iter()), Share { threads: 32, crowded: true, over: false });
    }

    #[test]
    fn remainders_go_by_slot_order() {
        assert_eq!(shares(64, &[claim(64); 3]), [22, 21, 21]);
        assert_eq!(shares(2, &[claim(2); 4]), [1; 4]);
    }

    #[test]
    fn small_askers_leave_the_rest() {
        assert_eq!(shares(64, &[claim(4), claim(64), claim(64)]), [4, 30, 30]);
        // Filled twice: the rest of the first raises the level to the ask of the second.
        assert_eq!(shares(64, &[claim(1), claim(20), claim(64)]), [1, 20, 43]);
    }

    #[test]
    fn a_mask_that_overlaps_in_half_counts_half() {
        let half = Claim { weight: 128, ..claim(128) };
        // 43 of ours and half of its 42 fill 64 CPUs.
        assert_eq!(share(64, 64, [half].into_iter()).threads, 43);
        let second = Claim { is_before_us: true, ..half };
        assert_eq!(share(64, 64, [second; 2].into_iter()).threads, 32);
        assert_eq!(share(63, 63, [second; 2].into_iter()).threads, 31);
    }

    #[test]
    fn over_counts_what_is_held() {
        let explicit = Claim { held: 64, ..claim(64) };
        assert_eq!(share(64, 64, [explicit].into_iter()), Share { threads: 32, crowded: true, over: true });
        let resized = Claim { held: 32, ..claim(64) };
        assert!(!share(64, 64, [resized].into_iter()).over);
    }

    #[test]
    fn a_held_size_is_kept_for_a_while() {
        let mut held = Held::default();
        let start = u32::MAX - 3;
        assert_eq!(held.next(32, 64, start), 32);
        assert_eq!(held.next(16, 64, start.wrapping_add(HOLD_MS - 1)), 32);
        assert_eq!(held.next(1, 64, start.wrapping_add(HOLD_MS - 1)), 1);
        assert_eq!(held.next(16, 64, start.wrapping_add(HOLD_MS)), 16);
        assert_eq!(held.next(64, 64, start.wrapping_add(HOLD_MS)), 64, "the whole ask at once");
        assert_eq!(held.next(6, 8, start.wrapping_add(HOLD_MS)), 6, "a smaller ask needs another team anyway");
    }

    fn any_claim() -> impl Strategy<Value = Claim> {
        let number = || prop_oneof![0..300_u32, any::<u32>(), Just(u32::MAX)];
        let weight = prop_oneof![Just(0_u16), Just(WHOLE), 0..=WHOLE, any::<u16>()];
        (number(), number(), any::<bool>(), number(), weight, any::<bool>()).prop_map(
            |(ask, held, in_region, idle_ms, weight, is_before_us)| Claim {
                ask,
                held,
                in_region,
                idle_ms,
                weight,
                is_before_us,
            },
        )
    }

    proptest! {
        #[test]
        fn anything_gives_a_sane_answer(
            budget in prop_oneof![0..300_u32, any::<u32>(), Just(u32::MAX)],
            ask in prop_oneof![0..300_u32, any::<u32>(), Just(u32::MAX)],
            others in prop::collection::vec(any_claim(), 0..300),
        ) {
            let got = share(budget, ask, others.iter().copied());
            prop_assert!((1..=ask.max(1)).contains(&got.threads));
            let active: Vec<_> = others.iter().filter(|c| c.is_active()).collect();
            prop_assert_eq!(got.crowded, !active.is_empty());
            if active.is_empty() {
                prop_assert_eq!(got.threads, ask.max(1));
            } else {
                prop_assert!(got.threads <= budget.max(1));
                let parts = 256 + active.iter().map(|c| u64::from(c.weight.min(WHOLE))).sum::<u64>();
                let fair = u64::from(budget.max(1)) * 256 / parts;
                prop_assert!(u64::from(got.threads) >= fair.min(u64::from(ask)));
            }
        }

        #[test]
        fn shares_never_add_up_to_more(
            budget in 1..600_u32,
            processes in prop::collection::vec(any_claim(), 2..300),
        ) {
            let active = |c: &Claim| Claim { weight: WHOLE, idle_ms: 0, ..*c };
            let processes: Vec<_> = processes.iter().map(active).collect();
            let sum: u64 = shares(budget, &processes).iter().copied().map(u64::from).sum();
            prop_assert!(sum <= u64::from(budget).max(processes.len() as u64));
        }

        #[test]
        fn the_fairest_division(budget in 1..300_u32, asks in prop::collection::vec(1..100_u32, 2..ROUNDS)) {
            let processes: Vec<_> = asks.iter().map(|&ask| claim(ask)).collect();
            prop_assert_eq!(shares(budget, &processes), one_by_one(budget, &asks));
        }

        #[test]
        fn held_sizes_are_within_the_ask(
            bits in any::<u64>(),
            calls in prop::collection::vec((any::<u32>(), 0..300_u32, any::<u32>()), 1..20),
        ) {
            let mut held = Held::from_bits(bits);
            prop_assert_eq!(held.bits(), bits);
            for (share, ask, now_ms) in calls {
                let before = held;
                let threads = held.next(share, ask, now_ms);
                prop_assert!((1..=ask.max(1)).contains(&threads));
                prop_assert!(threads == 1 || threads == held.size);
                prop_assert!(share < ask || threads == ask.max(1));
                prop_assert!(threads == 1 || threads == before.size || threads == share.min(ask));
            }
        }
    }
}
