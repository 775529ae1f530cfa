//! The RPC library beside `tonic`, and its streams beside plain TCP, in one run.
//!
//! *Unary*: a 64-byte echo, with 1, 64 and 1024 calls in flight on one connection. Each library has one thread for the
//! server and one for the client; what is compared is calls per second of CPU, both ends counted, in rounds that
//! alternate between the two. *Stream*: 1 GiB in chunks, one thread at each end, against a loop of `write` and `read`.
//!
//! The closing lines are `ratio NAME VALUE`, ours over theirs: higher is better.
#![allow(clippy::print_stdout)]

mod grpc;
mod measure;
mod ours;
mod tcp;

use bytes::Bytes;
use measure::{Sample, median};

/// What is echoed, by both libraries.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Blob {
    /// The payload.
    #[prost(bytes = "bytes", tag = "1")]
    pub bytes: Bytes,
}

const PAYLOAD_BYTES: usize = 64;
const ROUNDS: usize = 5;
const STREAM_BYTES: u64 = 1 << 30;
const CHUNK_BYTES: usize = 128 << 10;

fn main() -> anyhow::Result<()> {
    let payload = Bytes::from(vec![7; PAYLOAD_BYTES]);
    let mut ratios = Vec::new();
    let ours = ours::Pair::start()?;
    let theirs = grpc::Pair::start()?;
    for (inflight, calls) in [(1, 20_000), (64, 100_000), (1024, 200_000)] {
        let (mut our_samples, mut their_samples) = (Vec::new(), Vec::new());
        // The first round of each warms up and does not count.
        for round in 0..=ROUNDS {
            let our_sample = ours.echo(&payload, inflight, calls)?;
            let their_sample = theirs.echo(&payload, inflight, calls / 4)?;
            if round > 0 {
                our_samples.push(our_sample);
                their_samples.push(their_sample);
            }
        }
        report("dstore-rpc", inflight, &our_samples);
        report("tonic", inflight, &their_samples);
        let per_cpu = |samples: &[Sample]| median(samples.iter().map(Sample::calls_per_cpu_second));
        ratios.push((format!("rpc-unary-{inflight}"), per_cpu(&our_samples) / per_cpu(&their_samples)));
    }
    theirs.stop();
    let (mut our_rates, mut tcp_rates) = (Vec::new(), Vec::new());
    for round in 0..=ROUNDS {
        let our_rate = ours.stream(STREAM_BYTES, CHUNK_BYTES)?;
        let tcp_rate = tcp::transfer(STREAM_BYTES, CHUNK_BYTES)?;
        if round > 0 {
            our_rates.push(our_rate);
            tcp_rates.push(tcp_rate);
        }
    }
    ours.stop();
    let (our_rate, tcp_rate) = (median(our_rates.into_iter()), median(tcp_rates.into_iter()));
    println!(
        "stream of 1 GiB in {} KiB chunks: dstore-rpc {our_rate:.0} MiB/s, plain TCP {tcp_rate:.0} MiB/s",
        CHUNK_BYTES >> 10
    );
    ratios.push(("rpc-stream-vs-tcp".to_owned(), our_rate / tcp_rate));
    for (name, ratio) in ratios {
        println!("ratio {name} {ratio:.2}");
    }
    Ok(())
}

fn report(name: &str, inflight: usize, samples: &[Sample]) {
    let of = |value: fn(&Sample) -> f64| median(samples.iter().map(value));
    println!(
        "unary, {inflight:4} in flight, {name:10}: {:9.0} calls per CPU second, {:9.0} calls/s, p50 {:6.0} us, p99 {:6.0} us",
        of(Sample::calls_per_cpu_second),
        of(Sample::calls_per_second),
        of(|sample| sample.p50_us),
        of(|sample| sample.p99_us),
    );
}
