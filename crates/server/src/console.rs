//! What the program says on its standard output.

use std::io::Write;

/// Says `text`, which ends its own lines. Whoever reads it may be gone, which is no reason to stop.
pub fn say(text: &str) {
    let mut out = std::io::stdout().lock();
    let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
}
