//! Metrics and health over HTTP, for whoever watches a node: `admin_listen`.
//!
//! | path | answer |
//! |---|---|
//! | `/metrics` | everything that is counted, for Prometheus |
//! | `/healthz` | 200 while the process works; 503 once it must stop |
//! | `/readyz` | 200 when clients can be sent here; 503 with the reason otherwise |
//! | `/status` | how the node stands, as JSON |
//!
//! It lives on the node's own loop, so an answer is also proof that the loop turns. All it says comes from one
//! [`Snapshot`], taken when the request is processed. Nothing can be changed here, and nothing is secret: there is no
//! password, and only `GET`.

mod http;
mod metrics;
mod snapshot;

use std::convert::Infallible;
use std::net::SocketAddr;
use std::time::Duration;

use dstore_net::{Address, Application, ConnectionConfig, Context, Decoded, ListenerConfig, ListenerId, Net, Protocol};

use self::http::{HEAD_BYTES_MAX, Refusal, Request, Response};
pub use self::snapshot::{MemberSnapshot, RangeSnapshot, Snapshot};

/// A watcher that says nothing for so long is forgotten; scrapers come every few seconds to a minute.
const IDLE_TIMEOUT: Duration = Duration::from_secs(120);

/// An application that can be watched.
pub trait Admin: Application {
    /// How it stands.
    fn snapshot(&self) -> Snapshot;
}

/// Lets watchers in at `address`.
///
/// # Errors
///
/// The address cannot be listened on.
pub fn listen<A: Admin>(net: &mut Net<A>, address: SocketAddr) -> std::io::Result<ListenerId> {
    let connection = ConnectionConfig {
        input_bytes_max: HEAD_BYTES_MAX,
        idle_timeout: Some(IDLE_TIMEOUT),
        close_timeout: Duration::from_secs(5),
        ..ConnectionConfig::default()
    };
    let config = ListenerConfig { connection, ..ListenerConfig::default() };
    net.listen(&Address::Tcp(address), config, |_, _| Some(Watcher { ended: false }))
}

/// One watcher's connection.
struct Watcher {
    /// The last answer was given; the rest of the input has no meaning.
    ended: bool,
}

impl<A: Admin> Protocol<A> for Watcher {
    type Message<'a> = Result<Request, Refusal>;
    type Error = Infallible;

    fn decode(&mut self, input: &[u8]) -> Result<Decoded<Self::Message<'_>>, Infallible> {
        if self.ended {
            return Ok(Decoded::Skip(input.len()));
        }
        Ok(match http::decode(input) {
            Ok(None) => Decoded::Incomplete { needed: 0 },
            Ok(Some((request, length))) => Decoded::Message(Ok(request), length),
            Err(refusal) => Decoded::Message(Err(refusal), input.len()),
        })
    }

    fn process(&mut self, app: &mut A, cx: &mut Context<'_, A>, request: Result<Request, Refusal>) {
        let (response, keep) = match request {
            Ok(request) => (answer(&request.path, &app.snapshot()), request.keep_alive),
            Err(refusal) => (refusal.response(), false),
        };
        cx.write(&response.encode(keep));
        if !keep {
            self.ended = true;
            cx.close();
        }
    }
}

fn answer(path: &str, snapshot: &Snapshot) -> Response {
    let verdict = |healthy: Result<(), String>| match healthy {
        Ok(()) => Response::text(200, "ok\n"),
        Err(why) => Response::text(503, format!("{why}\n")),
    };
    match path {
        "/metrics" => Response { status: 200, content_type: metrics::CONTENT_TYPE, body: metrics::encode(snapshot) },
        "/healthz" => verdict(snapshot.health()),
        "/readyz" => match snapshot.readiness() {
            Ok(()) => {
                let lines: String = snapshot.remarks().iter().map(|remark| format!("{remark}\n")).collect();
                Response::text(200, format!("ok\n{lines}"))
            }
            not_ready => verdict(not_ready),
        },
        "/status" => {
            let mut body = serde_json::to_string_pretty(snapshot).expect("plain data has a JSON form");
            body.push('\n');
            Response { status: 200, content_type: "application/json", body }
        }
        _ => Response::text(404, "there are /metrics, /healthz, /readyz and /status\n"),
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::TcpStream;

    use dstore_net::{LoopConfig, LoopThread};

    use super::*;

    struct Watched;

    impl Application for Watched {
        type Mail = ();
        type Timer = ();
        fn on_mail(&mut self, _: &mut Net<Self>, (): ()) {}
    }

    impl Admin for Watched {
        fn snapshot(&self) -> Snapshot {
            snapshot::sample()
        }
    }

    /// A loop that is watched, and where.
    fn watched() -> (LoopThread<Watched>, SocketAddr) {
        LoopThread::spawn("watched", LoopConfig::default(), |net| {
            let id = listen(net, "127.0.0.1:0".parse().unwrap())?;
            Ok((Watched, net.listener_address(id).and_then(Address::tcp).unwrap()))
        })
        .unwrap()
    }

    /// Says `input`, and hears everything until the other end closes.
    fn exchange(address: SocketAddr, input: &str) -> String {
        let mut stream = TcpStream::connect(address).unwrap();
        stream.write_all(input.as_bytes()).unwrap();
        let mut heard = String::new();
        stream.read_to_string(&mut heard).unwrap();
        heard
    }

    #[test]
    fn each_path_answers_and_one_connection_serves_many_requests() {
        let (server, address) = watched();
        let get = |path: &str, more: &str| format!("GET {path} HTTP/1.1\r\nHost: x\r\n{more}\r\n");
        let close = "Connection: close\r\n";
        let heard = exchange(address, &(get("/healthz", "") + &get("/readyz?verbose=1", "") + &get("/status", close)));
        let statuses: Vec<&str> = heard.lines().filter(|line| line.starts_with("HTTP/1.1")).collect();
        assert_eq!(statuses, ["HTTP/1.1 200 OK"; 3], "{heard}");
        assert!(heard.contains("\"leader\": \"0000000000000002\""), "{heard}");
        let heard = exchange(address, &get("/metrics", close));
        assert!(heard.contains("application/openmetrics-text") && heard.ends_with("# EOF\n"), "{heard}");
        assert!(exchange(address, &get("/", close)).starts_with("HTTP/1.1 404 "));
        server.stop(Duration::ZERO);
        server.join().unwrap();
    }

    #[test]
    fn what_is_no_get_is_refused_and_the_connection_ends() {
        let (server, address) = watched();
        let cases = [
            ("POST /metrics HTTP/1.1\r\n\r\n".to_owned(), "405"),
            ("GET /metrics\r\n\r\n".to_owned(), "400"),
            ("*1\r\n$4\r\nPING\r\n\r\n".to_owned(), "400"),
            (format!("GET / HTTP/1.1\r\nCookie: {}", "x".repeat(HEAD_BYTES_MAX)), "431"),
        ];
        for (input, status) in cases {
            let heard = exchange(address, &input);
            assert!(heard.starts_with(&format!("HTTP/1.1 {status} ")), "{heard}");
            assert!(heard.contains("Connection: close"), "{heard}");
        }
        server.stop(Duration::ZERO);
        server.join().unwrap();
    }
}
