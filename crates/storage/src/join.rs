//! [`join`]: short strings in one piece of memory with the count of those who share them.

use bytes::Bytes;

/// Takes the parts, one behind the other, into one piece of memory. Where they are short that is one allocation, and stays
/// one however often the bytes are cloned and sliced; a vector's bytes take a second one for their count when they are
/// first cloned.
pub fn join(parts: &[&[u8]]) -> Bytes {
    // What is left of the allocator's size classes beside the count.
    match parts.iter().map(|part| part.len()).sum() {
        0..=56 => joined::<56>(parts),
        57..=88 => joined::<88>(parts),
        89..=120 => joined::<120>(parts),
        121..=152 => joined::<152>(parts),
        153..=184 => joined::<184>(parts),
        185..=248 => joined::<248>(parts),
        249..=312 => joined::<312>(parts),
        313..=376 => joined::<376>(parts),
        377..=504 => joined::<504>(parts),
        // The count apart: it is little beside the rest.
        _ => Bytes::from(parts.concat()),
    }
}

fn joined<const N: usize>(parts: &[&[u8]]) -> Bytes {
    let mut memory = [0; N];
    let mut end = 0;
    for part in parts {
        memory[end..end + part.len()].copy_from_slice(part);
        end += part.len();
    }
    let mut joined = Bytes::from_owner(memory);
    joined.truncate(end);
    joined
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_of_every_length_come_back_joined() {
        for length in 0..600 {
            let (first, second) = (vec![b'a'; length / 3], vec![b'b'; length - length / 3]);
            assert_eq!(join(&[&first, b"", &second]), [first, second].concat());
        }
        assert!(join(&[]).is_empty());
    }
}
