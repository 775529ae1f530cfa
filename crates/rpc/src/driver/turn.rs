//! How what happened gets to the application: settling slots, and what is done once per turn.
//!
//! Nothing here runs inside a callback of the application, so callbacks never nest.

use std::time::Instant;

use dstore_net::Net;

use super::rpc::CallHandle;
use super::slot::{Side, Slot, key_of};
use super::{Host, LinkEvent, StreamEvent};
use crate::channel::Action;
use crate::connection::{CloseReason, Event, LinkId, TraceId};
use crate::handshake::Peer;
use crate::service::{Incoming, Origin};

/// Rounds of tasks waking tasks within one turn; what is then still ready waits for the next turn, which comes at once.
const ROUNDS_MAX: usize = 32;

/// Delivers what happened in a slot, does what it asks for, and sends what it has to say.
pub(super) fn settle<A: Host>(app: &mut A, net: &mut Net<A>, link: LinkId) {
    settle_slot(app, net, key_of(link));
}

fn settle_slot<A: Host>(app: &mut A, net: &mut Net<A>, key: u64) {
    loop {
        let Some(slot) = app.rpc().slots.get_mut(&key) else { return };
        if let Some(event) = slot.poll_event() {
            deliver(app, net, key, event);
        } else if let Some(action) = slot.poll_action() {
            match action {
                Action::Dial(link) => app.rpc().dial(net, key, link),
                Action::Hangup { link, last } => app.rpc().hang_up(net, key, link, last),
            }
        } else if slot.retired {
            return app.rpc().bury(net, key);
        } else {
            return app.rpc().pump(net, key);
        }
    }
}

fn deliver<A: Host>(app: &mut A, net: &mut Net<A>, key: u64, event: Event) {
    match event {
        Event::Completed { call, result } => {
            if let Some(done) = app.rpc().waiting.remove(&CallHandle { key, call }) {
                done(app, net, result);
            }
        }
        Event::Request { id: request, method, body, deadline, trace } => {
            incoming(app, net, key, (deadline, trace), Incoming::Request { request, method, body });
        }
        Event::Message { method, body, trace } => {
            incoming(app, net, key, (None, trace), Incoming::Message { method, body });
        }
        Event::StreamOpened { stream, method, body, trace } => {
            incoming(app, net, key, (None, trace), Incoming::Stream { stream, method, body });
        }
        Event::Cancelled { id } => app.on_cancelled(net, id),
        Event::StreamChunk { stream, body, end } => app.on_stream(net, StreamEvent::Chunk { stream, body, end }),
        Event::StreamWritable { stream } => app.on_stream(net, StreamEvent::Writable(stream)),
        Event::StreamClosed { stream, result } => app.on_stream(net, StreamEvent::Closed(stream, result)),
        Event::Established(peer) => established(app, net, key, peer),
        Event::Closed { reason } => closed(app, net, key, reason),
    }
}

fn incoming<A: Host>(
    app: &mut A,
    net: &mut Net<A>,
    key: u64,
    (deadline, trace): (Option<Instant>, TraceId),
    incoming: Incoming,
) {
    let node = app.rpc().slots.get(&key).and_then(|slot| slot.node).expect("only established peers ask");
    app.on_incoming(net, &Origin { node, deadline, trace }, incoming);
}

fn established<A: Host>(app: &mut A, net: &mut Net<A>, key: u64, peer: Peer) {
    let Some(slot) = app.rpc().slots.get_mut(&key) else { return };
    (slot.node, slot.lane) = (Some(peer.identity.node), Some(peer.lane));
    let dialed = matches!(slot.side, Side::Dialing(_));
    app.on_link(net, &LinkEvent::Up { peer, dialed });
}

fn closed<A: Host>(app: &mut A, net: &mut Net<A>, key: u64, reason: CloseReason) {
    let Some(slot) = app.rpc().slots.get_mut(&key) else { return };
    let dialed = matches!(slot.side, Side::Dialing(_));
    slot.retired |= !dialed;
    let event = LinkEvent::Down { node: slot.node, lane: slot.lane, dialed, reason };
    app.on_link(net, &event);
}

/// To be called by [`dstore_net::Application::end_of_turn`], and by `on_start` for what was asked for before the loop ran: runs the
/// tasks that are ready, and sends what calls and answers of this turn left to be sent.
pub fn end_of_turn<A: Host>(app: &mut A, net: &mut Net<A>) {
    let now = net.now();
    app.rpc().commands.set_now(now);
    for round in 0.. {
        let mut worked = app.rpc().tasks.run_ready();
        worked |= app.rpc().run_commands(now);
        while let Some((done, status)) = app.rpc().failed.pop_front() {
            worked = true;
            done(app, net, Err(status));
        }
        for key in std::mem::take(&mut app.rpc().touched) {
            worked = true;
            if let Some(slot) = app.rpc().slots.get_mut(&key) {
                slot.touched = false;
            }
            settle_slot(app, net, key);
        }
        if !worked || round == ROUNDS_MAX {
            break;
        }
    }
    for key in app.rpc().blocked.clone() {
        app.rpc().pump(net, key);
    }
    app.rpc().arm_timer(net);
    app.rpc().turn += 1;
}

/// To be called when the [`RpcTimer`](super::RpcTimer) fires.
pub fn on_timer<A: Host>(app: &mut A, net: &mut Net<A>) {
    let now = net.now();
    let rpc = app.rpc();
    rpc.timer = None;
    rpc.timer_stale = true;
    rpc.wake_sleepers(now);
    let due = |(key, slot): (&u64, &mut Slot)| {
        let due = slot.socket.is_none() && slot.poll_timeout().is_some_and(|timeout| timeout <= now);
        due.then(|| slot.handle_timeout(now)).map(|()| *key)
    };
    let keys: Vec<u64> = rpc.slots.iter_mut().filter_map(due).collect();
    for key in keys {
        rpc.touch(key);
    }
}
