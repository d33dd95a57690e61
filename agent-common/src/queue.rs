//! Accept queues: how deep they got and how long connections waited in them.

use crate::NetnsKey;

/// Buckets of [`QueueTally::waits`].
pub const WAIT_BUCKETS: usize = 32;
/// The first bucket holds waits of up to 2^`WAIT_FIRST` seconds (0.95 µs), each further one up to
/// twice as much, the last one everything longer. These are the bounds of a Prometheus native
/// histogram of schema 0.
pub const WAIT_FIRST: i32 = -20;

/// The bucket that a wait belongs to: the smallest whose bound is not exceeded.
#[inline(always)]
pub fn wait_bucket(ns: u64) -> usize {
    // 10^9 is 2^9 times this, so in units of 2^-20 s a wait is ns * 2^11 / 1953125, rounded up.
    const ODD_PART: u64 = 1_953_125;
    // Beyond 2^40 ns (18 minutes) it is the last bucket anyway, and the shift cannot overflow.
    let ns = if ns > 1 << 40 { 1 << 40 } else { ns };
    let units = (ns << 11).div_ceil(ODD_PART);
    let mut rest = units.saturating_sub(1);
    let mut bits = 0;
    // Halving rather than `leading_zeros`, which is a table in BPF code.
    let mut width = 32;
    while width > 0 {
        if rest >> width != 0 {
            rest >>= width;
            bits += width;
        }
        width /= 2;
    }
    let bucket = bits as usize + rest as usize;
    if bucket < WAIT_BUCKETS { bucket } else { WAIT_BUCKETS - 1 }
}

/// The deepest queue of one epoch; the agent begins a new one at each of its looks.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EpochHigh {
    /// Which epoch; two are kept, the even ones in the first place and the odd ones in the second.
    pub epoch: u32,
    /// `sk_ack_backlog` right after an enqueue, at most.
    pub high: u32,
}

/// What one CPU saw of one listener's accept queue.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QueueTally {
    /// Accepted connections by the time they had waited.
    pub waits: [u64; WAIT_BUCKETS],
    /// Sum of those times in nanoseconds.
    pub waited_ns: u64,
    /// Connections that entered the queue.
    pub enqueued: u64,
    /// The deepest queue of the current epoch and of the one before.
    pub by_epoch: [EpochHigh; 2],
    /// The deepest queue since the entry was made.
    pub high: u32,
    /// The longest SYN queue seen as a connection left it (`icsk_accept_queue.qlen`).
    pub syn_queue_high: u32,
}

impl QueueTally {
    /// A tally at zero.
    pub const BLANK: Self = Self {
        waits: [0; WAIT_BUCKETS],
        waited_ns: 0,
        enqueued: 0,
        by_epoch: [EpochHigh { epoch: 0, high: 0 }; 2],
        high: 0,
        syn_queue_high: 0,
    };

    /// Takes in a depth seen in `epoch`.
    #[inline(always)]
    pub fn deepen(&mut self, epoch: u32, depth: u32) {
        let place = &mut self.by_epoch[(epoch & 1) as usize];
        if place.epoch != epoch {
            *place = EpochHigh { epoch, high: 0 };
        }
        if depth > place.high {
            place.high = depth;
        }
        if depth > self.high {
            self.high = depth;
        }
    }

    /// The deepest queue of `epoch`, as far as it is still remembered.
    pub fn high_of(&self, epoch: u32) -> u32 {
        let place = self.by_epoch[(epoch & 1) as usize];
        if place.epoch == epoch { place.high } else { 0 }
    }
}

impl Default for QueueTally {
    fn default() -> Self {
        Self::BLANK
    }
}

/// Key of the `LISTENS` map: a socket, whatever its address.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct SocketKey {
    /// Its network namespace.
    pub netns: NetnsKey,
    /// Its inode in sockfs.
    pub inode: u32,
    /// Keeps the size a multiple of eight.
    pub reserved: u32,
}

/// A call of `listen(2)` that succeeded.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ListenCall {
    /// `bpf_ktime_get_ns`.
    pub at_ns: u64,
    /// The backlog that the process asked for; negative means "as much as allowed".
    pub backlog: i32,
    /// `net.core.somaxconn` of the namespace at that time.
    pub somaxconn: u32,
    /// Thread group id (process id) in the initial PID namespace.
    pub pid: u32,
    /// Keeps the size a multiple of eight.
    pub reserved: u32,
}

const _: () = {
    assert!(size_of::<QueueTally>() == (WAIT_BUCKETS + 2) * 8 + 2 * 8 + 2 * 4);
    assert!(size_of::<SocketKey>() == 8 + 4 + 4);
    assert!(size_of::<ListenCall>() == 8 + 4 * 4);
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wait_falls_into_the_smallest_bucket_that_holds_it() {
        let bound_ns = |bucket: usize| 1e9 * 2_f64.powi(WAIT_FIRST + bucket as i32);
        for ns in [0, 1, 953, 954, 1907, 1908, 1_000_000, 976_562, 976_563, 3_000_000_000] {
            let bucket = wait_bucket(ns);
            assert!(ns as f64 <= bound_ns(bucket), "{ns} in {bucket}");
            assert!(bucket == 0 || ns as f64 > bound_ns(bucket - 1), "{ns} in {bucket}");
        }
        assert_eq!(wait_bucket(1_000_000_000), 20, "a second is 2^0");
        assert_eq!(wait_bucket(1_000_000_001), 21);
        assert_eq!(wait_bucket(u64::MAX), WAIT_BUCKETS - 1);
    }

    #[test]
    fn an_epoch_is_remembered_until_the_next_but_one() {
        let mut tally = QueueTally::BLANK;
        tally.deepen(6, 10);
        tally.deepen(7, 3);
        assert_eq!((tally.high_of(6), tally.high_of(7), tally.high), (10, 3, 10));
        tally.deepen(8, 1);
        assert_eq!((tally.high_of(6), tally.high_of(8), tally.high), (0, 1, 10));
    }
}
