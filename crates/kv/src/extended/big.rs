//! [`Big`]: natural numbers of any size, with the few operations that reading and printing need.

/// A natural number; limbs of 64 bits, the lowest first, no zero limb on top.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Big {
    limbs: Vec<u64>,
}

impl Big {
    pub(super) fn from_u64(value: u64) -> Big {
        let mut big = Big { limbs: vec![value] };
        big.trim();
        big
    }

    /// Reads decimal digits.
    pub(super) fn from_digits(digits: &[u8]) -> Big {
        let mut big = Big::from_u64(0);
        for chunk in digits.chunks(18) {
            let value = chunk.iter().fold(0, |value, digit| value * 10 + u64::from(digit - b'0'));
            big.multiply_add(10u64.pow(chunk.len() as u32), value);
        }
        big
    }

    /// Multiplies by a power of ten.
    pub(super) fn scale(&mut self, tens: u32) {
        for _ in 0..tens / 18 {
            self.multiply_add(10u64.pow(18), 0);
        }
        self.multiply_add(10u64.pow(tens % 18), 0);
    }

    fn multiply_add(&mut self, factor: u64, mut carry: u64) {
        for limb in &mut self.limbs {
            let wide = u128::from(*limb) * u128::from(factor) + u128::from(carry);
            *limb = wide as u64;
            carry = (wide >> 64) as u64;
        }
        if carry != 0 {
            self.limbs.push(carry);
        }
    }

    pub(super) fn bits(&self) -> u32 {
        match self.limbs.last() {
            None => 0,
            Some(top) => self.limbs.len() as u32 * 64 - top.leading_zeros(),
        }
    }

    pub(super) fn shift_left(&mut self, bits: u32) {
        if self.limbs.is_empty() {
            return;
        }
        let within = bits % 64;
        if within != 0 {
            self.multiply_add(1 << within, 0);
        }
        self.limbs.splice(0..0, std::iter::repeat_n(0, (bits / 64) as usize));
    }

    /// The top 128 bits (fewer if there are no more), how many bits are below them, and whether any of those is set.
    pub(super) fn top(&self) -> (u128, u32, bool) {
        let below = self.bits().saturating_sub(128);
        let (skip, within) = ((below / 64) as usize, below % 64);
        let limb = |at: usize| u128::from(self.limbs.get(skip + at).copied().unwrap_or(0));
        let top =
            (limb(0) >> within) | (limb(1) << (64 - within)) | if within == 0 { 0 } else { limb(2) << (128 - within) };
        let cut = self.limbs[..skip].iter().any(|limb| *limb != 0)
            || self.limbs.get(skip).is_some_and(|limb| limb & ((1 << within) - 1) != 0);
        (top, below, cut)
    }

    /// Quotient and whether there is a remainder. The quotient must fit 128 bits, and costs time for each of them.
    pub(super) fn divide(mut self, divisor: &Big) -> (u128, bool) {
        let quotient_bits = (self.bits() + 1).saturating_sub(divisor.bits());
        assert!(quotient_bits <= 128, "a quotient of {quotient_bits} bits");
        let mut shifted = divisor.clone();
        shifted.shift_left(quotient_bits.saturating_sub(1));
        let mut quotient = 0;
        for _ in 0..quotient_bits {
            quotient <<= 1;
            if self >= shifted {
                self.subtract(&shifted);
                quotient |= 1;
            }
            shifted.halve();
        }
        (quotient, !self.limbs.is_empty())
    }

    fn subtract(&mut self, other: &Big) {
        let mut borrow = false;
        for (at, limb) in self.limbs.iter_mut().enumerate() {
            let (less, under) = limb.overflowing_sub(other.limbs.get(at).copied().unwrap_or(0));
            let (less, under_again) = less.overflowing_sub(u64::from(borrow));
            *limb = less;
            borrow = under || under_again;
        }
        assert!(!borrow, "a negative difference");
        self.trim();
    }

    fn halve(&mut self) {
        let mut carry = 0;
        for limb in self.limbs.iter_mut().rev() {
            let low = *limb & 1;
            *limb = (*limb >> 1) | (carry << 63);
            carry = low;
        }
        self.trim();
    }

    fn trim(&mut self) {
        while self.limbs.last() == Some(&0) {
            self.limbs.pop();
        }
    }

    pub(super) fn to_decimal(&self) -> String {
        let mut limbs = self.limbs.clone();
        // Eighteen digits at a time, the lowest first.
        let mut chunks = Vec::new();
        while !limbs.is_empty() {
            let mut rest = 0;
            for limb in limbs.iter_mut().rev() {
                let wide = (u128::from(rest) << 64) | u128::from(*limb);
                *limb = (wide / 10u128.pow(18)) as u64;
                rest = (wide % 10u128.pow(18)) as u64;
            }
            chunks.push(rest);
            while limbs.last() == Some(&0) {
                limbs.pop();
            }
        }
        let mut chunks = chunks.into_iter().rev();
        let mut text = chunks.next().unwrap_or(0).to_string();
        for chunk in chunks {
            text.push_str(&format!("{chunk:018}"));
        }
        text
    }
}

impl PartialOrd for Big {
    fn partial_cmp(&self, other: &Big) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Big {
    fn cmp(&self, other: &Big) -> std::cmp::Ordering {
        let by_size = self.limbs.len().cmp(&other.limbs.len());
        by_size.then_with(|| self.limbs.iter().rev().cmp(other.limbs.iter().rev()))
    }
}
