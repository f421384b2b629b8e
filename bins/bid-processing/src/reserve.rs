//! The part of the log that is kept for running auctions to end in: from when bids are rejected, and how often the log
//! is measured.

use std::time::Duration;

use bus::{Fill, LOG_RESERVED_RATIO};

/// Bytes of the records with which one auction opens and ends. With names of 100 characters of four bytes an opening
/// takes 1.7 KB and a closing, which has six names, 3.7 KB; usually both together take 2.3 KB.
const ENDING_BYTES: u64 = 6_000;
/// Bytes by which the log grows in a second at full speed: 5,000 synced appends of 1.4 KB are 7 MB.
const FULL_SPEED_BYTES_PER_SECOND: u64 = 8_000_000;
/// Longest pause between two measurements. At full speed the log then grows by 16 MB, 8 % of the 5 % that a log of
/// 4 GiB keeps.
pub const MEASURE_EVERY: Duration = Duration::from_secs(2);
/// Shortest pause, shortly before the reserve is reached: at most 20 requests a second to NATS from each instance.
const MEASURE_AT_MOST_EVERY: Duration = Duration::from_millis(50);
/// Bytes of bids that may be appended after the measurement that finds room for them: the growth at full speed in the
/// shortest pause.
const GROWTH_BYTES: u64 = FULL_SPEED_BYTES_PER_SECOND / 20;

/// Bytes that this number of running auctions must find in the log, whatever 5 % of it are. At 6 KB an auction that is
/// more than 5 % of 4 GiB from 35,000 running auctions on; of 1 MB it is 40 %.
fn reserved_bytes(running: usize) -> u64 {
    u64::try_from(running).unwrap_or(u64::MAX).saturating_mul(ENDING_BYTES).saturating_add(GROWTH_BYTES)
}

/// Whether the rest of the log is kept for running auctions to end in.
pub fn is_reserved(fill: Fill, running: usize) -> bool {
    fill.ratio() >= LOG_RESERVED_RATIO || fill.left_bytes() <= reserved_bytes(running)
}

/// Time until the log must be measured again: bids at full speed do not reach the reserve before.
pub fn measure_again_after(fill: Fill, running: usize) -> Duration {
    if is_reserved(fill, running) {
        return MEASURE_EVERY;
    }
    let room_bytes = fill.left_bytes() - reserved_bytes(running);
    Duration::from_millis(room_bytes / (FULL_SPEED_BYTES_PER_SECOND / 1_000))
        .clamp(MEASURE_AT_MOST_EVERY, MEASURE_EVERY)
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIB: u64 = 1024 * 1024 * 1024;

    fn filled(used_bytes: u64, max_bytes: u64) -> Fill {
        Fill { used_bytes, max_bytes: Some(max_bytes), replicas_away: 0 }
    }

    fn unbounded(used_bytes: u64) -> Fill {
        Fill { used_bytes, max_bytes: None, replicas_away: 0 }
    }

    #[test]
    fn reserve_is_the_larger_of_a_ratio_and_the_endings_of_running_auctions() {
        let cases = [
            ("large log below 95 %", filled(4 * GIB / 100 * 94, 4 * GIB), 1_000, false),
            ("large log above 95 %", filled(4 * GIB / 100 * 95 + 100, 4 * GIB), 1_000, true),
            ("many running auctions", filled(4 * GIB / 100 * 90, 4 * GIB), 100_000, true),
            ("1 MB, nearly empty", filled(100_000, 1_000_000), 5, false),
            ("1 MB, before the reserve", filled(569_999, 1_000_000), 5, false),
            ("1 MB, at the reserve", filled(570_000, 1_000_000), 5, true),
            ("more than fits", filled(1_200_000, 1_000_000), 0, true),
            ("no bound", unbounded(4 * GIB), 1_000, false),
        ];
        for (name, fill, running, expected) in cases {
            assert_eq!(is_reserved(fill, running), expected, "{name}");
        }
    }

    #[test]
    fn log_is_measured_more_often_as_it_fills() {
        let after = |used_bytes| measure_again_after(filled(used_bytes, 100_000_000), 0).as_millis();
        assert_eq!(after(0), 2_000);
        assert_eq!(after(83_600_000), 2_000, "16 MB of room");
        assert_eq!(after(91_600_000), 1_000, "8 MB of room");
        let small = |used_bytes| measure_again_after(filled(used_bytes, 1_000_000), 0).as_millis();
        assert_eq!(small(200_000), 50, "400 kB of room");
        assert_eq!(small(590_000), 50, "10 kB of room");
        assert_eq!(small(600_000), 2_000, "no bid is accepted any more");
        assert_eq!(measure_again_after(unbounded(1), 9).as_millis(), 2_000);
    }
}
