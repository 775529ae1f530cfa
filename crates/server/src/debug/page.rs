//! [`Page`]: much text on standard output, for a reader who may stop reading.

use std::io::{self, BufWriter, ErrorKind, StdoutLock, Write};
use std::process::ExitCode;

/// Standard output, in large pieces.
pub type Page = BufWriter<StdoutLock<'static>>;

/// Prints what `text` writes. A reader who has seen enough (`| head`) is no error.
///
/// # Errors
///
/// As `text`.
pub fn print(text: impl FnOnce(&mut Page) -> anyhow::Result<ExitCode>) -> anyhow::Result<ExitCode> {
    let mut page = BufWriter::with_capacity(1 << 16, io::stdout().lock());
    let result = text(&mut page).and_then(|code| Ok(page.flush().map(|()| code)?));
    match result {
        Err(error) if error.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == ErrorKind::BrokenPipe) => {
            // What is left in the page has nowhere to go.
            let _unwritten = page.into_parts();
            Ok(ExitCode::SUCCESS)
        }
        result => result,
    }
}
