//! The echo servers. All speak the same frames (a length of four bytes, big-endian, then the body), all decode each one and
//! send it back; none gives an answer before it has seen the whole frame.

use std::io::{self, Read, Write};
use std::net::SocketAddr;
use std::process::ExitCode;

use dstore_net::*;
use futures_util::{FutureExt, SinkExt, StreamExt};
use mio::net::{TcpListener, TcpStream};
use mio::{Events, Interest, Poll, Token};
use tokio_util::codec::{Framed, LengthDelimitedCodec};

/// What a server says on its standard output once it listens.
pub(crate) const LISTENING: &str = "listening on ";
const FRAME_BYTES_MAX: usize = 1 << 20;

/// Runs a server until it is killed, or its standard input ends because whoever started it is gone.
pub(crate) fn serve(kind: &str) -> ExitCode {
    std::thread::spawn(|| {
        let ended = io::copy(&mut io::stdin(), &mut io::sink());
        std::process::exit(i32::from(ended.is_err()));
    });
    let result = match kind {
        "ours" => ours(),
        "tokio" => tokio_current(),
        "tokio-multi" => tokio_multi(),
        "bare" => bare(),
        _ => Err(io::Error::other(format!("no server {kind}"))),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{kind}: {error}");
            ExitCode::FAILURE
        }
    }
}

fn any_port() -> SocketAddr {
    ([127, 0, 0, 1], 0).into()
}

/// The length of the frame at the start of `input`, header included, if it is all there.
fn frame(input: &[u8]) -> Result<Option<usize>, String> {
    let Some(header) = input.first_chunk::<4>() else { return Ok(None) };
    let length = u32::from_be_bytes(*header) as usize;
    if length > FRAME_BYTES_MAX {
        return Err(format!("a frame of {length} bytes"));
    }
    Ok((input.len() >= 4 + length).then_some(4 + length))
}

// Ours.

struct Echo;

impl Application for Echo {
    type Mail = ();
    type Timer = ();

    fn on_mail(&mut self, _: &mut Net<Self>, (): ()) {}
}

struct Frames;

impl Protocol<Echo> for Frames {
    type Message<'a> = &'a [u8];
    type Error = String;

    fn decode<'a>(&mut self, input: &'a [u8]) -> Result<Decoded<&'a [u8]>, String> {
        Ok(match frame(input)? {
            Some(length) => Decoded::Message(&input[..length], length),
            None => Decoded::Incomplete { needed: 0 },
        })
    }

    fn process(&mut self, _: &mut Echo, cx: &mut Context<'_, Echo>, frame: &[u8]) {
        cx.write(frame);
    }
}

fn ours() -> io::Result<()> {
    crate::pin(0);
    let mut event_loop = EventLoop::new(LoopConfig::default(), Echo)?;
    let listener = event_loop.net().listen(&any_port().into(), ListenerConfig::default(), |_, _| Some(Frames))?;
    if let Some(Address::Tcp(address)) = event_loop.net().listener_address(listener) {
        println!("{LISTENING}{address}");
    }
    event_loop.run().map(drop).map_err(io::Error::other)
}

// tokio, as its users would write it: a task per connection, frames through `LengthDelimitedCodec`. It flushes when no
// further frame is ready, so pipelined frames leave together.

fn tokio_current() -> io::Result<()> {
    crate::pin(0);
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(tokio_accept())
}

fn tokio_multi() -> io::Result<()> {
    tokio::runtime::Builder::new_multi_thread().enable_all().build()?.block_on(tokio_accept())
}

async fn tokio_accept() -> io::Result<()> {
    let listener = tokio::net::TcpListener::bind(any_port()).await?;
    println!("{LISTENING}{}", listener.local_addr()?);
    loop {
        let (socket, _) = listener.accept().await?;
        socket.set_nodelay(true)?;
        tokio::spawn(async move {
            let codec = LengthDelimitedCodec::builder().max_frame_length(FRAME_BYTES_MAX).new_codec();
            // A connection that breaks is the load generator's business.
            let _ = tokio_echo(Framed::new(socket, codec)).await;
        });
    }
}

async fn tokio_echo(mut framed: Framed<tokio::net::TcpStream, LengthDelimitedCodec>) -> io::Result<()> {
    while let Some(frame) = framed.next().await {
        framed.feed(frame?.freeze()).await?;
        while let Some(Some(frame)) = framed.next().now_or_never() {
            framed.feed(frame?.freeze()).await?;
        }
        SinkExt::<bytes::Bytes>::flush(&mut framed).await?;
    }
    Ok(())
}

// A bare epoll loop: the least that can echo frames. One buffer for everyone, edges, no limits, no timers; what a socket does
// not take at once is kept in a vector and sent on the next edge.

struct Peer {
    stream: TcpStream,
    input: Vec<u8>,
    output: Vec<u8>,
}

fn bare() -> io::Result<()> {
    crate::pin(0);
    const LISTENER: Token = Token(usize::MAX);
    let mut poll = Poll::new()?;
    let mut events = Events::with_capacity(1024);
    let mut listener = TcpListener::bind(any_port())?;
    poll.registry().register(&mut listener, LISTENER, Interest::READABLE)?;
    println!("{LISTENING}{}", listener.local_addr()?);
    let mut peers = slab::Slab::new();
    let mut buffer = vec![0; 64 * 1024];
    loop {
        poll.poll(&mut events, None)?;
        for event in &events {
            if event.token() == LISTENER {
                while let Ok((mut stream, _)) = listener.accept() {
                    stream.set_nodelay(true)?;
                    let entry = peers.vacant_entry();
                    let both = Interest::READABLE | Interest::WRITABLE;
                    poll.registry().register(&mut stream, Token(entry.key()), both)?;
                    entry.insert(Peer { stream, input: Vec::new(), output: Vec::new() });
                }
                continue;
            }
            let key = event.token().0;
            let Some(peer) = peers.get_mut(key) else { continue };
            if !bare_peer(peer, &mut buffer, event.is_read_closed()) {
                peers.remove(key);
            }
        }
    }
}

/// Echoes what there is. `false`: the connection is over.
fn bare_peer(peer: &mut Peer, buffer: &mut [u8], closing: bool) -> bool {
    loop {
        match peer.stream.read(buffer) {
            Ok(0) => return false,
            Ok(count) => {
                if !bare_frames(peer, &buffer[..count]) {
                    return false;
                }
                if count < buffer.len() && !closing {
                    break;
                }
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
            Err(_) => return false,
        }
    }
    bare_send(peer)
}

fn bare_frames(peer: &mut Peer, bytes: &[u8]) -> bool {
    let mut all = bytes;
    let mut joined = std::mem::take(&mut peer.input);
    if !joined.is_empty() {
        joined.extend_from_slice(bytes);
        all = &joined;
    }
    let mut at = 0;
    while at < all.len() {
        match frame(&all[at..]) {
            Ok(Some(length)) => {
                peer.output.extend_from_slice(&all[at..at + length]);
                at += length;
            }
            Ok(None) => break,
            Err(_) => return false,
        }
    }
    if at < all.len() {
        peer.input = all[at..].to_vec();
    }
    true
}

fn bare_send(peer: &mut Peer) -> bool {
    while !peer.output.is_empty() {
        match peer.stream.write(&peer.output) {
            Ok(count) => drop(peer.output.drain(..count)),
            Err(error) => return error.kind() == io::ErrorKind::WouldBlock,
        }
    }
    true
}
