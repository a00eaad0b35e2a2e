//! What sealing and opening cost for texts of several lengths, in both ways: nanoseconds a text.
#![allow(
    clippy::print_stdout,
    clippy::disallowed_methods,
    reason = "a program that measures time and prints it"
)]

use std::hint::black_box;
use std::time::Instant;

use transport_cipher::TransportKey;

const ROUNDS: usize = 2_000;
const TEXTS: u32 = 50;

fn main() {
    println!("bytes\tseal\tring\topen\tring");
    let ways = [TransportKey::new(&[7; 32]), TransportKey::general(&[7; 32])];
    for length in [16, 64, 128, 512, 960, 1_200, 1_424, 4_096, 16_384, 65_536] {
        let mut text = vec![1; length];
        let seal = ways.each_ref().map(|key| {
            least(|| {
                black_box(key.seal_in_place(1, black_box(&mut text)));
            })
        });
        let open = ways.each_ref().map(|key| {
            // What is opened is sealed again outside: the same bytes are no cipher text twice.
            let tag = key.seal_in_place(1, &mut text);
            let sealed = text.clone();
            let copy = least(|| black_box(&mut text).copy_from_slice(black_box(&sealed)));
            let whole = least(|| {
                text.copy_from_slice(&sealed);
                assert!(key.open_in_place(1, black_box(&mut text), &tag));
            });
            whole - copy
        });
        println!("{length}\t{:.0}\t{:.0}\t{:.0}\t{:.0}", seal[0], seal[1], open[0], open[1]);
    }
}

/// Nanoseconds of the quickest round: the others were disturbed.
fn least(mut work: impl FnMut()) -> f64 {
    let mut least = f64::INFINITY;
    for _ in 0..ROUNDS {
        let start = Instant::now();
        for _ in 0..TEXTS {
            work();
        }
        least = least.min(start.elapsed().as_secs_f64());
    }
    least * 1e9 / f64::from(TEXTS)
}
