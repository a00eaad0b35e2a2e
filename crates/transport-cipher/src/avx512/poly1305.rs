//! Poly1305, RFC 8439 §2.5, over a text, the zeros that fill its last block, and the block of lengths (§2.8).
//!
//! The polynomial is summed in eight lanes, each of which goes on by `r⁸` (or, two groups at a time, by `r¹⁶`); at the
//! end each lane is multiplied by what it lags behind. Zeros stand before the first block until the count is a
//! multiple of eight: they add nothing, and the end needs no cases. Numbers have limbs of 44, 44 and 42 bits, for which
//! the processor's 52-bit multiplication leaves room (the layout of A. Moon's poly1305-donna).
//!
//! **Invariant:** a limb that is multiplied is under 2⁵², and one that is summed under 2⁶⁴: a product's lower half is
//! under 2⁵², its upper under 2⁴⁵, and at most seven are summed before they are carried.
//!
//! What is derived here lies on the stack afterwards. It is good for one message, which is known by then.

use std::arch::x86_64::{
    __m512i, _mm512_add_epi64, _mm512_and_si512, _mm512_madd52hi_epu64, _mm512_madd52lo_epu64,
    _mm512_maskz_set1_epi64, _mm512_or_si512, _mm512_reduce_add_epi64, _mm512_set1_epi64, _mm512_slli_epi64,
    _mm512_srli_epi64, _mm512_unpackhi_epi64, _mm512_unpacklo_epi64,
};

const MASK_44: u64 = (1 << 44) - 1;
const MASK_42: u64 = (1 << 42) - 1;
/// What stands above the 128 bits of each block, in the upper limb.
const ABOVE: i64 = 1 << 40;
/// Bytes of a block.
const BLOCK_BYTES: usize = 16;
/// Blocks at a time.
const LANES: usize = 8;
const GROUP_BYTES: usize = LANES * BLOCK_BYTES;
/// Which block of a group lies in which lane, once the halves of the blocks are parted.
const ORDER: [usize; LANES] = [0, 4, 1, 5, 2, 6, 3, 7];

/// A number: `[0] + [1]·2⁴⁴ + [2]·2⁸⁸`.
type Number = [u64; 3];
/// A number in each lane.
type Numbers = [__m512i; 3];

/// The tag of a text.
#[inline]
#[target_feature(enable = "avx512f,avx512ifma")]
pub(super) fn tag(key: &[u64; 4], text: &[u8]) -> [u8; 16] {
    let blocks = text.len().div_ceil(BLOCK_BYTES) + 1;
    let mut groups = blocks.div_ceil(LANES);
    let in_first = blocks - (groups - 1) * LANES;
    let powers = powers(clamped(key));

    let mut first = [0; GROUP_BYTES];
    let begin = GROUP_BYTES - in_first * BLOCK_BYTES;
    let (taken, mut rest) = text.split_at(text.len().min(in_first * BLOCK_BYTES));
    first[begin..begin + taken.len()].copy_from_slice(taken);
    groups -= 1;
    if groups == 0 {
        write_lengths(&mut first, text.len());
    }
    let mut sum = numbers(&first, in_first);

    let by_8 = Factor::same(&powers[7]);
    if groups % 2 == 1 {
        sum = Sums::of(next(&mut rest, text.len())).plus(&sum, &by_8).carried();
    }
    if groups > 1 {
        let by_16 = Factor::same(&product(&powers[7], &powers[7]));
        for _ in 0..groups / 2 {
            let group = next(&mut rest, text.len());
            let sums = Sums::of(next(&mut rest, text.len())).plus(&group, &by_8);
            sum = sums.plus(&sum, &by_16).carried();
        }
    }
    let zero = _mm512_set1_epi64(0);
    let sum = Sums::of([zero; 3]).plus(&sum, &Factor::each(&powers)).carried();
    finished(
        [
            _mm512_reduce_add_epi64(sum[0]).cast_unsigned(),
            _mm512_reduce_add_epi64(sum[1]).cast_unsigned(),
            _mm512_reduce_add_epi64(sum[2]).cast_unsigned(),
        ],
        u128::from(key[2]) | u128::from(key[3]) << 64,
    )
}

/// RFC 8439 §2.5: some bits of the first half of the key are not used.
fn clamped(key: &[u64; 4]) -> Number {
    [
        key[0] & 0x0ffc_0fff_ffff,
        ((key[0] >> 44) | (key[1] << 20)) & 0x0fff_ffc0_ffff,
        (key[1] >> 24) & 0x000f_ffff_fc0f,
    ]
}

/// The next group of a text that is `total` long; the last one ends with the lengths.
#[inline]
#[target_feature(enable = "avx512f")]
fn next(rest: &mut &[u8], total: usize) -> Numbers {
    if let Some((group, behind)) = rest.split_first_chunk::<GROUP_BYTES>() {
        *rest = behind;
        return numbers(group, LANES);
    }
    let mut last = [0; GROUP_BYTES];
    last[..rest.len()].copy_from_slice(rest);
    *rest = &[];
    write_lengths(&mut last, total);
    numbers(&last, LANES)
}

/// Nothing beside the text is authenticated, so the first length is zero.
fn write_lengths(group: &mut [u8; GROUP_BYTES], text: usize) {
    group[GROUP_BYTES - 8..].copy_from_slice(&(text as u64).to_le_bytes());
}

/// The numbers of eight blocks, of which the last `count` are blocks of the message.
#[inline]
#[target_feature(enable = "avx512f")]
fn numbers(group: &[u8; GROUP_BYTES], count: usize) -> Numbers {
    let halves: [__m512i; 2] = bytemuck::cast(*group);
    let low = _mm512_unpacklo_epi64(halves[0], halves[1]);
    let high = _mm512_unpackhi_epi64(halves[0], halves[1]);
    let mask = _mm512_set1_epi64(MASK_44.cast_signed());
    let middle = _mm512_or_si512(_mm512_srli_epi64::<44>(low), _mm512_slli_epi64::<20>(high));
    let mut present = 0_u8;
    for (lane, block) in ORDER.into_iter().enumerate() {
        present |= u8::from(block + count >= LANES) << lane;
    }
    let above = _mm512_maskz_set1_epi64(present, ABOVE);
    [
        _mm512_and_si512(low, mask),
        _mm512_and_si512(middle, mask),
        _mm512_or_si512(_mm512_srli_epi64::<24>(high), above),
    ]
}

/// What lanes are multiplied by, with the upper limbs' multiples by 20: 2¹³² is 4 · 5 modulo 2¹³⁰ − 5.
struct Factor {
    limbs: Numbers,
    folded: [__m512i; 2],
}

impl Factor {
    /// The same for all lanes.
    #[inline]
    #[target_feature(enable = "avx512f")]
    fn same(number: &Number) -> Factor {
        let [low, middle, high] = number.map(u64::cast_signed);
        Factor {
            limbs: [_mm512_set1_epi64(low), _mm512_set1_epi64(middle), _mm512_set1_epi64(high)],
            folded: [_mm512_set1_epi64(middle * 20), _mm512_set1_epi64(high * 20)],
        }
    }

    /// For each lane the power that its block lacks.
    #[inline]
    #[target_feature(enable = "avx512f")]
    fn each(powers: &[Number; LANES]) -> Factor {
        let mut lanes = [[0_u64; LANES]; 5];
        for (lane, block) in ORDER.into_iter().enumerate() {
            let [low, middle, high] = powers[LANES - 1 - block];
            for (row, limb) in lanes.iter_mut().zip([low, middle, high, middle * 20, high * 20]) {
                row[lane] = limb;
            }
        }
        let [low, middle, high, middle_folded, high_folded] = bytemuck::cast(lanes);
        Factor { limbs: [low, middle, high], folded: [middle_folded, high_folded] }
    }
}

/// Sums of products, by halves of 52 bits.
struct Sums {
    low: Numbers,
    high: Numbers,
}

impl Sums {
    #[inline]
    #[target_feature(enable = "avx512f")]
    fn of(start: Numbers) -> Sums {
        let zero = _mm512_set1_epi64(0);
        Sums { low: start, high: [zero; 3] }
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512ifma")]
    fn plus(mut self, numbers: &Numbers, factor: &Factor) -> Sums {
        let [r0, r1, r2] = factor.limbs;
        let [s1, s2] = factor.folded;
        for (limb, [by_0, by_1, by_2]) in [[r0, s2, s1], [r1, r0, s2], [r2, r1, r0]].into_iter().enumerate() {
            let (low, high) = (&mut self.low[limb], &mut self.high[limb]);
            *low = _mm512_madd52lo_epu64(*low, numbers[0], by_0);
            *high = _mm512_madd52hi_epu64(*high, numbers[0], by_0);
            *low = _mm512_madd52lo_epu64(*low, numbers[1], by_1);
            *high = _mm512_madd52hi_epu64(*high, numbers[1], by_1);
            *low = _mm512_madd52lo_epu64(*low, numbers[2], by_2);
            *high = _mm512_madd52hi_epu64(*high, numbers[2], by_2);
        }
        self
    }

    /// Numbers with limbs that can be multiplied again: an upper half stands 2⁵² above its limb, which is 2⁸ above the
    /// next one, or 2¹⁰ above what is folded.
    #[inline]
    #[target_feature(enable = "avx512f")]
    fn carried(self) -> Numbers {
        let mask_44 = _mm512_set1_epi64(MASK_44.cast_signed());
        let mask_42 = _mm512_set1_epi64(MASK_42.cast_signed());
        let [low, middle, high] = self.low;
        let [over_low, over_middle, over_high] = self.high;
        let up = _mm512_add_epi64(_mm512_srli_epi64::<44>(low), _mm512_slli_epi64::<8>(over_low));
        let middle = _mm512_add_epi64(middle, up);
        let up = _mm512_add_epi64(_mm512_srli_epi64::<44>(middle), _mm512_slli_epi64::<8>(over_middle));
        let high = _mm512_add_epi64(high, up);
        let up = _mm512_add_epi64(_mm512_srli_epi64::<42>(high), _mm512_slli_epi64::<10>(over_high));
        let five = _mm512_add_epi64(up, _mm512_slli_epi64::<2>(up));
        let low = _mm512_add_epi64(_mm512_and_si512(low, mask_44), five);
        [
            _mm512_and_si512(low, mask_44),
            _mm512_add_epi64(_mm512_and_si512(middle, mask_44), _mm512_srli_epi64::<44>(low)),
            _mm512_and_si512(high, mask_42),
        ]
    }
}

/// `r` to `r⁸`.
fn powers(r: Number) -> [Number; LANES] {
    let square = product(&r, &r);
    let cube = product(&square, &r);
    let fourth = product(&square, &square);
    let above = [&r, &square, &cube, &fourth].map(|power| product(&fourth, power));
    [r, square, cube, fourth, above[0], above[1], above[2], above[3]]
}

fn product(a: &Number, b: &Number) -> Number {
    let times = |a: u64, b: u64| u128::from(a) * u128::from(b);
    let (folded_1, folded_2) = (b[1] * 20, b[2] * 20);
    let low = times(a[0], b[0]) + times(a[1], folded_2) + times(a[2], folded_1);
    let middle = times(a[0], b[1]) + times(a[1], b[0]) + times(a[2], folded_2) + (low >> 44);
    let high = times(a[0], b[2]) + times(a[1], b[1]) + times(a[2], b[0]) + (middle >> 44);
    #[expect(
        clippy::cast_possible_truncation,
        reason = "the mask leaves 44 bits, and what is carried is under 2⁶⁴"
    )]
    let (low, middle, high, up) =
        (low as u64 & MASK_44, middle as u64 & MASK_44, high as u64 & MASK_42, (high >> 42) as u64);
    let low = low + up * 5;
    [low & MASK_44, middle + (low >> 44), high]
}

/// The number modulo 2¹³⁰ − 5 and the second half of the key, modulo 2¹²⁸.
fn finished(number: Number, added: u128) -> [u8; 16] {
    let [mut low, mut middle, mut high] = number;
    // Twice around: what is folded may carry once more.
    for _ in 0..2 {
        middle += low >> 44;
        low &= MASK_44;
        high += middle >> 44;
        middle &= MASK_44;
        low += (high >> 42) * 5;
        high &= MASK_42;
    }
    middle += low >> 44;
    low &= MASK_44;
    high += middle >> 44;
    middle &= MASK_44;
    // With 5 more it reaches 2¹³⁰ exactly if it is not under 2¹³⁰ − 5; then what is above that is the number.
    let low_5 = low + 5;
    let middle_5 = middle + (low_5 >> 44);
    let high_5 = high + (middle_5 >> 44);
    let over = 0_u64.wrapping_sub(high_5 >> 42);
    let choose = |number: u64, reduced: u64| (number & !over) | (reduced & over);
    let low = choose(low, low_5 & MASK_44);
    let middle = choose(middle, middle_5 & MASK_44);
    let high = choose(high, high_5 & MASK_42);
    let number = u128::from(low) | u128::from(middle) << 44 | u128::from(high) << 88;
    number.wrapping_add(added).to_le_bytes()
}
