//! The system's source of random numbers.

use std::io::{Error, ErrorKind};

use anyhow::Context;
use rustix::rand::{GetRandomFlags, getrandom};

/// Random bytes that nobody can predict.
///
/// # Errors
///
/// The system has none to give.
pub fn bytes<const N: usize>() -> anyhow::Result<[u8; N]> {
    let mut bytes = [0; N];
    let mut filled = 0;
    while filled < N {
        match getrandom(&mut bytes[filled..], GetRandomFlags::empty()).map_err(Error::from) {
            Ok(count) => filled += count,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error).context("no random numbers"),
        }
    }
    Ok(bytes)
}

/// 64 random bits, not all of them 0.
///
/// # Errors
///
/// See [`bytes()`].
pub fn nonzero_u64() -> anyhow::Result<u64> {
    Ok(u64::from_le_bytes(bytes()?).max(1))
}

/// 128 random bits, not all of them 0.
///
/// # Errors
///
/// See [`bytes()`].
pub fn nonzero_u128() -> anyhow::Result<u128> {
    Ok(u128::from_le_bytes(bytes()?).max(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_two_draws_are_alike() {
        assert_ne!(bytes::<32>().unwrap(), bytes::<32>().unwrap());
        assert_ne!(nonzero_u64().unwrap(), nonzero_u64().unwrap());
    }
}
