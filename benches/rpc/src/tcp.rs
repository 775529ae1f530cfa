//! The yardstick of streams: a loop of `write`, a loop of `read`, and nothing else.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::time::Instant;

/// MiB per second of a transfer over loopback, with buffers of `chunk_bytes` at both ends.
pub(crate) fn transfer(bytes: u64, chunk_bytes: usize) -> anyhow::Result<f64> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let address = listener.local_addr()?;
    let reader = std::thread::spawn(move || -> std::io::Result<u64> {
        let (mut stream, _) = listener.accept()?;
        let mut buffer = vec![0; chunk_bytes];
        let mut received = 0;
        loop {
            match stream.read(&mut buffer)? {
                0 => break,
                count => received += count as u64,
            }
        }
        stream.write_all(&[1])?;
        Ok(received)
    });
    let mut stream = TcpStream::connect(address)?;
    stream.set_nodelay(true)?;
    let chunk = vec![7; chunk_bytes];
    let begun = Instant::now();
    let mut sent = 0;
    while sent < bytes {
        stream.write_all(&chunk)?;
        sent += chunk_bytes as u64;
    }
    stream.shutdown(std::net::Shutdown::Write)?;
    stream.read_exact(&mut [0])?;
    let seconds = begun.elapsed().as_secs_f64();
    let received = reader.join().expect("the reader does not panic")?;
    anyhow::ensure!(received == sent, "{received} of {sent} bytes arrived");
    Ok(sent as f64 / (1 << 20) as f64 / seconds)
}
