//! A small mutator for short runs of the fuzz targets in ordinary tests.

use std::time::{Duration, Instant};

const SMOKE: Duration = Duration::from_secs(2);
const EXTREMES: [u32; 8] = [0, 1, 2, 0x7f, 0xff, 0xffff, i32::MAX as u32, u32::MAX];

/// Feeds `run` the samples, which it must accept, then mutations of them for two seconds.
pub fn smoke(samples: &[Vec<u8>], run: fn(&[u8]) -> bool) {
    for (at, sample) in samples.iter().enumerate() {
        assert!(run(sample), "sample {at} is refused");
    }
    let begin = Instant::now();
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    let mut input = Vec::new();
    while begin.elapsed() < SMOKE {
        let seed = random.0;
        input.clone_from(&samples[random.below(samples.len())]);
        for _ in 0..=random.below(8) {
            mutate(&mut input, &mut random);
        }
        let result = std::panic::catch_unwind(|| run(&input));
        assert!(result.is_ok(), "panic on the input made from generator state {seed:#x}");
    }
}

fn mutate(input: &mut Vec<u8>, random: &mut Random) {
    let at = random.below(input.len() + 1);
    let length = random.below(64).min(input.len() - at);
    match random.below(7) {
        0 => input.truncate(at),
        1 => drop(input.drain(at..at + length)),
        2 => {
            let piece = input[at..at + length].to_vec();
            let to = random.below(input.len() + 1);
            input.splice(to..to, piece);
        }
        3 => input.insert(at, random.next() as u8),
        4 | 5 if at < input.len() => input[at] ^= 1 << random.below(8),
        _ if input.len() - at >= 4 => {
            let value = EXTREMES[random.below(EXTREMES.len())];
            input[at..at + 4].copy_from_slice(&value.to_le_bytes());
        }
        _ => {}
    }
}

/// Xorshift with a fixed seed.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, limit: usize) -> usize {
        (self.next() % limit.max(1) as u64) as usize
    }
}
