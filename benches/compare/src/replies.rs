//! [`Replies`]: counts whole replies in a stream of bytes without keeping them.

use anyhow::bail;

/// The longest line that is the head of a reply.
const LINE_BYTES_MAX: usize = 512;

/// Where in the stream of replies a connection is.
#[derive(Debug, Default)]
pub struct Replies {
    /// The beginning of a line whose end has not come.
    line: Vec<u8>,
    /// Bytes of a string, with the line end behind it, that are still to come.
    skip: usize,
    /// Parts of the reply that are still to come beyond the one at hand.
    parts: usize,
}

impl Replies {
    /// Takes the next bytes, and tells how many replies ended with them.
    ///
    /// # Errors
    ///
    /// A reply is an error, or nothing, or these are no replies.
    pub fn take(&mut self, mut input: &[u8]) -> anyhow::Result<usize> {
        let mut whole = 0;
        while !input.is_empty() {
            if self.skip > 0 {
                let skipped = self.skip.min(input.len());
                (self.skip, input) = (self.skip - skipped, &input[skipped..]);
                if self.skip == 0 {
                    whole += self.end_part();
                }
                continue;
            }
            let Some(end) = input.iter().position(|byte| *byte == b'\n') else {
                self.line.extend_from_slice(input);
                anyhow::ensure!(self.line.len() <= LINE_BYTES_MAX, "a line of a reply does not end");
                break;
            };
            let head = if self.line.is_empty() {
                self.head(&input[..end])?
            } else {
                let mut line = std::mem::take(&mut self.line);
                line.extend_from_slice(&input[..end]);
                self.head(&line)?
            };
            input = &input[end + 1..];
            if head {
                whole += self.end_part();
            }
        }
        Ok(whole)
    }

    /// Reads the head of a reply, and says whether it is all of it.
    fn head(&mut self, line: &[u8]) -> anyhow::Result<bool> {
        let text = String::from_utf8_lossy(line);
        let text = text.trim_end();
        let number = || text[1..].parse::<usize>().ok();
        match (line.first(), number()) {
            (Some(b'+' | b':'), _) => Ok(true),
            (Some(b'$'), Some(length)) => {
                self.skip = length + 2;
                Ok(false)
            }
            (Some(b'*'), Some(0)) => Ok(true),
            (Some(b'*'), Some(parts)) => {
                self.parts += parts;
                Ok(false)
            }
            _ => bail!("the server answered: {text}"),
        }
    }

    fn end_part(&mut self) -> usize {
        if self.parts == 0 {
            return 1;
        }
        self.parts -= 1;
        usize::from(self.parts == 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replies_are_counted_however_they_are_cut() {
        let stream = b"+OK\r\n$3\r\na\nb\r\n*2\r\n$0\r\n\r\n:7\r\n*0\r\n+OK\r\n";
        for cut in 0..stream.len() {
            let mut replies = Replies::default();
            let first = replies.take(&stream[..cut]).unwrap();
            assert_eq!(first + replies.take(&stream[cut..]).unwrap(), 5, "cut at {cut}");
        }
    }

    #[test]
    fn what_is_no_answer_to_a_benchmark_is_an_error() {
        for answer in ["-ERR no\r\n", "$-1\r\n", "what\r\n"] {
            assert!(Replies::default().take(answer.as_bytes()).is_err(), "{answer}");
        }
    }
}
