//! Configuration: one list of settings, each of them a command-line flag and a key of the TOML file.
//!
//! A flag wins over the file, the file over the default. Unknown keys and malformed values are refused with the place
//! they stand at, because a setting that silently does nothing is worse than a node that does not start.

mod cluster;
mod level;
mod settings;
mod size;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::bail;

pub use self::cluster::{ClusterConfig, HOW_TO_MAKE_A_SECRET, Password, PeerAddress, Reads};
pub use self::level::LogLevel;
pub use self::settings::Settings;
pub use self::size::ByteSize;
use crate::space::SpaceConfig;

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
    /// What is to be kept free of the disk.
    pub space: SpaceConfig,
    /// How long a write may take before the disk counts as standing still.
    pub disk_stall: Duration,
    /// The cluster, and the node's place in it.
    pub cluster: ClusterConfig,
    /// Address of metrics and health checks.
    pub admin_listen: Option<SocketAddr>,
    /// Password of clients.
    pub requirepass: Option<Password>,
}

impl Settings {
    /// Fills in the defaults and checks that the whole makes sense.
    ///
    /// # Errors
    ///
    /// No data directory was given, or a size is out of its range.
    pub fn resolve(self) -> anyhow::Result<Config> {
        let cluster = ClusterConfig::resolve(&self)?;
        let listen = self.listen.unwrap_or(SocketAddr::from(([127, 0, 0, 1], 6379)));
        cluster::check_exposure(&self, listen)?;
        let Some(data_dir) = self.data_dir else {
            bail!("no data directory: give --data-dir DIR, or data_dir in the configuration file");
        };
        let value_bytes_max = bytes_in("value_bytes_max", self.value_bytes_max, 64 * MIB, MIB, 512 * MIB)?;
        let config = Config {
            data_dir,
            listen,
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
            space: SpaceConfig {
                floor: self.free_bytes_floor.map(|size| size.0),
                ballast: self.ballast_bytes.map(|size| size.0),
            },
            // Below this, an ordinary pause of a shared disk would cost a leader.
            disk_stall: ms_in("disk_stall_ms", self.disk_stall_ms, 300, 50, 60_000)?,
            cluster,
            admin_listen: self.admin_listen,
            requirepass: self.requirepass,
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

fn ms_in(name: &str, given: Option<u64>, default: u64, min: u64, max: u64) -> anyhow::Result<Duration> {
    let ms = given.unwrap_or(default);
    if !(min..=max).contains(&ms) {
        bail!("{name} is {ms}; it must be between {min} and {max}");
    }
    Ok(Duration::from_millis(ms))
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
