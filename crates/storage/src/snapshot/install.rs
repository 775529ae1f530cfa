//! [`Install`]: takes the chunks of an [`Export`](super::Export) and lets them into an engine in one step.

use super::chunk::{self, Body, ChunkError, Records};
use super::spans::{SpanSum, Spans};
use crate::{Engine, EngineError, WriteOp};

/// Records that an engine keeps beside its data until they are let in. Made by [`Engine::stage`], used by [`Install`].
///
/// Dropping it removes every trace of it. After an error it is only good for dropping.
pub trait Stage: Send {
    /// Takes the next record. Keys ascend and lie within the stage's spans. Writes to the disk.
    ///
    /// # Errors
    /// [`EngineError::Full`] and [`EngineError::Io`]; the data itself is untouched and goes on.
    fn put(&mut self, key: &[u8], value: &[u8]) -> Result<(), EngineError>;

    /// Makes everything written to the engine before this call durable; then replaces all that is in the spans by the
    /// records taken, applies `ops` on top, and makes that durable, in one step. Blocks on the disk.
    ///
    /// Batches written meanwhile must not touch the spans or the keys of `ops`: nothing says which would come first.
    ///
    /// # Errors
    /// [`EngineError::Failed`]: the engine failed; stop the node. A restart finds the old state or the new one. Any other:
    /// the last of the records could not be kept; the data itself is untouched and goes on.
    fn commit(self: Box<Self>, ops: &[WriteOp]) -> Result<(), EngineError>;
}

/// Why an [`Install`] could not go on.
#[derive(Clone, Debug, thiserror::Error)]
pub enum InstallError {
    /// The chunk was refused and nothing was changed; the right one may still come.
    #[error(transparent)]
    Chunk(#[from] ChunkError),
    /// The engine could not keep the records. The install is over. With [`EngineError::Failed`] so is the engine: stop the node.
    /// With [`EngineError::Full`] the data is as it was; try again when there is room.
    #[error(transparent)]
    Engine(#[from] EngineError),
}

/// Takes a snapshot into an engine: chunks one after the other, then [`Install::finish`].
///
/// Dropping it before leaves the engine as it was.
pub struct Install {
    /// Gone after an error of the engine.
    stage: Option<Box<dyn Stage>>,
    id: u64,
    spans: Spans,
    /// The number of the chunk that comes next.
    next: u64,
    /// The key of the newest record. All later ones are above.
    last_key: Vec<u8>,
    sum: SpanSum,
    complete: bool,
}

impl std::fmt::Debug for Install {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut out = f.debug_struct("Install");
        out.field("id", &self.id).field("next", &self.next).field("sum", &self.sum).field("complete", &self.complete);
        out.finish_non_exhaustive()
    }
}

impl Install {
    /// Begins to take snapshot `id` of `spans`. Chunks of any other are refused.
    ///
    /// # Errors
    /// As [`Engine::stage`].
    pub fn begin<E: Engine + ?Sized>(engine: &E, id: u64, spans: Spans) -> Result<Install, EngineError> {
        let stage = Some(engine.stage(&spans)?);
        Ok(Install { stage, id, spans, next: 0, last_key: Vec::new(), sum: SpanSum::default(), complete: false })
    }

    /// Takes the next chunk. True when it was the last one. Writes to the disk.
    ///
    /// # Errors
    /// [`InstallError::Chunk`] when it is not the next chunk of this snapshot, whole; [`InstallError::Engine`] as
    /// [`Stage::put`].
    pub fn add(&mut self, chunk: &[u8]) -> Result<bool, InstallError> {
        let chunk = chunk::parse(chunk)?;
        if chunk.snapshot != self.id {
            return Err(ChunkError::OtherSnapshot { expected: self.id, found: chunk.snapshot }.into());
        }
        if chunk.number < self.next || (chunk.number > self.next && !self.complete) {
            return Err(ChunkError::OutOfTurn { expected: self.next, found: chunk.number }.into());
        }
        if self.complete {
            return Err(ChunkError::AfterEnd { found: chunk.number }.into());
        }
        match chunk.body {
            Body::Spans(spans) => {
                if !spans.iter().cloned().eq(self.spans.iter().map(|span| span.start.as_ref()..span.end.as_ref())) {
                    return Err(ChunkError::OtherSpans.into());
                }
            }
            Body::Records(records) => {
                self.check(chunk.number, records.clone())?;
                self.stage(records)?;
            }
            Body::End { chunks, sum } => {
                if sum != self.sum {
                    return Err(ChunkError::Sum { said: sum, found: self.sum }.into());
                }
                if chunks != chunk.number + 1 {
                    let what = format!("it says that it is the last of {chunks}");
                    return Err(ChunkError::Malformed { number: chunk.number, what }.into());
                }
                self.complete = true;
            }
        }
        self.next += 1;
        Ok(self.complete)
    }

    /// Keys ascend across all chunks and lie in the spans. Looked at before anything is staged.
    fn check(&self, number: u64, records: Records<'_>) -> Result<(), ChunkError> {
        let mut last = (self.sum.records > 0).then_some(self.last_key.as_slice());
        for (index, (key, _)) in records.enumerate() {
            let wrong = if last.is_some_and(|last| key <= last) {
                "is not above the one before"
            } else if !self.spans.contain(key) {
                "is outside of the spans"
            } else {
                last = Some(key);
                continue;
            };
            return Err(ChunkError::Malformed { number, what: format!("the key of record {index} {wrong}") });
        }
        Ok(())
    }

    fn stage(&mut self, records: Records<'_>) -> Result<(), EngineError> {
        let mut stage = self.stage.take().ok_or_else(over)?;
        let mut newest = None;
        for (key, value) in records {
            // On an error the stage is dropped, and with it what it had kept.
            stage.put(key, value)?;
            self.sum.add(key, value);
            newest = Some(key);
        }
        if let Some(key) = newest {
            self.last_key.clear();
            self.last_key.extend_from_slice(key);
        }
        self.stage = Some(stage);
        Ok(())
    }

    /// What has come so far.
    #[must_use]
    pub fn received(&self) -> SpanSum {
        self.sum
    }

    /// The number of the chunk that comes next.
    #[must_use]
    pub fn next_number(&self) -> u64 {
        self.next
    }

    /// Whether the last chunk has come, so that [`Install::finish`] may be called.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.complete
    }

    /// Lets everything in, in one step with `ops`, which come on top: afterwards the spans hold the snapshot and what `ops`
    /// did to it, durably. Blocks on the disk. Gives the sum of the snapshot's records.
    ///
    /// Whatever was written to the engine before this call is durable too when it returns. Batches written meanwhile must not
    /// touch the spans or the keys of `ops`.
    ///
    /// # Errors
    /// [`ChunkError::Incomplete`], and the engine is as it was; [`InstallError::Engine`] as [`Stage::commit`].
    pub fn finish(self, ops: &[WriteOp]) -> Result<SpanSum, InstallError> {
        if !self.complete {
            return Err(ChunkError::Incomplete { next: self.next }.into());
        }
        self.stage.ok_or_else(over)?.commit(ops)?;
        Ok(self.sum)
    }
}

fn over() -> EngineError {
    EngineError::Failed("the engine could not keep an earlier chunk of this snapshot".to_owned())
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::super::chunk::Builder;
    use super::*;
    use crate::{MemoryEngine, Reader};

    fn spans() -> Spans {
        Spans::new(vec![Bytes::from("b")..Bytes::from("d"), Bytes::from("f")..Bytes::from("h")]).unwrap()
    }

    fn records(number: u64, keys: &[&str]) -> Bytes {
        let mut builder = Builder::with_capacity(0);
        keys.iter().for_each(|key| builder.push(key.as_bytes(), b"v"));
        builder.records(1, number)
    }

    fn begun(engine: &MemoryEngine) -> Install {
        let mut install = Install::begin(engine, 1, spans()).unwrap();
        install.add(&Builder::spans(&spans(), 1)).unwrap();
        install
    }

    #[test]
    fn records_out_of_order_or_beside_the_spans_are_refused_before_any_is_kept() {
        let engine = MemoryEngine::new();
        let mut install = begun(&engine);
        install.add(&records(1, &["b", "c"])).unwrap();
        let mut refusal = |keys: &[&str]| install.add(&records(2, keys)).unwrap_err().to_string();
        assert_eq!(refusal(&["c"]), "snapshot chunk 2 is malformed: the key of record 0 is not above the one before");
        assert_eq!(
            refusal(&["g", "f"]),
            "snapshot chunk 2 is malformed: the key of record 1 is not above the one before"
        );
        for outside in ["d", "e", "h"] {
            let wanted = "snapshot chunk 2 is malformed: the key of record 1 is outside of the spans";
            assert_eq!(refusal(&["cc", outside]), wanted);
        }
        install.add(&records(2, &["cc", "f"])).unwrap();
        assert_eq!((install.received().records, install.next_number()), (4, 3));
    }

    #[test]
    fn an_end_that_does_not_add_up_is_refused() {
        let engine = MemoryEngine::new();
        let mut install = begun(&engine);
        install.add(&records(1, &["b"])).unwrap();
        let sum = install.received();
        for wrong in [
            SpanSum { records: 2, ..sum },
            SpanSum { bytes: 3, ..sum },
            SpanSum { crc32c: sum.crc32c ^ 1, ..sum },
            SpanSum::default(),
        ] {
            let error = install.add(&Builder::end(1, 2, wrong)).unwrap_err();
            assert!(
                matches!(error, InstallError::Chunk(ChunkError::Sum { said, found }) if said == wrong && found == sum)
            );
        }
        assert!(install.add(&Builder::end(1, 2, sum)).unwrap());
        let error = install.add(&records(3, &["c"])).unwrap_err();
        assert!(matches!(error, InstallError::Chunk(ChunkError::AfterEnd { found: 3 })), "{error}");
        assert_eq!(install.finish(&[]).unwrap(), sum);
        assert_eq!(engine.get(b"b").unwrap(), Some(Bytes::from("v")));
    }

    #[test]
    fn after_an_error_of_the_engine_the_install_is_over() {
        let engine = MemoryEngine::new();
        let mut install = begun(&engine);
        engine.fail_writes("disk on fire");
        let error = install.add(&records(1, &["b"])).unwrap_err();
        assert!(matches!(&error, InstallError::Engine(EngineError::Failed(why)) if why == "disk on fire"), "{error}");
        let error = install.add(&records(1, &["b"])).unwrap_err();
        assert!(error.to_string().contains("could not keep an earlier chunk"), "{error}");
        assert!(matches!(Install::begin(&engine, 2, spans()), Err(EngineError::Failed(_))));
    }
}
