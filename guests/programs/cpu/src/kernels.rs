//! The kernels: small integer loops of different shapes. The host crate compiles this file too, natively, and so
//! knows the checksum that the guest must print. About two million instructions a round.

use alloc::vec;
use alloc::vec::Vec;
use core::hint::black_box;

/// The checksum of `rounds` rounds.
pub fn checksum(rounds: u64) -> u64 {
    let table = crc_table();
    let mut state = 0x9e37_79b9_7f4a_7c15;
    for round in 0..rounds {
        let seed = mix(state ^ round);
        for kernel in KERNELS {
            state = mix(state ^ black_box(kernel)(seed, &table));
        }
    }
    state
}

type Kernel = fn(u64, &[u32; 256]) -> u64;

const KERNELS: [Kernel; 10] =
    [hash_loop, sort, sieve, matrix, strings, pointer_chase, calls, crc, divisions, dispatch];

/// SplitMix64's finalizer.
fn mix(value: u64) -> u64 {
    let value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}

struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mix(self.0)
    }
}

fn fold(state: u64, value: u64) -> u64 {
    (state.rotate_left(5) ^ value).wrapping_mul(0x517c_c1b7_2722_0a95)
}

/// Multiplications, shifts and rotations in one dependent chain.
fn hash_loop(seed: u64, _: &[u32; 256]) -> u64 {
    let mut state = seed;
    for step in 0..10_000_u64 {
        state = fold(state, step) ^ (state >> 17);
        state = state.wrapping_add(u64::from(state.count_ones()) + u64::from(state.leading_zeros()));
    }
    state
}

/// Heap sort: data-dependent branches over a small array.
fn sort(seed: u64, _: &[u32; 256]) -> u64 {
    let mut random = Random(seed);
    let mut items: Vec<u32> = (0..1500).map(|_| random.next() as u32).collect();
    let sift = |items: &mut [u32], mut root: usize, end: usize| {
        loop {
            let mut child = 2 * root + 1;
            if child >= end {
                return;
            }
            if child + 1 < end && items[child] < items[child + 1] {
                child += 1;
            }
            if items[root] >= items[child] {
                return;
            }
            items.swap(root, child);
            root = child;
        }
    };
    for root in (0..items.len() / 2).rev() {
        let end = items.len();
        sift(&mut items, root, end);
    }
    for end in (1..items.len()).rev() {
        items.swap(0, end);
        sift(&mut items, 0, end);
    }
    assert!(items.is_sorted());
    items.iter().fold(seed, |state, &item| fold(state, item.into()))
}

/// Byte stores with a stride.
fn sieve(seed: u64, _: &[u32; 256]) -> u64 {
    const LIMIT: usize = 32_768;
    let mut composite = vec![false; LIMIT];
    let mut state = seed;
    for number in 2..LIMIT {
        if !composite[number] {
            state = fold(state, number as u64);
            let mut multiple = number * number;
            while multiple < LIMIT {
                composite[multiple] = true;
                multiple += number;
            }
        }
    }
    state
}

/// Integer matrix product.
fn matrix(seed: u64, _: &[u32; 256]) -> u64 {
    const N: usize = 32;
    let mut random = Random(seed);
    let mut fill = || -> Vec<i32> { (0..N * N).map(|_| random.next() as i32 >> 16).collect() };
    let (a, b) = (fill(), fill());
    let mut state = seed;
    for row in 0..N {
        for column in 0..N {
            let mut sum = 0_i32;
            for k in 0..N {
                sum = sum.wrapping_add(a[row * N + k].wrapping_mul(b[k * N + column]));
            }
            state = fold(state, sum as u32 as u64);
        }
    }
    state
}

/// Bytes: copies of all lengths, overlapping moves, comparisons, number formatting.
fn strings(seed: u64, _: &[u32; 256]) -> u64 {
    let mut random = Random(seed);
    let mut text: Vec<u8> = (0..4096).map(|_| b'a' + (random.next() % 26) as u8).collect();
    let mut copy = vec![0_u8; text.len()];
    let mut state = seed;
    for step in 0..300 {
        let length = 1 + (random.next() % 700) as usize;
        let from = (random.next() % (4096 - 700)) as usize;
        let to = (random.next() % (4096 - 700)) as usize;
        copy[to..to + length].copy_from_slice(&text[from..from + length]);
        text.copy_within(from..from + length, to);
        let equal = text[to..to + length] == copy[to..to + length];
        let order = text[from..from + length].cmp(&copy[from..from + length]) as i8;
        state = fold(state, u64::from(equal) << 8 | u64::from(order as u8));
        let mut number = state;
        let mut at = to;
        while number != 0 {
            text[at] = b'0' + (number % 10) as u8;
            number /= 10;
            at += 1;
        }
        copy[step..step + 9].fill(step as u8);
    }
    text.iter().chain(&copy).fold(state, |state, &byte| fold(state, byte.into()))
}

/// A random cycle through memory: each load's address comes from the one before.
fn pointer_chase(seed: u64, _: &[u32; 256]) -> u64 {
    const NODES: usize = 8192;
    let mut random = Random(seed);
    let mut next: Vec<u32> = (0..NODES as u32).collect();
    // Sattolo's shuffle gives one cycle through all nodes.
    for index in (1..NODES).rev() {
        next.swap(index, (random.next() % index as u64) as usize);
    }
    let mut state = seed;
    let mut node = 0_u32;
    for _ in 0..3 * NODES {
        node = next[node as usize];
        state = state.rotate_left(7) ^ u64::from(node);
    }
    fold(state, u64::from(node))
}

/// Recursion: calls, returns and the stack.
fn calls(seed: u64, _: &[u32; 256]) -> u64 {
    #[inline(never)]
    fn ackermann_like(depth: u32, value: u64) -> u64 {
        if depth == 0 {
            return mix(value);
        }
        let left = black_box(ackermann_like as fn(u32, u64) -> u64)(depth - 1, value.wrapping_add(1));
        let right = ackermann_like(depth - 1, left ^ value);
        left.wrapping_sub(right)
    }
    ackermann_like(12, seed)
}

/// Table lookups by byte.
fn crc(seed: u64, table: &[u32; 256]) -> u64 {
    let mut random = Random(seed);
    let data: Vec<u8> = (0..2048).flat_map(|_| random.next().to_le_bytes()).collect();
    let mut state = !0_u32;
    for &byte in &data {
        state = table[usize::from(state as u8 ^ byte)] ^ (state >> 8);
    }
    u64::from(!state)
}

fn crc_table() -> [u32; 256] {
    core::array::from_fn(|index| {
        (0..8).fold(index as u32, |value, _| (value >> 1) ^ if value & 1 == 1 { 0xedb8_8320 } else { 0 })
    })
}

/// Divisions and remainders of all widths, signed and not, and products of 128 bits.
fn divisions(seed: u64, _: &[u32; 256]) -> u64 {
    let mut random = Random(seed);
    let mut state = seed;
    for _ in 0..2_000 {
        let (a, b) = (random.next(), random.next() | 1);
        state = fold(state, a / (b >> 40 | 1) + a % b);
        state = fold(state, (a as i64).wrapping_rem(b as i32 as i64 | 1) as u64);
        state = fold(state, u64::from(a as u32 / (b as u16 as u32 | 1)));
        state = fold(state, ((u128::from(a) * u128::from(b)) >> 64) as u64);
        state = fold(state, u64::from((a as u16 as i16).wrapping_div(b as i16 | 1) as u16));
    }
    state
}

/// A tiny bytecode machine: one indirect branch per operation.
fn dispatch(seed: u64, _: &[u32; 256]) -> u64 {
    let mut random = Random(seed);
    let program: Vec<u8> = (0..256).map(|_| (random.next() % 12) as u8).collect();
    let mut stack = [seed; 8];
    let mut top = 0_usize;
    for step in 0..14_000_usize {
        let value = stack[top];
        let other = stack[(top + 1) % 8];
        stack[top] = match program[step % 256] {
            0 => value.wrapping_add(other),
            1 => value.wrapping_sub(other),
            2 => value ^ other,
            3 => value.rotate_left(other as u32 & 63),
            4 => value.swap_bytes(),
            5 => !value,
            6 => value.wrapping_mul(other | 1),
            7 => value >> (other & 31) | 1,
            8 => (value as i32 as i64 as u64) << 3,
            9 => value & other,
            10 if value > other => value.reverse_bits(),
            _ => value.wrapping_add(step as u64),
        };
        top = (top + (value & 3) as usize) % 8;
    }
    stack.iter().fold(seed, |state, &value| fold(state, value))
}
