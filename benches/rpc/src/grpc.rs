//! `tonic`: a server on a single-threaded runtime of its own thread, and a client on another.

use std::net::SocketAddr;
use std::time::Instant;

use bytes::Bytes;
use tokio::runtime::{Builder, Runtime};
use tokio::sync::oneshot;
use tonic::transport::{Channel, Server};
use tonic::{Request, Response, Status};

use crate::Blob;
use crate::measure::{Sample, Stopwatch};

mod generated {
    #![allow(missing_docs, unreachable_pub, clippy::all)]
    include!(concat!(env!("OUT_DIR"), "/bench.Echo.rs"));
}

use generated::echo_client::EchoClient;
use generated::echo_server::{Echo, EchoServer};

struct Service;

#[tonic::async_trait]
impl Echo for Service {
    async fn echo(&self, request: Request<Blob>) -> Result<Response<Blob>, Status> {
        Ok(Response::new(request.into_inner()))
    }
}

/// Server and client.
pub(crate) struct Pair {
    runtime: Runtime,
    client: EchoClient<Channel>,
    stop: oneshot::Sender<()>,
    server: std::thread::JoinHandle<()>,
}

fn single_threaded() -> std::io::Result<Runtime> {
    Builder::new_current_thread().enable_all().build()
}

impl Pair {
    pub(crate) fn start() -> anyhow::Result<Pair> {
        let listener = std::net::TcpListener::bind("127.0.0.1:0")?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let (stop, stopped) = oneshot::channel();
        let server = std::thread::spawn(move || {
            let runtime = single_threaded().expect("a runtime");
            runtime.block_on(async {
                let listener = tokio::net::TcpListener::from_std(listener).expect("it is non-blocking");
                let incoming = tonic::transport::server::TcpIncoming::from(listener).with_nodelay(Some(true));
                let serving = Server::builder().max_concurrent_streams(4096).add_service(EchoServer::new(Service));
                let until = async { drop(stopped.await) };
                serving.serve_with_incoming_shutdown(incoming, until).await.expect("it serves until told to stop");
            });
        });
        let runtime = single_threaded()?;
        let client = runtime.block_on(connect(address))?;
        Ok(Pair { runtime, client, stop, server })
    }

    /// So many calls, so many of them at a time.
    pub(crate) fn echo(&self, payload: &Bytes, inflight: usize, calls: usize) -> anyhow::Result<Sample> {
        let per_task = calls / inflight;
        self.runtime.block_on(async {
            let local = tokio::task::LocalSet::new();
            let watch = std::rc::Rc::new(std::cell::RefCell::new(Stopwatch::start(calls)));
            let tasks: Vec<_> = (0..inflight)
                .map(|_| {
                    let (mut client, bytes, watch) = (self.client.clone(), payload.clone(), watch.clone());
                    local.spawn_local(async move {
                        for _ in 0..per_task {
                            let begun = Instant::now();
                            let reply = client.echo(Blob { bytes: bytes.clone() }).await?;
                            anyhow::ensure!(reply.into_inner().bytes == bytes, "another reply");
                            watch.borrow_mut().ended(begun.elapsed());
                        }
                        Ok(())
                    })
                })
                .collect();
            local
                .run_until(async {
                    for task in tasks {
                        task.await??;
                    }
                    anyhow::Ok(())
                })
                .await?;
            let watch = std::rc::Rc::into_inner(watch).expect("every task has ended");
            Ok(watch.into_inner().stop())
        })
    }

    pub(crate) fn stop(self) {
        let _ = self.stop.send(());
        drop(self.client);
        drop(self.runtime);
        self.server.join().expect("the server ends well");
    }
}

async fn connect(address: SocketAddr) -> anyhow::Result<EchoClient<Channel>> {
    let endpoint = tonic::transport::Endpoint::from_shared(format!("http://{address}"))?.tcp_nodelay(true);
    Ok(EchoClient::new(endpoint.connect().await?))
}
