//! Sizes in bytes, as people write them.

use std::fmt;
use std::str::FromStr;

use serde::Deserialize;

/// A number of bytes, written `4096`, `64KiB`, `512MiB` or `2GiB`.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(try_from = "ByteSizeForm")]
pub struct ByteSize(pub u64);

/// The two forms a size has in TOML: a plain integer, or a string with a unit.
#[derive(Deserialize)]
#[serde(untagged)]
enum ByteSizeForm {
    Plain(u64),
    Text(String),
}

impl TryFrom<ByteSizeForm> for ByteSize {
    type Error = String;

    fn try_from(form: ByteSizeForm) -> Result<ByteSize, String> {
        match form {
            ByteSizeForm::Plain(bytes) => Ok(ByteSize(bytes)),
            ByteSizeForm::Text(text) => text.parse(),
        }
    }
}

impl FromStr for ByteSize {
    type Err = String;

    fn from_str(text: &str) -> Result<ByteSize, String> {
        let digits = text.trim_end_matches(|c: char| !c.is_ascii_digit());
        let scale: u64 = match text[digits.len()..].trim().to_ascii_lowercase().as_str() {
            "" | "b" => 1,
            "k" | "kb" | "kib" => 1 << 10,
            "m" | "mb" | "mib" => 1 << 20,
            "g" | "gb" | "gib" => 1 << 30,
            "t" | "tb" | "tib" => 1 << 40,
            unit => return Err(format!("`{unit}` is not a unit of size: use B, KiB, MiB, GiB or TiB")),
        };
        let number: u64 = digits.parse().map_err(|_| format!("`{text}` is not a size such as 4096, 64KiB or 2GiB"))?;
        number.checked_mul(scale).map(ByteSize).ok_or_else(|| format!("`{text}` is too large"))
    }
}

impl fmt::Display for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let units = [(1 << 40, "TiB"), (1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")];
        match units.iter().find(|(scale, _)| self.0 >= *scale && self.0.is_multiple_of(*scale)) {
            Some((scale, unit)) => write!(f, "{}{unit}", self.0 / scale),
            None => write!(f, "{}B", self.0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_with_and_without_units() {
        assert_eq!("4096".parse(), Ok(ByteSize(4096)));
        assert_eq!("64KiB".parse(), Ok(ByteSize(65536)));
        assert_eq!("2 GiB".parse(), Ok(ByteSize(2 << 30)));
        assert_eq!("512mb".parse(), Ok(ByteSize(512 << 20)));
        assert!("12 parsecs".parse::<ByteSize>().is_err());
        assert!("".parse::<ByteSize>().is_err());
        assert!("99999999999TiB".parse::<ByteSize>().is_err());
        assert_eq!(ByteSize(64 << 20).to_string(), "64MiB");
        assert_eq!(ByteSize(1025).to_string(), "1025B");
    }
}
