//! Timers: insert, move, remove, from outside and from inside their own callbacks.
//!
//! `cargo run --release -p dstore-net --example timers` shows a metronome that moves itself, a deadline that every beat puts
//! off, and a timer that the last beat takes away.

#![allow(clippy::print_stdout)]

use std::time::{Duration, Instant};

use dstore_net::*;

const BEAT: Duration = Duration::from_millis(100);
const BEATS: u32 = 10;

enum What {
    Beat(u32),
    /// Due when no beat came for two beats' time.
    Silence,
    /// Would be due after a minute.
    Never,
}

struct Metronome {
    started: Instant,
    silence: Option<TimerId>,
    never: Option<TimerId>,
}

impl Application for Metronome {
    type Mail = ();
    type Timer = What;

    fn on_start(&mut self, net: &mut Net<Self>) {
        let now = net.now();
        net.insert_timer(now + BEAT, What::Beat(1));
        self.silence = Some(net.insert_timer(now + 2 * BEAT, What::Silence));
        self.never = Some(net.insert_timer(now + Duration::from_secs(60), What::Never));
    }

    fn on_mail(&mut self, _: &mut Net<Self>, (): ()) {}

    fn on_timer(&mut self, net: &mut Net<Self>, _: TimerId, what: What) {
        let now = net.now();
        let at = now.saturating_duration_since(self.started);
        match what {
            What::Beat(number) => {
                println!("{at:?}: beat {number}");
                if let Some(silence) = self.silence {
                    net.update_timer(silence, now + 2 * BEAT);
                }
                if number < BEATS {
                    net.insert_timer(now + BEAT, What::Beat(number + 1));
                } else if let Some(never) = self.never.take() {
                    net.remove_timer(never);
                }
            }
            What::Silence => {
                println!("{at:?}: silence; {} timers are left", net.timer_count());
                net.stop(Duration::ZERO);
            }
            What::Never => println!("{at:?}: this should not have happened"),
        }
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let metronome = Metronome { started: Instant::now(), silence: None, never: None };
    EventLoop::new(LoopConfig::default(), metronome)?.run()?;
    Ok(())
}
