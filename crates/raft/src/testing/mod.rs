//! What the tests of this crate share: a host around the state machine, the golden-script runner, the random explorer.

mod explorer;
mod host;
mod hostile;
mod oracle;
mod scripts;
mod world;
