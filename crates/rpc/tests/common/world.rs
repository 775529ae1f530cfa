//! A dialing node `a` and an accepting node `b` with a wire between them, driven by text commands.
//!
//! `a` is a whole channel; `b` is the accepted connection of the moment. Bytes travel only when a command says so.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use dstore_rpc::frame::{Decoder, FLAG_END, Kind};
use dstore_rpc::{
    Action, Admission, CallOptions, Channel, ChannelState, ClusterId, Code, Config, Connection, Entropy, Event,
    Execution, Identity, Incarnation, Lane, LinkId, NodeId, RequestId, Route, Secret, Status, StreamId, TraceId,
};

/// How bytes reach the other end.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Delivery {
    /// As they were sent.
    Whole,
    /// One by one.
    ByteByByte,
}

/// The nodes and the wire.
pub(crate) struct World {
    delivery: Delivery,
    start: Instant,
    now: Instant,
    a: Channel,
    b: Option<Connection>,
    b_config: Arc<Config>,
    b_admission: Admission,
    link: LinkId,
    links: u64,
    a_to_b: BytesMut,
    b_to_a: BytesMut,
    /// Ids as the nodes gave them, by their number.
    requests: Vec<(char, RequestId)>,
    streams: Vec<(char, StreamId)>,
    calls: Vec<dstore_rpc::CallId>,
    b_calls: Vec<dstore_rpc::CallId>,
    out: Vec<String>,
}

fn identity(cluster: u128, node: u64) -> Identity {
    Identity { cluster: ClusterId(cluster), node: NodeId(node), incarnation: Incarnation(1) }
}

fn config(cluster: u128, node: u64, secret: &str) -> Config {
    Config::new(identity(cluster, node), Secret::new(secret.as_bytes()).expect("long enough"))
}

/// The value of `key=` among the words of a command.
fn option<'a>(words: &[&'a str], key: &str) -> Option<&'a str> {
    words.iter().find_map(|word| word.strip_prefix(key)?.strip_prefix('='))
}

fn number<T: std::str::FromStr>(text: &str) -> T {
    text.parse().unwrap_or_else(|_| panic!("{text} is not a number"))
}

fn millis(text: &str) -> Duration {
    Duration::from_millis(number(text.strip_suffix("ms").expect("times end in ms")))
}

fn set_limits(config: &mut Config, words: &[&str], prefix: &str) {
    let limit = |name: &str| option(words, &format!("{prefix}{name}")).map(number::<usize>);
    let limits = &mut config.limits;
    let set = |place: &mut usize, name| *place = limit(name).unwrap_or(*place);
    set(&mut limits.body_bytes_max, "body");
    set(&mut limits.calls_inflight_max, "calls");
    set(&mut limits.requests_inflight_max, "requests");
    set(&mut limits.request_bytes_inflight_max, "request_bytes");
    set(&mut limits.output_bytes_max, "output");
    set(&mut limits.oneway_backlog_bytes_max, "oneway");
    set(&mut limits.streams_max, "streams");
    limits.stream_window_bytes = limit("window").map_or(limits.stream_window_bytes, |bytes| bytes as u32);
}

impl World {
    #[allow(clippy::disallowed_methods)]
    pub(crate) fn new(delivery: Delivery) -> World {
        let now = Instant::now();
        let mut world = World {
            delivery,
            start: now,
            now,
            a: Channel::new(
                Arc::new(config(7, 1, "the secret of seven")),
                Admission::default(),
                Entropy::new([0; 32]),
                Route { lane: Lane::Messages, expected: None, links_above: LinkId(0) },
            ),
            b: None,
            b_config: Arc::new(config(7, 2, "the secret of seven")),
            b_admission: Admission::default(),
            link: LinkId(0),
            links: 0,
            a_to_b: BytesMut::new(),
            b_to_a: BytesMut::new(),
            requests: Vec::new(),
            streams: Vec::new(),
            calls: Vec::new(),
            b_calls: Vec::new(),
            out: Vec::new(),
        };
        world.setup(&[]);
        world
    }

    /// Runs a command and returns the lines it printed.
    pub(crate) fn run(&mut self, command: &str) -> Vec<String> {
        let words: Vec<&str> = command.split_whitespace().collect();
        match words[0] {
            "setup" => self.setup(&words[1..]),
            "up" => self.up(&words[1..]),
            "accept" => self.accept(),
            "refuse" => self.a.handle_lost(self.now, self.link, "connection refused"),
            "lose" => self.lose(),
            "lose-b" => {
                let now = self.now;
                self.b.iter_mut().for_each(|b| b.handle_lost(now, "connection reset"));
            }
            "pull" => self.pull(true),
            "drop" => {
                self.a_to_b.clear();
                self.b_to_a.clear();
            }
            "flip" => self.flip(number(words[1])),
            "inject" => self.inject(&words[1..]),
            "run" => self.deliver_all(true),
            "wait" => self.wait(millis(words[1])),
            "a" | "b" => self.act(words[0].as_bytes()[0] as char, &words[1..]),
            other => panic!("unknown command {other}"),
        }
        self.report();
        std::mem::take(&mut self.out)
    }

    fn setup(&mut self, words: &[&str]) {
        let word = |key| option(words, key);
        let mut a = config(7, 1, "the secret of seven");
        set_limits(&mut a, words, "a.");
        let lane = if word("lane") == Some("bulk") { Lane::Bulk } else { Lane::Messages };
        let expected = word("expect").map(|node| NodeId(number(node)));
        let route = Route { lane, expected, links_above: LinkId(0) };
        self.a = Channel::new(Arc::new(a), Admission::default(), Entropy::new([0; 32]), route);
        let secret = word("secret").unwrap_or("the secret of seven");
        let (cluster, node) = (word("cluster").map_or(7, number), word("node").map_or(2, number));
        let mut b = config(cluster, node, secret);
        set_limits(&mut b, words, "b.");
        self.b_config = Arc::new(b);
        self.b_admission = Admission::new(word("server").map_or(1000, number), 1 << 20);
        self.b = None;
    }

    /// An established connection, without the details.
    fn up(&mut self, words: &[&str]) {
        self.setup(words);
        self.a.connect(self.now);
        self.report();
        self.accept();
        self.deliver_all(false);
        self.out.retain(|line| !line.starts_with("dial"));
    }

    fn accept(&mut self) {
        self.links += 1;
        let (config, admission) = (self.b_config.clone(), self.b_admission.clone());
        self.b = Some(Connection::accept(config, admission, self.now, LinkId(self.links), [9; 32]));
        self.a_to_b.clear();
        self.b_to_a.clear();
    }

    fn lose(&mut self) {
        self.a_to_b.clear();
        self.b_to_a.clear();
        self.a.handle_lost(self.now, self.link, "connection reset");
        if let Some(b) = &mut self.b {
            b.handle_lost(self.now, "connection reset");
        }
    }

    /// Moves what the nodes want to send onto the wire.
    fn pull(&mut self, print: bool) {
        let mut pieces = BytesMut::new();
        while let Some(piece) = self.a.poll_output(self.now, self.link) {
            pieces.extend_from_slice(&piece);
        }
        self.print_frames('a', &pieces, print);
        self.a_to_b.extend_from_slice(&pieces);
        pieces.clear();
        while let Some(piece) = self.b.as_mut().and_then(|b| b.poll_output(self.now)) {
            pieces.extend_from_slice(&piece);
        }
        self.print_frames('b', &pieces, print);
        self.b_to_a.extend_from_slice(&pieces);
    }

    fn print_frames(&mut self, from: char, mut pieces: &[u8], print: bool) {
        let to = if from == 'a' { 'b' } else { 'a' };
        let mut decoder = Decoder::new(usize::MAX >> 1);
        while let Some(frame) = decoder.next(&mut pieces).expect("nodes send sound frames") {
            let header = frame.header;
            let mut line = format!("{from}>{to} {:?}", header.kind);
            if header.id != 0 {
                line += &format!(" {}", header.id);
            }
            if header.method != 0 {
                line += &format!(" method={}", header.method);
            }
            if header.timeout_us != 0 {
                line += &format!(" timeout={}us", header.timeout_us);
            }
            if header.trace != 0 {
                line += &format!(" trace={}", header.trace);
            }
            if header.flags & FLAG_END != 0 {
                line += " end";
            }
            if header.kind == Kind::StreamCredit {
                line += &format!(" {}", u32::from_le_bytes(frame.body[..].try_into().expect("four bytes")));
            } else if !frame.body.is_empty() {
                line += &format!(" {} bytes", frame.body.len());
            }
            if print {
                self.out.push(line);
            }
        }
        assert_eq!(decoder.held_bytes(), 0, "output ends with a whole frame");
    }

    /// Delivers until nothing moves.
    fn deliver_all(&mut self, print: bool) {
        loop {
            self.pull(print);
            if self.a_to_b.is_empty() && self.b_to_a.is_empty() {
                return;
            }
            let (to_b, to_a) = (self.a_to_b.split(), self.b_to_a.split());
            for bytes in self.pieces(&to_b) {
                if let Some(b) = &mut self.b {
                    b.handle_input(self.now, bytes);
                }
            }
            for bytes in self.pieces(&to_a) {
                self.a.handle_input(self.now, self.link, bytes);
            }
            self.report();
        }
    }

    fn pieces<'b>(&self, bytes: &'b [u8]) -> Vec<&'b [u8]> {
        match self.delivery {
            Delivery::Whole if bytes.is_empty() => Vec::new(),
            Delivery::Whole => vec![bytes],
            Delivery::ByteByByte => bytes.chunks(1).collect(),
        }
    }

    fn flip(&mut self, at: usize) {
        self.a_to_b[at] ^= 1;
    }

    /// Frames from `a` that a correct node would not send.
    fn inject(&mut self, words: &[&str]) {
        let kind = Kind::ALL.into_iter().find(|kind| format!("{kind:?}") == words[0]).expect("a frame kind");
        let mut header = dstore_rpc::frame::Header::new(kind, option(words, "id").map_or(0, number));
        header.flags = option(words, "flags").map_or(0, number);
        let body = option(words, "body").unwrap_or("");
        dstore_rpc::frame::encode(&header, body.as_bytes(), &mut self.a_to_b);
    }

    fn wait(&mut self, time: Duration) {
        let end = self.now + time;
        loop {
            let a_next = self.a.poll_timeout();
            let b_next = self.b.as_mut().and_then(Connection::poll_timeout);
            let Some(next) = [a_next, b_next].into_iter().flatten().min().filter(|next| *next <= end) else { break };
            self.now = self.now.max(next);
            self.a.handle_timeout(self.now);
            if let Some(b) = &mut self.b {
                b.handle_timeout(self.now);
            }
            self.report();
        }
        self.now = end;
    }

    fn act(&mut self, node: char, words: &[&str]) {
        let now = self.now;
        match words[0] {
            "connect" => self.a.connect(now),
            "close" if node == 'a' => self.a.shut(now, "the operator wished so"),
            "close" => self.b.iter_mut().for_each(|b| b.close(now, "the operator wished so")),
            "readdress" => self.a.readdress(now),
            "state" => self.print_state(),
            "stats" => self.print_stats(node),
            "call" => self.call(node, words),
            "cancel" => {
                let call = self.calls[number::<usize>(words[1]) - 1];
                self.a.cancel(now, call);
            }
            "send" => {
                let (method, body) = (number(words[1]), Bytes::copy_from_slice(words[2].as_bytes()));
                let sent = match node {
                    'a' => self.a.send(now, method, body, TraceId(0)),
                    _ => self.b.as_mut().expect("b is there").send(method, body, TraceId(0)),
                };
                if !sent {
                    self.out.push("dropped".to_owned());
                }
            }
            "answer" => self.answer(node, words[1], Ok(Bytes::copy_from_slice(words[2].as_bytes()))),
            "fail" => {
                let code = Code::ALL.into_iter().find(|code| format!("{code:?}") == words[2]).expect("a code");
                let status = match code {
                    Code::Application => Status::application(Bytes::from_static(b"details"), "it did not work"),
                    _ => Status::new(code, Execution::NotExecuted, "not here"),
                };
                self.answer(node, words[1], Err(status));
            }
            _ => self.act_on_stream(node, words),
        }
    }

    fn call(&mut self, node: char, words: &[&str]) {
        let (method, body) = (number(words[1]), Bytes::copy_from_slice(words[2].as_bytes()));
        let deadline = option(words, "timeout").map(|timeout| self.now + millis(timeout));
        let options = CallOptions { deadline, trace: TraceId(option(words, "trace").map_or(0, number)) };
        match node {
            'a' => self.calls.push(self.a.call(self.now, method, body, options)),
            _ => {
                let b = self.b.as_mut().expect("b is there");
                self.b_calls.push(b.call(self.now, method, body, options));
            }
        }
    }

    fn answer(&mut self, node: char, number_text: &str, result: Result<Bytes, Status>) {
        let wanted: u64 = number(number_text);
        let found = self.requests.iter().rev().find(|(at, id)| *at == node && id.get() == wanted);
        let id = found.expect("the request came").1;
        let in_time = match node {
            'a' => self.a.answer(self.now, id, result),
            _ => self.b.as_mut().expect("b is there").answer(self.now, id, result),
        };
        if !in_time {
            self.out.push("nobody waits for it".to_owned());
        }
    }

    fn act_on_stream(&mut self, node: char, words: &[&str]) {
        let now = self.now;
        let body = words.get(2).map_or(Bytes::new(), |body| Bytes::copy_from_slice(body.as_bytes()));
        if words[0] == "open" {
            let stream = self.a.open_stream(now, number(words[1]), body, TraceId(0));
            return self.streams.push(('a', stream));
        }
        let wanted: u64 = number(words[1]);
        let found = self.streams.iter().rev().find(|(at, id)| *at == node && id.get() == wanted);
        let stream = found.expect("the stream was opened").1;
        let bytes: usize = words.get(2).map_or(0, |bytes| bytes.parse().unwrap_or(0));
        let chunk = Bytes::from(vec![b'.'; bytes]);
        let reset = Status::new(Code::Cancelled, Execution::MayHaveExecuted, "enough");
        let result = match (words[0], node, &mut self.b) {
            ("chunk", 'a', _) => self.a.stream_send(now, stream, chunk),
            ("chunk", _, Some(b)) => b.stream_send(stream, chunk),
            ("end", 'a', _) => self.a.stream_end(now, stream),
            ("end", _, Some(b)) => b.stream_end(stream),
            ("consume", 'a', _) => {
                self.a.stream_consumed(now, stream, bytes);
                Ok(())
            }
            ("consume", _, Some(b)) => {
                b.stream_consumed(stream, bytes);
                Ok(())
            }
            ("reset", 'a', _) => {
                self.a.stream_reset(now, stream, reset);
                Ok(())
            }
            ("reset", _, Some(b)) => {
                b.stream_reset(stream, reset);
                Ok(())
            }
            (other, ..) => panic!("unknown action {other}"),
        };
        if let Err(error) = result {
            self.out.push(format!("refused: {error}"));
        }
    }

    fn print_state(&mut self) {
        let start = self.start;
        self.out.push(match self.a.state() {
            ChannelState::Idle => "idle".to_owned(),
            ChannelState::Connecting { failures } => format!("connecting after {failures} failures"),
            ChannelState::Up(peer) => format!("up to {}, {}", peer.identity.node, peer.lane),
            ChannelState::Down { failures, retry_at, why } => {
                let at = retry_at.saturating_duration_since(start).as_millis();
                format!("down after {failures} failures until {at}ms: {why}")
            }
        });
    }

    fn print_stats(&mut self, node: char) {
        let (metrics, inflight) = match (node, &self.b) {
            ('a', _) => (self.a.metrics(), self.a.connection().map_or(0, Connection::requests_inflight)),
            (_, Some(b)) => (b.metrics().clone(), b.requests_inflight()),
            (_, None) => return,
        };
        self.out.push(format!(
            "requests in flight {inflight}, at the server {}; dropped {}, late replies {}, late answers {}",
            self.b_admission.requests_inflight(),
            metrics.oneway_dropped,
            metrics.replies_late,
            metrics.answers_late
        ));
        for (direction, methods) in [("called", &metrics.called), ("served", &metrics.served)] {
            for (method, counts) in methods.iter() {
                let failed: Vec<String> = Code::ALL
                    .into_iter()
                    .filter(|code| counts.failed(*code) > 0)
                    .map(|code| format!(", {} {}", counts.failed(code), code.name()))
                    .collect();
                self.out.push(format!(
                    "{direction} method {method}: {} begun, {} in flight, {} succeeded{}",
                    counts.started,
                    counts.inflight,
                    counts.succeeded,
                    failed.concat()
                ));
            }
        }
    }

    /// Prints what happened since the last report, and does what the channel asks for.
    fn report(&mut self) {
        while let Some(event) = self.a.poll_event() {
            self.print_event('a', event);
        }
        while let Some(event) = self.b.as_mut().and_then(Connection::poll_event) {
            self.print_event('b', event);
        }
        while let Some(action) = self.a.poll_action() {
            match action {
                Action::Dial(link) => {
                    self.link = link;
                    self.out.push(format!("dial {}", link.0));
                }
                Action::Hangup { link, last } => {
                    self.out.push(format!("hang up {}", link.0));
                    self.print_frames('a', &last, true);
                    self.a_to_b.extend_from_slice(&last);
                }
            }
        }
    }

    fn print_event(&mut self, node: char, event: Event) {
        let at = self.now.saturating_duration_since(self.start).as_millis();
        let text = |body: &Bytes| match body.len() {
            0..=40 => format!("{:?}", String::from_utf8_lossy(body)),
            long => format!("{long} bytes"),
        };
        let line = match event {
            Event::Established(peer) => {
                format!("established with {} of cluster {}", peer.identity.node, peer.identity.cluster.0)
            }
            Event::Completed { call, result: Ok(body) } => format!("call {} succeeded {}", call.get(), text(&body)),
            Event::Completed { call, result: Err(status) } => format!("call {} failed: {status}", call.get()),
            Event::Request { id, method, body, deadline, trace } => {
                self.requests.push((node, id));
                let deadline = deadline.map_or(String::new(), |deadline| {
                    format!(" until {}ms", deadline.saturating_duration_since(self.start).as_millis())
                });
                let trace = if trace.0 == 0 { String::new() } else { format!(" trace {}", trace.0) };
                format!("request {} of method {method} {}{deadline}{trace}", id.get(), text(&body))
            }
            Event::Cancelled { id } => format!("nobody waits for request {}", id.get()),
            Event::Message { method, body, .. } => format!("message of method {method} {}", text(&body)),
            Event::StreamOpened { stream, method, body, .. } => {
                self.streams.push((node, stream));
                format!("stream {} opened for method {method} {}", stream.get(), text(&body))
            }
            Event::StreamChunk { stream, body, end } => {
                let end = if end { ", the last" } else { "" };
                format!("stream {} brings {} bytes{end}", stream.get(), body.len())
            }
            Event::StreamWritable { stream } => format!("stream {} can be written", stream.get()),
            Event::StreamClosed { stream, result: Ok(()) } => format!("stream {} is over", stream.get()),
            Event::StreamClosed { stream, result: Err(status) } => format!("stream {} failed: {status}", stream.get()),
            Event::Closed { reason } => format!("over: {reason}"),
        };
        self.out.push(format!("{at}ms {node}: {line}"));
    }
}
