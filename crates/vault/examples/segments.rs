//! What segments of different sizes cost: sealing and opening in MB/s, and the time until a small range is open.
//!
//! `cargo run --release -p vault --example segments`; the figures of one run are in the decision page on sealed
//! objects.
#![forbid(unsafe_code)]
#![expect(clippy::print_stdout, clippy::disallowed_methods, reason = "a program that measures and prints")]
#![expect(clippy::cast_precision_loss, reason = "figures for people")]

use std::hint::black_box;
use std::time::Instant;

use vault::Key256;
use vault::stream::{Layout, Opener, SEGMENT_OVERHEAD_BYTES, Sealer};

/// Bytes that are sealed and opened for each size.
const TOTAL: usize = 1 << 30;
/// A small object, and a small range.
const SMALL: usize = 64 * 1024;
const ROUNDS: u32 = 2000;

fn main() {
    println!(
        "| segment, KiB | seal, MB/s | open, MB/s | a byte of a large file, µs | an object of 64 KiB, µs | bytes more, % |"
    );
    println!("| --- | --- | --- | --- | --- | --- |");
    for kibibytes in [4, 16, 64, 128, 256, 512, 1024, 4096] {
        let layout = Layout::new(kibibytes * 1024).expect("larger than a header");
        let (seal, open) = rates(layout);
        let byte = one_byte(layout);
        let small = small_object(layout);
        let more = layout.of_plain(TOTAL as u64).map_or(0, |extent| extent.sealed_bytes() - TOTAL as u64);
        let more = 100.0 * more as f64 / TOTAL as f64;
        println!("| {kibibytes} | {seal:.0} | {open:.0} | {byte:.1} | {small:.1} | {more:.4} |");
    }
}

/// MB/s of sealing and of opening, over memory that does not stay in the cache.
fn rates(layout: Layout) -> (f64, f64) {
    let key = Key256::from_bytes([7; 32]);
    let (mut sealer, header) = Sealer::new(&key, b"", layout).expect("random bytes");
    let extent = layout.of_plain(TOTAL as u64).expect("a GiB is not too long");
    let mut object = vec![1_u8; usize::try_from(extent.sealed_bytes()).expect("a GiB fits")];
    let ranges: Vec<_> = (0..u32::try_from(extent.segments()).expect("32 bits number them"))
        .map(|number| (number, extent.sealed_range(number)))
        .map(|(number, range)| {
            (number, usize::try_from(range.start).unwrap_or(0)..usize::try_from(range.end).unwrap_or(0))
        })
        .collect();
    let begun = Instant::now();
    for (number, range) in &ranges {
        sealer
            .seal_segment(&mut object[range.clone()], extent.is_last(*number))
            .expect("the layout's lengths");
    }
    let sealed = begun.elapsed();
    let opener = Opener::new(&key, b"", &header, layout).expect("the header of above");
    let begun = Instant::now();
    for (number, range) in &ranges {
        opener
            .open_segment(*number, extent.is_last(*number), &mut object[range.clone()])
            .expect("sealed above");
    }
    let rate = |seconds: f64| TOTAL as f64 / 1e6 / seconds;
    (rate(sealed.as_secs_f64()), rate(begun.elapsed().as_secs_f64()))
}

/// µs until one byte in the middle of a file is there, once its segment is in memory.
fn one_byte(layout: Layout) -> f64 {
    let key = Key256::from_bytes([7; 32]);
    let (mut sealer, header) = Sealer::new(&key, b"", layout).expect("random bytes");
    let mut first = vec![0; sealer.next_plain_bytes() + SEGMENT_OVERHEAD_BYTES];
    sealer.seal_segment(&mut first, false).expect("a full segment");
    let mut second = vec![0; sealer.next_plain_bytes() + SEGMENT_OVERHEAD_BYTES];
    sealer.seal_segment(&mut second, false).expect("a full segment");
    let mut copy = second.clone();
    let begun = Instant::now();
    for _round in 0..ROUNDS {
        copy.copy_from_slice(&second);
        let opener = Opener::new(&key, b"", &header, layout).expect("the header of above");
        black_box(opener.open_segment(1, false, &mut copy).expect("sealed above"));
    }
    begun.elapsed().as_secs_f64() * 1e6 / f64::from(ROUNDS)
}

/// µs to seal a whole small object, its key's derivation included.
fn small_object(layout: Layout) -> f64 {
    let key = Key256::from_bytes([7; 32]);
    let mut buffer = vec![0; SMALL + SEGMENT_OVERHEAD_BYTES];
    let begun = Instant::now();
    for _round in 0..ROUNDS {
        let (mut sealer, _header) = Sealer::new(&key, b"", layout).expect("random bytes");
        let mut left = SMALL;
        while left > 0 {
            let bytes = sealer.next_plain_bytes().min(left);
            left -= bytes;
            let segment = &mut buffer[..bytes + SEGMENT_OVERHEAD_BYTES];
            sealer.seal_segment(segment, left == 0).expect("the layout's lengths");
        }
        black_box(&mut buffer);
    }
    begun.elapsed().as_secs_f64() * 1e6 / f64::from(ROUNDS)
}
