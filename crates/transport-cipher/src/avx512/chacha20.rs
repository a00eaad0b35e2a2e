//! ChaCha20, RFC 8439 §2.3: sixteen blocks at a time, one in each lane, or twice as many.
//!
//! **Invariant:** each row that is returned is a block of key stream, in the order of its bytes.

use std::arch::x86_64::{
    __m512i, _mm512_add_epi32, _mm512_rol_epi32, _mm512_set1_epi32, _mm512_setr_epi32, _mm512_shuffle_i32x4,
    _mm512_unpackhi_epi32, _mm512_unpackhi_epi64, _mm512_unpacklo_epi32, _mm512_unpacklo_epi64,
    _mm512_xor_si512,
};

/// Bytes of a block.
const BLOCK_BYTES: usize = 64;
/// Blocks made at a time, or half of them.
const LANES: usize = 16;
/// "expand 32-byte k".
const CONSTANTS: [u32; 4] = [0x6170_7865, 0x3320_646e, 0x7962_2d32, 0x6b20_6574];

/// A step of four quarter rounds in each of some states: `a += b`, `d = (d ^ a) <<< n`. A step waits for the one before
/// it, and its neighbours do not: that is what several at a time are for.
macro_rules! step {
    ($n:literal $columns:tt $($state:ident)+) => {
        $( step!(@add $state $columns); )+
        $( step!(@turn $n $state $columns); )+
    };
    (@add $v:ident [$([$a:literal $b:literal $d:literal])+]) => {
        $( $v[$a] = _mm512_add_epi32($v[$a], $v[$b]); )+
    };
    (@turn $n:literal $v:ident [$([$a:literal $b:literal $d:literal])+]) => {
        $( $v[$d] = _mm512_rol_epi32::<$n>(_mm512_xor_si512($v[$d], $v[$a])); )+
    };
}

/// RFC 8439 §2.1 on columns, then on diagonals.
macro_rules! double_round {
    ($($state:ident)+) => {
        step!(16 [[0 4 12] [1 5 13] [2 6 14] [3 7 15]] $($state)+);
        step!(12 [[8 12 4] [9 13 5] [10 14 6] [11 15 7]] $($state)+);
        step!(8 [[0 4 12] [1 5 13] [2 6 14] [3 7 15]] $($state)+);
        step!(7 [[8 12 4] [9 13 5] [10 14 6] [11 15 7]] $($state)+);
        step!(16 [[0 5 15] [1 6 12] [2 7 13] [3 4 14]] $($state)+);
        step!(12 [[10 15 5] [11 12 6] [8 13 7] [9 14 4]] $($state)+);
        step!(8 [[0 5 15] [1 6 12] [2 7 13] [3 4 14]] $($state)+);
        step!(7 [[10 15 5] [11 12 6] [8 13 7] [9 14 4]] $($state)+);
    };
}

/// Sixteen blocks of key stream, from block `first` on.
#[inline]
#[target_feature(enable = "avx512f")]
pub(super) fn sixteen(key: &[u32; 8], counter: u64, first: u32) -> [__m512i; LANES] {
    let start = state(key, counter, first);
    let mut v = start;
    for _ in 0..10 {
        double_round!(v);
    }
    transposed(&sums(&v, &start))
}

/// Thirty-two blocks, from block `first` on, in little more time than sixteen.
#[inline]
#[target_feature(enable = "avx512f")]
pub(super) fn thirty_two(key: &[u32; 8], counter: u64, first: u32) -> [[__m512i; LANES]; 2] {
    let starts = [state(key, counter, first), state(key, counter, first.wrapping_add(16))];
    let [mut v, mut w] = starts;
    for _ in 0..10 {
        double_round!(v w);
    }
    [transposed(&sums(&v, &starts[0])), transposed(&sums(&w, &starts[1]))]
}

/// RFC 8439 §2.3, a block in each lane.
#[inline]
#[target_feature(enable = "avx512f")]
fn state(key: &[u32; 8], counter: u64, first: u32) -> [__m512i; 16] {
    let all = |word: u32| word.cast_signed();
    let [low, high] = bytemuck::cast::<u64, [u32; 2]>(counter.to_le());
    let numbers = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    let mut state = [_mm512_set1_epi32(0); 16];
    for (lanes, constant) in state.iter_mut().zip(CONSTANTS) {
        *lanes = _mm512_set1_epi32(all(constant));
    }
    for (lanes, part) in state[4..].iter_mut().zip(key) {
        *lanes = _mm512_set1_epi32(all(*part));
    }
    state[12] = _mm512_add_epi32(_mm512_set1_epi32(all(first)), numbers);
    state[14] = _mm512_set1_epi32(all(low));
    state[15] = _mm512_set1_epi32(all(high));
    state
}

#[inline]
#[target_feature(enable = "avx512f")]
fn sums(a: &[__m512i; 16], b: &[__m512i; 16]) -> [__m512i; 16] {
    let mut sums = *a;
    for (sum, other) in sums.iter_mut().zip(b) {
        *sum = _mm512_add_epi32(*sum, *other);
    }
    sums
}

/// Words of all blocks, one word a register, to blocks.
#[inline]
#[target_feature(enable = "avx512f")]
fn transposed(v: &[__m512i; 16]) -> [__m512i; 16] {
    // Four words of one block beside each other in each quarter of a register.
    let mut quads = [_mm512_set1_epi32(0); 16];
    for (quad, words) in quads.as_chunks_mut::<4>().0.iter_mut().zip(v.as_chunks::<4>().0) {
        let [low, high] =
            [_mm512_unpacklo_epi32(words[0], words[1]), _mm512_unpackhi_epi32(words[0], words[1])];
        let [low_next, high_next] =
            [_mm512_unpacklo_epi32(words[2], words[3]), _mm512_unpackhi_epi32(words[2], words[3])];
        *quad = [
            _mm512_unpacklo_epi64(low, low_next),
            _mm512_unpackhi_epi64(low, low_next),
            _mm512_unpacklo_epi64(high, high_next),
            _mm512_unpackhi_epi64(high, high_next),
        ];
    }
    // The quarters of four registers, each block's four together.
    let mut rows = [_mm512_set1_epi32(0); 16];
    for offset in 0..4 {
        let [a, b, c, d] = [quads[offset], quads[4 + offset], quads[8 + offset], quads[12 + offset]];
        let [low, low_next] = [_mm512_shuffle_i32x4::<0x44>(a, b), _mm512_shuffle_i32x4::<0x44>(c, d)];
        let [high, high_next] = [_mm512_shuffle_i32x4::<0xee>(a, b), _mm512_shuffle_i32x4::<0xee>(c, d)];
        rows[offset] = _mm512_shuffle_i32x4::<0x88>(low, low_next);
        rows[4 + offset] = _mm512_shuffle_i32x4::<0xdd>(low, low_next);
        rows[8 + offset] = _mm512_shuffle_i32x4::<0x88>(high, high_next);
        rows[12 + offset] = _mm512_shuffle_i32x4::<0xdd>(high, high_next);
    }
    rows
}

/// The key of a text's tag (RFC 8439 §2.6), and the key stream that the text begins with.
pub(super) struct Begin<'a> {
    key: &'a [u32; 8],
    counter: u64,
    rows: [[__m512i; LANES]; 2],
}

impl Begin<'_> {
    /// What a text of this length needs: one block besides its own.
    #[inline]
    #[target_feature(enable = "avx512f")]
    pub(super) fn new(key: &[u32; 8], counter: u64, length: usize) -> Begin<'_> {
        let rows = if length <= (LANES - 1) * BLOCK_BYTES {
            [sixteen(key, counter, 0), [_mm512_set1_epi32(0); LANES]]
        } else {
            thirty_two(key, counter, 0)
        };
        Begin { key, counter, rows }
    }

    /// The first half of the first block.
    #[inline]
    #[target_feature(enable = "avx512f")]
    pub(super) fn tag_key(&self) -> [u64; 4] {
        let words: [u64; 8] = bytemuck::cast(self.rows[0][0]);
        [words[0], words[1], words[2], words[3]]
    }

    /// Encrypts or decrypts the text, which is as long as was said.
    #[inline]
    #[target_feature(enable = "avx512f")]
    pub(super) fn apply(&self, text: &mut [u8]) {
        let stream = &self.rows.as_flattened()[1..];
        let (begin, rest) = text.split_at_mut(text.len().min(stream.len() * BLOCK_BYTES));
        apply(stream, begin);
        apply_from(self.key, self.counter, 32, rest);
    }
}

/// Key stream over text that it reaches.
#[inline]
#[target_feature(enable = "avx512f")]
pub(super) fn apply(stream: &[__m512i], text: &mut [u8]) {
    let (whole, rest) = text.as_chunks_mut::<BLOCK_BYTES>();
    for (block, row) in whole.iter_mut().zip(stream) {
        *block = bytemuck::cast(_mm512_xor_si512(bytemuck::cast(*block), *row));
    }
    if let Some(row) = stream.get(whole.len()) {
        let row: [u8; BLOCK_BYTES] = bytemuck::cast(*row);
        for (byte, key) in rest.iter_mut().zip(row) {
            *byte ^= key;
        }
    }
}

/// Key stream from block `first` on over text of any length.
#[inline]
#[target_feature(enable = "avx512f")]
pub(super) fn apply_from(key: &[u32; 8], counter: u64, mut first: u32, text: &mut [u8]) {
    for part in text.chunks_mut(2 * LANES * BLOCK_BYTES) {
        if part.len() > LANES * BLOCK_BYTES {
            let stream = thirty_two(key, counter, first);
            apply(stream.as_flattened(), part);
        } else {
            apply(&sixteen(key, counter, first), part);
        }
        first = first.wrapping_add(32);
    }
}
