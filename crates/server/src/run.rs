//! A node put together, run, and taken apart.

use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, sync_channel};
use std::time::{Duration, Instant};

use anyhow::Context;
use bytes::Bytes;
use dstore_net::{Address, ConnectionConfig, EventLoop, ListenerConfig, LoopConfig, Mailbox};
use dstore_node::{Facts, Node, NodeLimits, NodeParts, Settlement};
use dstore_rpc::driver::Rpc;
use dstore_storage::{Log, SegmentLog, SegmentOptions};
use dstore_storage_rocksdb::{RocksEngine, RocksOptions};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use crate::admin;
use crate::clock::{self, random_u64};
use crate::config::{Config, Reads};
use crate::console::{detach_lines, say};
use crate::data_dir::DataDir;
use crate::founding::{self, Founded};
use crate::front::{Carriage, Fatal, Front, Mail, Parts, PeerAdmission};
use crate::host::Process;
use crate::identity::node_text;
use crate::random;
use crate::reclaim::Reclaimer;
use crate::restart::{Phases, Replay};
use crate::space::{self, Watch, Watcher};
use crate::store::{self, Flusher, Settler, SharedEngine};
use crate::{complain, end};

/// Unsent replies at which a client is given up, in largest replies: what is under way when the high-water mark is passed
/// must still find room, with what the encoding adds.
const OUTPUT_REPLIES: usize = 2;

/// Connections that each peer may have open with us: one a lane and direction, and one that replaces each of them.
const CONNECTIONS_PER_PEER: usize = 8;

/// Peers whose connections have room besides those of clients, at least: a cluster grows while its nodes run.
const PEERS: usize = 16;

/// Connections of watchers.
const WATCHERS_MAX: usize = 16;

/// How long threads that wait for the disk are waited for, once it has failed.
const LAST_WAIT: Duration = Duration::from_secs(5);

/// What a message to a peer holds beside the largest entry.
const BODY_OVERHEAD_BYTES: usize = 2 << 20;

/// What may be under way of a snapshot: at 10 ms between two nodes it still goes at 400 MB a second.
const STREAM_WINDOW_BYTES: u32 = 4 << 20;

/// Runs a node until it is told to stop.
///
/// # Errors
///
/// It could not start; or it had to stop, then the error is a [`Fatal`].
pub fn run(config: &Config) -> anyhow::Result<()> {
    space::make_way(&config.data_dir);
    let dir = DataDir::open(&config.data_dir)?;
    check_port(config.listen)?;
    let (mut dir, founded) = founding::found(dir, &config.cluster)?;
    let Opened { engine, log, replay, node } = open(config, &dir, &founded)?;
    let (rpc, admission) = open_rpc(config, &founded, &*log)?;

    let (wake_flusher, flusher_woken) = sync_channel(1);
    let (to_settle, settlements) = sync_channel(1);
    let front = Front::new(Parts {
        node,
        log: log.clone(),
        rpc,
        admission,
        carriage: Carriage {
            bytes_per_second: config.cluster.snapshot_bytes_per_second,
            chunk_bytes_max: log.payload_bytes_max() + BODY_OVERHEAD_BYTES,
        },
        identity: founded.identity,
        founders: founded.tells.clone(),
        decoder_limits: dstore_resp::Limits {
            bulk_bytes_max: config.value_bytes_max,
            request_bytes_max: config.request_bytes_max,
        },
        clients_max: config.clients_max,
        output_high_bytes: config.output_bytes_high_water,
        flusher: wake_flusher,
        settler: to_settle,
        replay,
        unflushed_bytes_max: config.log_bytes_max / 2,
    });
    let room = room_for(config, founded.founders.len());
    let mut event_loop = EventLoop::new(room, front).context("cannot make the event loop")?;
    if let Some(address) = founded.peer_listen {
        dstore_rpc::driver::listen(event_loop.net(), &Address::Tcp(address))
            .with_context(|| format!("cannot listen for peers on {address}"))?;
    }
    let local = listen(&mut event_loop, config)?;
    if let Some(address) = config.admin_listen {
        admin::listen(event_loop.net(), address).with_context(|| format!("cannot listen for metrics on {address}"))?;
    }
    let (flusher, settler) = start_writers(&engine, &event_loop.mailbox(), flusher_woken, settlements)?;
    let reclaimer = Reclaimer::new(engine.clone(), dir.engine_dir(), event_loop.mailbox());
    let watcher = watch_space(config, &dir, log.clone(), reclaimer, event_loop.mailbox())?;
    stop_on_signal(event_loop.mailbox())?;
    greet(&dir, &founded, local);
    detach_lines().context("cannot start the thread of standard error")?;

    let front = event_loop.run().map_err(Fatal::Loop)?;
    let (fatal, snapshots, readers) = front.into_end();
    drop(watcher);
    if let Some(Fatal::Removed { cluster }) = fatal {
        founding::note_removed(&mut dir, cluster)?;
    }
    if let Some(fatal) = &fatal {
        end_soon(fatal);
    }
    drop(readers);
    snapshots.join();
    settler.join();
    if let Some(fatal) = fatal {
        return Err(fatal.into());
    }
    flusher.join();
    // Not needed for what was acknowledged, which the log has; it saves the next start the replay.
    store::flush(&engine).map_err(|error| Fatal::Flush(format!("{error:#}")))?;
    tracing::info!("stopped");
    Ok(())
}

/// A loop with room for all clients and peers, and for those who watch.
fn room_for(config: &Config, founders: usize) -> LoopConfig {
    let peers_max = PEERS.max(2 * founders);
    let connections_max = config.clients_max + peers_max * CONNECTIONS_PER_PEER + WATCHERS_MAX;
    LoopConfig { connections_max, ..LoopConfig::default() }
}

/// Ends the process even if what is left of it waits for a disk that does not answer any more.
fn end_soon(fatal: &Fatal) {
    let (message, code) = (fatal.to_string(), fatal.exit_code());
    let wait = move || {
        std::thread::sleep(LAST_WAIT);
        complain(&message);
        end(code)
    };
    // Without a thread to give, the system will hardly have a disk to wait for.
    let _ = std::thread::Builder::new().name("end".to_owned()).spawn(wait);
}

/// Starts the threads that write to the engine.
fn start_writers(
    engine: &SharedEngine,
    mailbox: &Mailbox<Mail>,
    flusher_woken: Receiver<()>,
    settlements: Receiver<Settlement>,
) -> anyhow::Result<(Flusher, Settler)> {
    let flusher =
        Flusher::start(engine.clone(), mailbox.clone(), flusher_woken).context("cannot start the flusher's thread")?;
    let settler = Settler::start(mailbox.clone(), settlements).context("cannot start the settler's thread")?;
    Ok((flusher, settler))
}

/// Looks at the room on the disk from now on.
fn watch_space(
    config: &Config,
    dir: &DataDir,
    log: Arc<dyn Log>,
    reclaimer: Reclaimer,
    mailbox: Mailbox<Mail>,
) -> anyhow::Result<Watcher> {
    let rooms = [dir.log_dir(), dir.engine_dir()];
    let watch = Watch::new(dir.path(), &rooms, config.space, log).context("cannot tell how much room there is")?;
    Watcher::start(watch, reclaimer, mailbox).context("cannot start the thread that watches the disk")
}

/// What is on disk, and the core over it.
struct Opened {
    engine: SharedEngine,
    log: Arc<dyn Log>,
    replay: Replay,
    node: Node<SharedEngine>,
}

/// Opens data and log, and says how long that took and what is to be replayed.
fn open(config: &Config, dir: &DataDir, founded: &Founded) -> anyhow::Result<Opened> {
    let mut phases = Phases::begin();
    let engine: SharedEngine = Arc::new(open_engine(config, dir)?);
    phases.end("data");
    let log = Arc::new(open_log(config, dir)?);
    phases.end("log");
    let replay = Replay::find(&*engine, &log, Instant::now())?;
    let log: Arc<dyn Log> = log;
    let node = open_node(config, dir, founded, engine.clone(), log.clone())?;
    phases.end("state");
    tracing::info!("opened in {}; {}", phases.text(), replay.text());
    Ok(Opened { engine, log, replay, node })
}

/// The core over what is on disk.
fn open_node(
    config: &Config,
    dir: &DataDir,
    founded: &Founded,
    engine: SharedEngine,
    log: Arc<dyn Log>,
) -> anyhow::Result<Node<SharedEngine>> {
    let parts = NodeParts {
        engine,
        identity: founded.identity,
        founders: founded.founders.clone(),
        contacts: founded.contacts.clone(),
        peer_address: founded.peer_address.clone(),
        limits: node_limits(config, &*log),
        facts: facts(config, dir, founded),
        host: Box::new(Process::new(log.clone(), config.log_segment_bytes as u64)),
        seed: random::nonzero_u64()?,
        log,
    };
    Ok(Node::new(parts, clock::now())?)
}

/// The connections with the other members.
fn open_rpc(config: &Config, founded: &Founded, log: &dyn Log) -> anyhow::Result<(Rpc<Front>, PeerAdmission)> {
    let mut rpc_config = dstore_rpc::Config::new(founded.identity, founded.secret.clone());
    // The largest message carries the largest entry; and what consensus keeps in flight must find room, since a message
    // that is dropped is one to be sent again.
    let body_bytes_max = log.payload_bytes_max() + BODY_OVERHEAD_BYTES;
    let limits = &mut rpc_config.limits;
    limits.body_bytes_max = limits.body_bytes_max.max(body_bytes_max);
    limits.oneway_backlog_bytes_max = dstore_raft::Config::default().inflight_bytes_max as usize + body_bytes_max;
    limits.output_bytes_max = limits.oneway_backlog_bytes_max + config.inflight_bytes_max + body_bytes_max;
    limits.request_bytes_inflight_max = limits.request_bytes_inflight_max.max(2 * body_bytes_max);
    limits.stream_window_bytes = STREAM_WINDOW_BYTES;
    let admission = PeerAdmission::new(limits.requests_inflight_max, limits.request_bytes_inflight_max);
    Ok((Rpc::new(rpc_config, admission.shared(), random::bytes()?, Instant::now()), admission))
}

/// A port that is taken should be told at once, not after the data was opened and the log replayed.
fn check_port(address: SocketAddr) -> anyhow::Result<()> {
    TcpListener::bind(address).map(drop).with_context(|| format!("cannot listen on {address}"))
}

/// The part of the memory for data that holds single records.
fn cache_bytes(config: &Config) -> usize {
    config.memory_bytes_max / 8
}

/// The part for the engine's blocks and memtables. What is left, a quarter, is for what they take beyond what they count:
/// blocks come in all sizes, and the allocator keeps what lies between them.
fn engine_bytes(config: &Config) -> usize {
    config.memory_bytes_max / 8 * 5
}

fn open_engine(config: &Config, dir: &DataDir) -> anyhow::Result<RocksEngine> {
    let options = RocksOptions { memory_bytes: engine_bytes(config), ..RocksOptions::default() };
    Ok(RocksEngine::open(&dir.engine_dir(), &options)?)
}

fn open_log(config: &Config, dir: &DataDir) -> anyhow::Result<SegmentLog> {
    let mut options = SegmentOptions::new(random_u64());
    options.segment_bytes = u32::try_from(config.log_segment_bytes).context("log_segment_bytes")?;
    // Never met: the node takes no more than this itself, and one entry that passes the mark.
    options.backlog_bytes_max = (config.inflight_bytes_max + config.log_segment_bytes) as u64;
    Ok(SegmentLog::open(&dir.log_dir(), &options)?)
}

fn node_limits(config: &Config, log: &dyn Log) -> NodeLimits {
    NodeLimits {
        commands: dstore_kv::Limits { value_bytes_max: config.value_bytes_max, ..dstore_kv::Limits::default() },
        multi_bytes_max: config.request_bytes_max,
        entry_bytes_max: log.payload_bytes_max(),
        inflight_bytes_max: config.inflight_bytes_max,
        cache_bytes_max: cache_bytes(config),
        request_timeout: config.cluster.request_timeout,
        election_timeout: config.cluster.election_timeout,
        heartbeat_interval: config.cluster.heartbeat_interval(),
        lease: config.cluster.lease(),
        lease_reads: config.cluster.reads == Reads::Lease,
        follower_reads: config.cluster.follower_reads,
        voters_max: config.cluster.voters_max,
        disk_stall: config.disk_stall,
        ..NodeLimits::default()
    }
}

fn facts(config: &Config, dir: &DataDir, founded: &Founded) -> Facts {
    let bytes = |bytes: usize| bytes.to_string();
    Facts {
        node_id: node_text(founded.identity.node),
        pid: std::process::id(),
        port: config.listen.port(),
        version: env!("CARGO_PKG_VERSION"),
        settings: vec![
            ("appendfsync", "always".to_owned()),
            ("appendonly", "yes".to_owned()),
            ("bind", config.listen.ip().to_string()),
            ("client-query-buffer-limit", bytes(config.request_bytes_max)),
            ("databases", "16".to_owned()),
            ("dir", dir.path().display().to_string()),
            ("maxclients", config.clients_max.to_string()),
            ("maxmemory", "0".to_owned()),
            ("maxmemory-policy", "noeviction".to_owned()),
            ("port", config.listen.port().to_string()),
            ("proto-max-bulk-len", bytes(config.value_bytes_max)),
            ("save", String::new()),
            ("timeout", "0".to_owned()),
        ],
        clients_max: config.clients_max,
        client_address: String::new(),
        password: config.requirepass.as_ref().map(|password| Bytes::from(password.reveal().to_owned())),
    }
}

fn listen(event_loop: &mut EventLoop<Front>, config: &Config) -> anyhow::Result<SocketAddr> {
    let reply_bytes_max = dstore_kv::Limits::default().reply_bytes_max;
    let output_bytes_max = config.output_bytes_high_water + OUTPUT_REPLIES * reply_bytes_max;
    let listener = ListenerConfig {
        connection: ConnectionConfig {
            input_bytes_max: config.request_bytes_max,
            output_high_bytes: config.output_bytes_high_water,
            output_low_bytes: config.output_bytes_high_water / 2,
            output_bytes_max,
            ..ConnectionConfig::default()
        },
        refusal: Some(bytes::Bytes::from_static(b"-ERR max number of clients reached\r\n")),
        ..ListenerConfig::default()
    };
    let address = Address::Tcp(config.listen);
    let accept = |front: &mut Front, peer: &Address| front.accept(peer.to_string());
    let id = event_loop
        .net()
        .listen(&address, listener, accept)
        .with_context(|| format!("cannot listen on {}", config.listen))?;
    let local = event_loop.net().listener_address(id).and_then(Address::tcp).unwrap_or(config.listen);
    event_loop.app().set_local_address(local);
    Ok(local)
}

/// SIGINT and SIGTERM stop the node in order; a second one does not wait for that.
fn stop_on_signal(mailbox: Mailbox<Mail>) -> anyhow::Result<()> {
    let mut signals = Signals::new([SIGINT, SIGTERM]).context("cannot handle signals")?;
    let wait = move || {
        let mut asked = false;
        for signal in signals.forever() {
            if asked {
                std::process::exit(128 + signal);
            }
            asked = true;
            tracing::info!("stopping on request; a second signal stops at once");
            // Refused only by a loop that has ended.
            let _ = mailbox.post(Mail::Stop);
        }
    };
    std::thread::Builder::new().name("signals".to_owned()).spawn(wait).context("cannot start the signals' thread")?;
    Ok(())
}

/// Standard input that ends is a request to stop, as SIGTERM is.
///
/// # Errors
///
/// The system has no thread to give.
pub fn stop_with_stdin() -> anyhow::Result<()> {
    let wait = || {
        // Whatever comes is thrown away; an error is an end too.
        let _ = std::io::copy(&mut std::io::stdin().lock(), &mut std::io::sink());
        if signal_hook::low_level::raise(SIGTERM).is_err() {
            std::process::exit(128 + SIGTERM);
        }
    };
    std::thread::Builder::new()
        .name("stdin".to_owned())
        .spawn(wait)
        .context("cannot start the thread of standard input")?;
    Ok(())
}

fn greet(dir: &DataDir, founded: &Founded, local: SocketAddr) {
    let ip = if local.ip().is_unspecified() { "127.0.0.1".to_owned() } else { local.ip().to_string() };
    say(&format!(
        "dstore {version} listens on {local}\n  data  {dir} (node {node})\n  pid   {pid}\n  \
         try   redis-cli -h {ip} -p {port} set greeting hello\n",
        version = env!("CARGO_PKG_VERSION"),
        dir = dir.path().display(),
        node = node_text(founded.identity.node),
        pid = std::process::id(),
        port = local.port(),
    ));
}
