//! Configuration: one list of settings, each of them a command-line flag and a key of the TOML file.
//!
//! A flag wins over the file, the file over the default. Unknown keys and malformed values are refused with the place
//! they stand at, because a setting that silently does nothing is worse than a node that does not start.

use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use anyhow::{Context, bail};
use clap::Args;
use serde::Deserialize;

/// The settings as the user gave them: absent where he did not.
#[derive(Args, Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// Directory that holds this node's data; created when missing.
    #[arg(long, value_name = "DIR")]
    pub data_dir: Option<PathBuf>,

    /// Address Redis clients connect to; port 0 picks a free one. [default: 127.0.0.1:6379]
    #[arg(long, value_name = "ADDR:PORT")]
    pub listen: Option<SocketAddr>,

    /// How much to say on stderr: error, warn, info, debug or trace. [default: info]
    #[arg(long, value_name = "LEVEL")]
    pub log_level: Option<LogLevel>,

    /// Memory for the data's cache and write buffers. [default: 512MiB]
    #[arg(long, value_name = "SIZE")]
    pub memory_bytes_max: Option<ByteSize>,

    /// Clients connected at once; more are refused. [default: 10000]
    #[arg(long, value_name = "N")]
    pub clients_max: Option<usize>,

    /// Largest value of a key, and largest single argument of a command. [default: 64MiB]
    #[arg(long, value_name = "SIZE")]
    pub value_bytes_max: Option<ByteSize>,

    /// Largest whole request, all of its arguments together, and largest queue of one MULTI. [default: 256MiB]
    #[arg(long, value_name = "SIZE")]
    pub request_bytes_max: Option<ByteSize>,

    /// Replies waiting for one client beyond which its requests are read no further. [default: 1MiB]
    #[arg(long, value_name = "SIZE")]
    pub output_bytes_high_water: Option<ByteSize>,

    /// Writes on their way to the disk, all clients together, beyond which no more are taken. [default: 64MiB]
    #[arg(long, value_name = "SIZE")]
    pub inflight_bytes_max: Option<ByteSize>,

    /// Size of one file of the log; an entry may fill half of it. [default: room for one largest value, 136MiB]
    #[arg(long, value_name = "SIZE")]
    pub log_segment_bytes: Option<ByteSize>,

    /// Log kept before the data is flushed and the log cut; bounds what a restart replays. [default: 256MiB]
    #[arg(long, value_name = "SIZE")]
    pub log_bytes_max: Option<ByteSize>,
}

/// The settings in force.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// Directory that holds this node's data.
    pub data_dir: PathBuf,
    /// Address Redis clients connect to.
    pub listen: SocketAddr,
    /// How much to say on stderr.
    pub log_level: LogLevel,
    /// Memory for the data's cache and write buffers, in bytes.
    pub memory_bytes_max: usize,
    /// Clients connected at once.
    pub clients_max: usize,
    /// Largest value, in bytes.
    pub value_bytes_max: usize,
    /// Largest request, in bytes.
    pub request_bytes_max: usize,
    /// Replies waiting for one client beyond which its requests are read no further, in bytes.
    pub output_bytes_high_water: usize,
    /// Writes on their way to the disk beyond which no more are taken, in bytes.
    pub inflight_bytes_max: usize,
    /// Size of one file of the log, in bytes.
    pub log_segment_bytes: usize,
    /// Log kept before it is cut, in bytes.
    pub log_bytes_max: usize,
}

impl Settings {
    /// Reads a configuration file.
    ///
    /// # Errors
    ///
    /// The file cannot be read, or is not the TOML described in `docs/configuration.md`; the message names the line.
    pub fn read(path: &Path) -> anyhow::Result<Settings> {
        let text = std::fs::read_to_string(path)
            .with_context(|| format!("cannot read the configuration {}", path.display()))?;
        toml::from_str(&text).map_err(|error| {
            let line = error.span().map_or(1, |span| text[..span.start].matches('\n').count() + 1);
            anyhow::anyhow!("{} line {line}: {}", path.display(), error.message().replace('\n', " "))
        })
    }

    /// These settings, with `fallback`'s where they say nothing.
    pub fn or(self, fallback: Settings) -> Settings {
        Settings {
            data_dir: self.data_dir.or(fallback.data_dir),
            listen: self.listen.or(fallback.listen),
            log_level: self.log_level.or(fallback.log_level),
            memory_bytes_max: self.memory_bytes_max.or(fallback.memory_bytes_max),
            clients_max: self.clients_max.or(fallback.clients_max),
            value_bytes_max: self.value_bytes_max.or(fallback.value_bytes_max),
            request_bytes_max: self.request_bytes_max.or(fallback.request_bytes_max),
            output_bytes_high_water: self.output_bytes_high_water.or(fallback.output_bytes_high_water),
            inflight_bytes_max: self.inflight_bytes_max.or(fallback.inflight_bytes_max),
            log_segment_bytes: self.log_segment_bytes.or(fallback.log_segment_bytes),
            log_bytes_max: self.log_bytes_max.or(fallback.log_bytes_max),
        }
    }

    /// Fills in the defaults and checks that the whole makes sense.
    ///
    /// # Errors
    ///
    /// No data directory was given, or a size is out of its range.
    pub fn resolve(self) -> anyhow::Result<Config> {
        let Some(data_dir) = self.data_dir else {
            bail!("no data directory: give --data-dir DIR, or data_dir in the configuration file");
        };
        let value_bytes_max = bytes_in("value_bytes_max", self.value_bytes_max, 64 * MIB, MIB, 512 * MIB)?;
        let config = Config {
            data_dir,
            listen: self.listen.unwrap_or(SocketAddr::from(([127, 0, 0, 1], 6379))),
            log_level: self.log_level.unwrap_or(LogLevel::Info),
            memory_bytes_max: bytes_in("memory_bytes_max", self.memory_bytes_max, 512 * MIB, 16 * MIB, 1 << 46)?,
            clients_max: self.clients_max.unwrap_or(10_000),
            value_bytes_max,
            request_bytes_max: bytes_in("request_bytes_max", self.request_bytes_max, 256 * MIB, MIB, 1024 * MIB)?,
            output_bytes_high_water: bytes_in(
                "output_bytes_high_water",
                self.output_bytes_high_water,
                MIB,
                16 * 1024,
                1024 * MIB,
            )?,
            inflight_bytes_max: bytes_in("inflight_bytes_max", self.inflight_bytes_max, 64 * MIB, MIB, 1 << 40)?,
            log_segment_bytes: bytes_in(
                "log_segment_bytes",
                self.log_segment_bytes,
                segment_bytes_for(value_bytes_max),
                MIB,
                2048 * MIB,
            )?,
            log_bytes_max: bytes_in("log_bytes_max", self.log_bytes_max, 256 * MIB, 4 * MIB, 1 << 46)?,
        };
        if config.clients_max == 0 {
            bail!("clients_max is 0: nobody could connect");
        }
        if config.value_bytes_max > config.request_bytes_max {
            bail!("value_bytes_max is larger than request_bytes_max: no request could carry such a value");
        }
        let segment_bytes_min = segment_bytes_for(value_bytes_max);
        if (config.log_segment_bytes as u64) < segment_bytes_min {
            bail!(
                "log_segment_bytes is {}; with value_bytes_max {} it must be at least {}",
                ByteSize(config.log_segment_bytes as u64),
                ByteSize(value_bytes_max as u64),
                ByteSize(segment_bytes_min)
            );
        }
        Ok(config)
    }
}

/// The smallest segment whose largest entry, half of it, has room for one largest value and what may share its entry.
fn segment_bytes_for(value_bytes_max: usize) -> u64 {
    2 * (value_bytes_max as u64 + 4 * MIB)
}

const MIB: u64 = 1 << 20;

fn bytes_in(name: &str, given: Option<ByteSize>, default: u64, min: u64, max: u64) -> anyhow::Result<usize> {
    let bytes = given.map_or(default, |size| size.0);
    if !(min..=max).contains(&bytes) {
        bail!("{name} is {}; it must be between {} and {}", ByteSize(bytes), ByteSize(min), ByteSize(max));
    }
    Ok(usize::try_from(bytes)?)
}

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

/// How much to say on stderr.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum LogLevel {
    /// What stops the node.
    Error,
    /// What an operator should look at.
    Warn,
    /// What an operator wants to have seen.
    Info,
    /// What explains one connection or one entry.
    Debug,
    /// Everything.
    Trace,
}

impl From<LogLevel> for tracing::Level {
    fn from(level: LogLevel) -> tracing::Level {
        match level {
            LogLevel::Error => tracing::Level::ERROR,
            LogLevel::Warn => tracing::Level::WARN,
            LogLevel::Info => tracing::Level::INFO,
            LogLevel::Debug => tracing::Level::DEBUG,
            LogLevel::Trace => tracing::Level::TRACE,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> anyhow::Result<Config> {
        let dir = tempfile::tempdir()?;
        let path = dir.path().join("dstore.toml");
        std::fs::write(&path, text)?;
        Settings::read(&path)?.resolve()
    }

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

    #[test]
    fn a_misspelt_key_is_refused_with_its_line() {
        let error = parse("data_dir = \"x\"\nlissten = \"127.0.0.1:1\"\n").unwrap_err().to_string();
        assert!(error.contains("line 2"), "{error}");
        assert!(error.contains("unknown field `lissten`"), "{error}");
        assert!(!error.contains('\n'), "one line: {error}");
    }

    #[test]
    fn a_malformed_value_is_refused_with_its_line() {
        let error = parse("data_dir = \"x\"\n\nmemory_bytes_max = \"lots\"\n").unwrap_err().to_string();
        assert!(error.contains("line 3"), "{error}");
    }

    #[test]
    fn a_flag_wins_over_the_file_and_the_file_over_the_default() {
        let file: Settings = toml::from_str("data_dir = \"x\"\nclients_max = 5\nlog_bytes_max = \"8MiB\"").unwrap();
        let flags = Settings { clients_max: Some(7), ..Settings::default() };
        let config = flags.or(file).resolve().unwrap();
        assert_eq!(config.clients_max, 7);
        assert_eq!(config.log_bytes_max, 8 << 20);
        assert_eq!(config.listen.port(), 6379);
    }

    #[test]
    fn sizes_out_of_range_and_a_missing_directory_are_refused() {
        assert!(parse("").unwrap_err().to_string().contains("--data-dir"));
        let error = parse("data_dir = \"x\"\nlog_segment_bytes = 5").unwrap_err().to_string();
        assert_eq!(error, "log_segment_bytes is 5B; it must be between 1MiB and 2GiB");
        let error = parse("data_dir = \"x\"\nlog_segment_bytes = \"64MiB\"").unwrap_err().to_string();
        assert_eq!(error, "log_segment_bytes is 64MiB; with value_bytes_max 64MiB it must be at least 136MiB");
        let error = parse("data_dir = \"x\"\nvalue_bytes_max = \"512MiB\"").unwrap_err().to_string();
        assert!(error.contains("no request could carry"), "{error}");
    }
}
