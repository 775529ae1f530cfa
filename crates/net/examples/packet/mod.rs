//! Packets on a byte stream, for `packet_server` and `packet_client`.
//!
//! ```text
//! +----------------+---------------------+
//! | length: i32 BE | body: length bytes  |
//! +----------------+---------------------+
//! ```

use dstore_net::{Decoded, Output};

/// The longest body taken. Whoever announces more (or less than nothing) is not speaking this protocol.
pub(crate) const BODY_BYTES_MAX: i32 = 1 << 20;

/// Takes a packet off the front of `input`: its body, without a copy.
pub(crate) fn decode(input: &[u8]) -> Result<Decoded<&[u8]>, String> {
    let Some((length, rest)) = input.split_first_chunk::<4>() else {
        return Ok(Decoded::Incomplete { needed: 4 });
    };
    let length = i32::from_be_bytes(*length);
    if !(0..=BODY_BYTES_MAX).contains(&length) {
        return Err(format!("a packet of {length} bytes"));
    }
    let length = length as usize;
    Ok(match rest.get(..length) {
        Some(body) => Decoded::Message(body, 4 + length),
        None => Decoded::Incomplete { needed: 4 + length },
    })
}

/// Puts a packet behind what is in `output`.
pub(crate) fn encode(output: &mut Output, body: &[u8]) {
    let length = i32::try_from(body.len()).expect("bodies are at most BODY_BYTES_MAX long");
    output.put_slice(&length.to_be_bytes());
    output.put_slice(body);
}
