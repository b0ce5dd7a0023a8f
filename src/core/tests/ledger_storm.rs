//! The ledger under `kill -9`: of real processes on a real file, at random moments and between any two instructions.
//!
//! Workers are forked and do nothing but work on the ledger: no allocation, no lock of the test's. Optimised, there are
//! more kills, and each instruction is tried: `cargo test --release -p knlfix-core --test ledger_storm -- --nocapture`

mod ledger_common;

use knlfix_core::ledger::{CAPACITY, Ledger, Me, Owner, layout};
use knlfix_core::share::share;
use ledger_common::Segment;
use std::fs::File;
use std::io::Write as _;
use std::os::fd::AsRawFd as _;
use std::ptr;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

// ---- Processes -------------------------------------------------------------------------------------------------

/// State and start time of a process, from `/proc/PID/stat`.
fn stat(pid: i32) -> Option<(u8, u64)> {
    let (mut path, mut text) = ([0; 32], [0; 512]);
    write!(&mut path[..31], "/proc/{pid}/stat").unwrap();
    // SAFETY: a path that ends in NUL; room for what is read; the descriptor is ours.
    let read = unsafe {
        let fd = libc::open(path.as_ptr().cast(), libc::O_RDONLY);
        let read = libc::read(fd, text.as_mut_ptr().cast(), text.len());
        libc::close(fd);
        usize::try_from(read).ok()?
    };
    let text = &text[..read];
    let mut fields = text[text.iter().rposition(|&byte| byte == b')')? + 2..].split(|&byte| byte == b' ');
    let state = fields.next()?[0];
    Some((state, std::str::from_utf8(fields.nth(18)?).ok()?.parse().ok()?))
}

fn is_alive(owner: Owner) -> bool {
    stat(owner.pid()).is_some_and(|(state, started)| state != b'Z' && state != b'X' && started == owner.started())
}

fn myself() -> Owner {
    // SAFETY: always safe.
    let pid = unsafe { libc::getpid() };
    Owner::new(pid, stat(pid).unwrap().1).unwrap()
}

fn now() -> u32 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: a place for the answer.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut time) };
    (time.tv_sec as u32).wrapping_mul(1000).wrapping_add(time.tv_nsec as u32 / 1_000_000)
}

/// A forked process, which ends with this value.
struct Child(i32);

impl Child {
    fn running(work: impl FnOnce() -> i32) -> Self {
        // SAFETY: the child does nothing but `work`, which needs no lock or memory of other threads.
        match unsafe { libc::fork() } {
            -1 => panic!("fork: {}", std::io::Error::last_os_error()),
            // SAFETY: nothing of the test's runs in the child after this. It dies with the test.
            0 => unsafe {
                libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
                libc::_exit(work())
            },
            pid => Self(pid),
        }
    }

    fn kill(&self) {
        // SAFETY: a child that was not waited for.
        assert_eq!(unsafe { libc::kill(self.0, libc::SIGKILL) }, 0);
    }

    /// Its next stop or its end.
    fn wait(&self) -> i32 {
        let mut status = 0;
        // SAFETY: a place for the answer.
        assert_eq!(unsafe { libc::waitpid(self.0, &raw mut status, 0) }, self.0);
        status
    }

    fn ptrace(&self, request: libc::c_uint) {
        // SAFETY: requests that read and write nothing of ours.
        let result = unsafe { libc::ptrace(request, self.0, ptr::null_mut::<u8>(), ptr::null_mut::<u8>()) };
        assert_eq!(result, 0, "ptrace: {}", std::io::Error::last_os_error());
    }
}

/// In a worker: from here on the test steps through it.
fn be_stepped() {
    // SAFETY: asks for being traced, and stops.
    unsafe {
        libc::ptrace(libc::PTRACE_TRACEME, 0, 0, 0);
        libc::raise(libc::SIGSTOP);
    }
}

/// Memory that forked processes share.
fn shared(file: Option<&File>, size: usize) -> *mut u8 {
    let flags = if file.is_some() { libc::MAP_SHARED } else { libc::MAP_SHARED | libc::MAP_ANONYMOUS };
    let fd = file.map_or(-1, File::as_raw_fd);
    // SAFETY: a new mapping.
    let base = unsafe { libc::mmap(ptr::null_mut(), size, libc::PROT_READ | libc::PROT_WRITE, flags, fd, 0) };
    assert_ne!(base, libc::MAP_FAILED);
    base.cast()
}

/// A ledger in a file that has no name any more, mapped for good.
fn ledger_in_a_file() -> (File, Ledger<'static>) {
    let path = format!("/dev/shm/knlfix-test-{}-{:?}", std::process::id(), std::thread::current().id());
    let file = File::options().read(true).write(true).create_new(true).open(&path).unwrap();
    std::fs::remove_file(&path).unwrap();
    file.set_len(layout::SIZE as u64).unwrap();
    // SAFETY: so long, and never unmapped.
    let ledger = unsafe { Ledger::at(shared(Some(&file), layout::SIZE)) };
    ledger.create();
    (file, ledger)
}

fn reserve(file: &File, index: usize) -> bool {
    layout::needed_by(index).into_iter().all(|range| {
        // SAFETY: a descriptor of ours.
        unsafe { libc::posix_fallocate(file.as_raw_fd(), range.start as i64, range.len() as i64) == 0 }
    })
}

/// Nothing is left, and every slot can be had.
fn assert_empty(file: &File, ledger: Ledger<'_>) {
    assert_eq!((ledger.bound(), ledger.owners().count()), (0, 0));
    for n in 0..CAPACITY {
        let owner = Owner::new(n as i32 + 1, 1).unwrap();
        // What was taken above the bound by somebody who died there is found only now.
        let is_alive = |owner: Owner| owner.started() == 1;
        assert!(ledger.claim(owner, 1, None, 1000, |index| reserve(file, index), is_alive).is_some(), "slot {n}");
    }
    assert_eq!(ledger.owners().count(), CAPACITY);
    assert!((0..CAPACITY).all(|index| ledger.held(index) == 0));
    assert_eq!(ledger.reap(|_| false), CAPACITY);
    assert_eq!(ledger.bound(), 0);
}

// ---- The storm -------------------------------------------------------------------------------------------------

const WORKERS: usize = 6;
const KILLS: usize = if cfg!(debug_assertions) { 500 } else { 3000 };
const MOST_HELD: u32 = 9;

/// What the workers tell the test, beside the ledger.
#[repr(C)]
struct Witness {
    /// Who believes to own a slot.
    believed: [AtomicU64; CAPACITY],
    /// What a worker is at, to see where it was killed.
    at: [AtomicU32; WORKERS],
    complaint: AtomicU32,
    rounds: AtomicU32,
}

/// What a worker may be at.
const STEPS: [&str; 7] = ["nothing", "claim", "enter", "look", "leave", "reap", "free"];

/// A good enough source of variety.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % sides
    }
}

/// Joins, works and leaves until it is killed. What must not happen is written down under a number.
fn work(file: &File, ledger: Ledger<'_>, witness: &Witness, number: usize, seed: u64) -> i32 {
    let mut dice = Dice(seed);
    let me = myself();
    let word = (me.started() << 22) | me.pid() as u64;
    let at = |step: u32| witness.at[number].store(step, Ordering::Relaxed);
    let demand = |kept: bool, complaint: u32| {
        if !kept {
            witness.complaint.store(complaint, Ordering::Relaxed);
        }
    };
    loop {
        at(1);
        let Some(index) = ledger.claim(me, 1, None, now(), |index| reserve(file, index), is_alive) else {
            demand(false, 1);
            return 1;
        };
        let before = witness.believed[index].swap(word, Ordering::SeqCst);
        if before != 0 && before != word {
            let before = Owner::new((before & ((1 << 22) - 1)) as i32, before >> 22).unwrap();
            demand(!is_alive(before), 2);
        }
        let mut regions = [0; 3];
        for _ in 0..dice.roll(12) {
            for region in &mut regions {
                *region = 1 + dice.roll(u64::from(MOST_HELD / 3)) as u32;
                at(2);
                ledger.enter(index, *region, *region, now());
            }
            demand(ledger.owns(index, me), 3);
            demand(ledger.held(index) == regions.iter().sum(), 4);
            at(3);
            let others = ledger.look(Me { index, fingerprint: 1, mask: None }, now());
            demand(others.clone().all(|claim| claim.held <= MOST_HELD), 5);
            demand(share(4, 4, others).threads >= 1, 6);
            for region in regions {
                at(4);
                ledger.leave(index, region, now());
            }
            at(0);
            demand(ledger.held(index) == 0, 7);
        }
        at(5);
        if dice.roll(4) == 0
            && let Some((index, owner)) = ledger.suspect(index, dice.roll(8) as usize, now(), 0)
            && !is_alive(owner)
        {
            ledger.free(index, owner);
        }
        if dice.roll(50) == 0 {
            ledger.reap(is_alive);
        }
        at(0);
        witness.believed[index].store(0, Ordering::SeqCst);
        at(6);
        demand(ledger.free(index, me), 8);
        at(0);
        witness.rounds.fetch_add(1, Ordering::Relaxed);
    }
}

#[test]
fn a_storm_of_kills_leaves_nothing_behind() {
    let (file, ledger) = ledger_in_a_file();
    // SAFETY: zeros are a witness; mapped for good.
    let witness = unsafe { &*shared(None, size_of::<Witness>()).cast::<Witness>() };
    let mut dice = Dice(0x9e37_79b9_7f4a_7c15);
    let spawn = |number, dice: &mut Dice| {
        let seed = dice.roll(u64::MAX) | 1;
        Child::running(|| work(&file, ledger, witness, number, seed))
    };
    let mut workers = Vec::from_iter((0..WORKERS).map(|number| spawn(number, &mut dice)));
    let (mut zombies, mut killed_at) = (Vec::new(), [0; STEPS.len()]);
    for _ in 0..KILLS {
        std::thread::sleep(std::time::Duration::from_micros(dice.roll(4000)));
        let number = dice.roll(WORKERS as u64) as usize;
        workers[number].kill();
        let killed = std::mem::replace(&mut workers[number], spawn(number, &mut dice));
        // Some stay unwaited for a while: they are dead all the same.
        if dice.roll(2) == 0 {
            zombies.push(killed);
        } else {
            killed.wait();
        }
        killed_at[witness.at[number].swap(0, Ordering::Relaxed) as usize] += 1;
        if zombies.len() > 20 {
            for zombie in zombies.drain(..) {
                zombie.wait();
            }
        }
        assert_eq!(witness.complaint.load(Ordering::Relaxed), 0, "see `work`");
    }
    workers.iter().for_each(Child::kill);
    for child in workers.into_iter().chain(zombies) {
        assert!(libc::WIFSIGNALED(child.wait()), "a worker ended by itself");
    }
    let left = ledger.owners().count();
    ledger.reap(is_alive);
    assert_empty(&file, ledger);
    let rounds = witness.rounds.load(Ordering::Relaxed);
    println!("{KILLS} kills in {rounds} lives, {left} dead owners left;");
    STEPS.iter().zip(killed_at).for_each(|(step, kills)| println!("  at {step}: {kills}"));
}

// ---- Every instruction -----------------------------------------------------------------------------------------

/// Slots that the stepped processes touch.
const SLOTS: usize = 8;
const NOW: u32 = 5000;

fn neighbour(n: u64) -> Owner {
    Owner::new(1, n + 1).unwrap()
}

/// Where the neighbours are: the first free slot is below the bound, or there is none.
const NEIGHBOURS: [&[usize]; 2] = [&[0, 2], &[0, 1, 2]];

fn claim(ledger: Ledger<'_>, owner: Owner) -> usize {
    ledger.claim(owner, 1, None, NOW, |_| true, |_| true).unwrap()
}

fn claims(ledger: Ledger<'_>, index: usize) -> Vec<u32> {
    ledger.look(Me { index, fingerprint: 1, mask: None }, NOW).map(|claim| claim.held).collect()
}

fn with_neighbours(ledger: Ledger<'_>, slots: &[usize]) {
    for n in 0..=2 {
        assert_eq!(claim(ledger, neighbour(n)), n as usize);
    }
    for n in 0..=2 {
        if slots.contains(&n) {
            ledger.enter(n, 2, 2, NOW);
        } else {
            ledger.free(n, neighbour(n as u64));
        }
    }
}

/// A process's whole life, in which it believes itself alone. Returns 0 if it went as it should.
fn life(ledger: Ledger<'_>, me: Owner) -> i32 {
    let Some(index) = ledger.claim(me, 1, None, NOW, |_| true, |_| true) else { return 1 };
    if !ledger.owns(index, me) || ledger.bound() <= index {
        return 2;
    }
    ledger.enter(index, 3, 3, NOW);
    ledger.enter(index, 4, 4, NOW);
    ledger.shrink(index, 4, 1);
    let seen = ledger.look(Me { index, fingerprint: 1, mask: None }, NOW).filter(|claim| claim.in_region).count();
    if ledger.held(index) != 4 || seen < 2 {
        return 3;
    }
    ledger.leave(index, 1, NOW);
    ledger.leave(index, 3, NOW);
    if ledger.held(index) != 0 || !ledger.owns(index, me) {
        return 4;
    }
    if ledger.free(index, me) { 0 } else { 5 }
}

/// What others find when the process `dead` goes no further than it has.
fn assert_nothing_is_lost(ledger: Ledger<'_>, slots: &[usize], dead: Owner) {
    let newcomer = neighbour(9);
    let index = claim(ledger, newcomer);
    assert!(!slots.contains(&index));
    let seen = claims(ledger, index);
    assert!(seen.len() <= slots.len() + 1 && seen.iter().filter(|&&held| held == 2).count() >= slots.len(), "{seen:?}");
    assert!(seen.iter().all(|&held| held <= 7), "{seen:?}");

    ledger.reap(|owner| owner != dead);
    assert_eq!(claims(ledger, index), vec![2; slots.len()]);
    let mut owners = Vec::from_iter(slots.iter().map(|&n| (n, neighbour(n as u64))));
    owners.push((index, newcomer));
    owners.sort_by_key(|&(index, _)| index);
    assert_eq!(ledger.owners().collect::<Vec<_>>(), owners);

    assert!(ledger.free(index, newcomer));
    assert_eq!(ledger.bound(), 3, "the neighbours'");
    for &n in slots {
        assert!(ledger.free(n, neighbour(n as u64)));
    }
    assert_eq!(ledger.bound(), 0);
}

/// The head and the first slots and masks.
fn snapshot(base: *const u8, into: &mut Segment) {
    let mut copy = |range: std::ops::Range<usize>| {
        // SAFETY: inside the mapped ledger, whose only other user stands still.
        let bytes = unsafe { std::slice::from_raw_parts(base.add(range.start), range.len()) };
        into.write(range, bytes);
    };
    copy(0..64);
    for [slot, mask, _] in (0..SLOTS).map(layout::needed_by) {
        copy(slot);
        copy(mask);
    }
}

/// A worker that stands before its first instruction on a new ledger, with its ledger's place.
fn stopped_worker(slots: &[usize]) -> (Child, *const u8) {
    let base = shared(None, layout::SIZE);
    // SAFETY: so long; unmapped by `forget` only.
    let ledger = unsafe { Ledger::at(base) };
    with_neighbours(ledger, slots);
    let child = Child::running(|| {
        let me = myself();
        be_stepped();
        life(ledger, me)
    });
    assert!(libc::WIFSTOPPED(child.wait()));
    (child, base)
}

fn owner_of(child: &Child) -> Owner {
    Owner::new(child.0, stat(child.0).unwrap().1).unwrap()
}

fn forget(base: *const u8) {
    // SAFETY: mapped by `stopped_worker`, and not used any more.
    unsafe { libc::munmap(base.cast_mut().cast(), layout::SIZE) };
}

/// One step; false at the end of its life.
fn step(child: &Child) -> bool {
    child.ptrace(libc::PTRACE_SINGLESTEP);
    let status = child.wait();
    if libc::WIFEXITED(status) {
        assert_eq!(libc::WEXITSTATUS(status), 0, "see `life`");
        return false;
    }
    assert!(libc::WIFSTOPPED(status) && libc::WSTOPSIG(status) == libc::SIGTRAP, "{status:x}");
    true
}

/// Steps through a life up to `steps` instructions, or to its end. Returns how many there were.
fn steps(child: &Child, steps: usize) -> usize {
    (0..steps).take_while(|_| step(child)).count()
}

/// The instructions of a life. It is not the same number in every build.
fn length_of_life(slots: &[usize]) -> usize {
    let (child, base) = stopped_worker(slots);
    let length = steps(&child, usize::MAX);
    forget(base);
    assert!(length > 500);
    length
}

/// Steps that a test makes. Optimised, it is enough for each instruction of a life to have a round of its own. Without,
/// there are twenty times as many instructions, and some are tried.
const STEPS_OF_A_TEST: usize = if cfg!(debug_assertions) { 50_000 } else { 400_000 };

/// A process that is killed leaves what is in the ledger at that instruction. So one is stepped through its life, and
/// after each step a copy of the ledger is what a kill would leave.
#[test]
fn nothing_is_lost_with_a_process_that_dies_at_any_instruction() {
    for slots in NEIGHBOURS {
        let (child, base) = stopped_worker(slots);
        let me = owner_of(&child);
        let mut copy = Segment::zeroed();
        let mut length = 0;
        loop {
            snapshot(base, &mut copy);
            assert_nothing_is_lost(copy.ledger(), slots, me);
            if !step(&child) {
                break;
            }
            length += 1;
        }
        forget(base);
        println!("neighbours at {slots:?}: {length} instructions");
    }
}

/// The same with kills.
#[test]
fn nothing_is_lost_with_a_process_that_is_killed_inside_an_update() {
    for slots in NEIGHBOURS {
        let length = length_of_life(slots);
        let every = (length * length / 2 / STEPS_OF_A_TEST).max(1);
        for last in (0..length).step_by(every) {
            let (child, base) = stopped_worker(slots);
            let me = owner_of(&child);
            assert_eq!(steps(&child, last), last);
            child.kill();
            assert!(libc::WIFSIGNALED(child.wait()) && !is_alive(me));
            // SAFETY: mapped until `forget`.
            assert_nothing_is_lost(unsafe { Ledger::at(base) }, slots, me);
            forget(base);
        }
        println!("neighbours at {slots:?}: killed after every {every} of {length} instructions");
    }
}

/// Another process lives a whole life between two instructions of the first, a dozen times in each of its lives.
#[test]
fn a_life_between_any_two_instructions_disturbs_nobody() {
    for slots in NEIGHBOURS {
        let length = length_of_life(slots);
        let every = length / 12;
        let rounds = every.min(STEPS_OF_A_TEST / length);
        for round in 0..rounds {
            let (child, base) = stopped_worker(slots);
            // SAFETY: mapped until `forget`.
            let ledger = unsafe { Ledger::at(base) };
            let mut next = every * round / rounds;
            while steps(&child, next) == next {
                assert_eq!(life(ledger, neighbour(9)), 0);
                ledger.reap(|_| true);
                next = every;
            }
            assert_eq!(ledger.owners().map(|(index, _)| index).collect::<Vec<_>>(), slots);
            assert_eq!((ledger.bound(), claims(ledger, SLOTS)), (3, vec![2; slots.len()]));
            forget(base);
        }
        println!("neighbours at {slots:?}: {rounds} of {every} offsets");
    }
}
